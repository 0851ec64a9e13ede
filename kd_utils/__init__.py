"""kd_utils: the library under the ImageSharpening-KD notebooks.

Flat on purpose. A module imports only from floors below its own (docs/DESIGN.md):
config, device, sources, images, store < degrade, teacher, student, losses, metrics, tiles, checkpoint, show
< data, train, evaluate, sharpen, export < colab, run, __main__.
"""

__version__ = "0.1.0"
