"""kd_utils: distil Real-ESRGAN into a small student. The library under the ImageSharpening-KD notebooks.

The pipeline, one file a step. A step is one function of the settings, such as ``train(cfg)``:

    prepare.py        step 1, notebook 01: photos into crops, HR and degraded LR
    label.py          step 2, notebook 02: what the teacher makes of each LR crop
    train.py          step 3, notebook 03: the student, and the baseline without a teacher
    evaluate.py       step 4, notebook 04: scores, costs and the report
    sharpen.py        step 5, notebook 05: photos and folders
    look.py           any models compared on a photo of one's own
    export.py         a student in the formats of other programs
    demo.py           a student in the browser, served on this machine

What a run depends on, and where it leaves things:

    config.py         the settings: dataclasses with defaults and ranges
    own_files.py      where the files of the project lie
    presets.py        quick, adapt, colab, full
    overrides.py      ``train.steps=500``: strict, typed, with the nearest name
    workdir.py        the paths of a work folder
    provenance.py     what an artefact was made of

How it is started:

    __main__.py       the command line, ``kd-utils`` or ``python -m kd_utils``
    run_notebooks.py  the notebooks without a browser
    notebook_forms.py their parameters, and what a command gives them
    colab.py          what is different on Google Colab
    forecast.py       what a notebook will download and take, said before
    lessons.py        what the notebooks show of data, labels and training
    lessons_sharpen.py  what they show of a student at work
    uploads.py        photos from the browser and back
    doctor.py         what this machine has, and what it lacks
    badges.py         badges, clone lines and lists of models in the notebooks

What the steps are made of. A folder imports from those below it, never from those above:

    training/         losses, optimizers, initialization, batches, checkpoints
    data/             photos, crops, degradations
    evaluation/       metrics, costs, tables, the report and its pictures
    models/           student, teacher, VGG19, tiling, pruning, file formats
    imaging/          image files in and out, colours, metadata
    common/           files, downloads, devices, errors
"""

__version__ = "0.1.0"
