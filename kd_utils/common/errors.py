"""Every error that the project raises on purpose: its message names the file or the value, and what to do.

The command line prints the message of a `KDError` on one line; any other exception is a fault of ours and keeps its
traceback.
"""

from __future__ import annotations


class KDError(Exception):
    """Something that can be foreseen to go wrong; the message says what to do about it."""

    exit_code = 1  # of the command line: 1 is a failure of the work, 2 is a wrong call


# ---- a wrong call


class ConfigError(KDError):
    """A setting that is unknown, of the wrong type or out of range."""

    exit_code = 2


class UsageError(KDError):
    """A notebook or parameter that does not exist, or a value of the wrong type."""

    exit_code = 2


# ---- files


class SourceError(KDError):
    """A file that cannot be had, is not what it should be, or cannot be stored."""


class UnknownSource(SourceError):
    """A name of a download that is not known."""

    exit_code = 2


class StoreError(KDError):
    """A file of ours that is damaged, or was made under other settings."""


class BusyError(KDError):
    """A folder in which another process is at work."""


class ImageError(KDError):
    """A file that is no image, is damaged, or cannot be written."""


class CheckpointError(KDError):
    """A file that is no PyTorch checkpoint, or is damaged."""


class StudentError(CheckpointError):
    """A file that holds no student, or a student of another shape."""


class NcnnError(CheckpointError):
    """A file that is no ncnn network, is damaged, or holds a network that is not read."""


class TeacherError(KDError):
    """There is no such teacher, or its file holds no x4 Real-ESRGAN network."""


class VGGError(KDError):
    """VGG19 weights that are missing, damaged or not VGG19's."""


# ---- steps


class DataError(KDError):
    """There are no photos, too few, or photos that cannot be used."""


class TrainError(KDError):
    """Training cannot start or go on. Checkpoints that were made are kept."""


class EvaluateError(KDError):
    """There is nothing to evaluate, or the student does not fit the settings."""


class SharpenError(KDError):
    """An option of `sharpen` that cannot be used."""

    exit_code = 2


class ExportError(KDError):
    """A student that cannot be written in the format that was asked for."""


class UnknownFormat(ExportError):
    """A name of a format that is not known."""

    exit_code = 2


class ColabError(KDError):
    """Something of Colab's (Drive, pip) did not work."""


class RunError(KDError):
    """A notebook cannot be run, or one of its cells failed."""
