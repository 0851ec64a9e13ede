"""kd_utils: the library under the ImageSharpening-KD notebooks.

Flat on purpose. A module imports from its own floor or below, never in a circle (tests/test_structure.py):
config, device, sources, images, store, tensors, encode, colour
< degrade, student, losses, metrics, tiles, checkpoint, show, report
< teacher, data, export < train, evaluate, sharpen < colab < run, __main__.
"""

__version__ = "0.1.0"
