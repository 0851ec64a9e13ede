"""kd_utils: the library under the ImageSharpening-KD notebooks.

Flat on purpose. A module imports from its own floor or below, never in a circle: the floors are in
tests/test_structure.py and README.md.
"""

__version__ = "0.1.0"
