"""Photos from the browser's computer to a notebook, and back: Colab's own dialogs, elsewhere widgets."""

from __future__ import annotations

import base64
import html
import mimetypes
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kd_utils.colab import absolute, in_colab
from kd_utils.common import files
from kd_utils.common.errors import ColabError
from kd_utils.config import Config
from kd_utils.workdir import Workdir


def upload() -> Any:
    """Ask for photos: Colab's own dialog, which waits, elsewhere a widget, which the next cell reads (`uploaded`)."""
    if in_colab():
        from google.colab import files  # pyright: ignore[reportMissingImports]

        try:
            return files.upload()
        except Exception as e:  # Colab raises whatever its browser half met
            raise ColabError(f"the upload did not work ({e or type(e).__name__}): run this cell again") from e
    from ipywidgets import FileUpload

    return FileUpload(accept="image/*", multiple=True, description="photos")


def uploaded(picked: Any) -> dict[str, bytes]:
    """{file name: bytes} of what `upload` returned: Colab's dict, or the widget of ipywidgets 7 or 8."""
    value = getattr(picked, "value", picked)
    if not isinstance(value, dict):  # ipywidgets 8: a tuple of {"name": ..., "content": ...}
        return {file["name"]: bytes(file["content"]) for file in value}

    photos = {}
    for name, content in value.items():
        if isinstance(content, dict):  # ipywidgets 7: {name: {"content": bytes}}; Colab: {name: bytes}
            content = content["content"]
        photos[name] = bytes(content)
    return photos


def chosen_photos(cfg: Config, photo: str, picked: Any) -> list[Path]:
    """The photos to sharpen: what was uploaded, else the file or folder `photo`, else a sample; says which.

    `picked` is what `upload` returned, or None where nobody asked for an upload.
    """
    sent = uploaded(picked) if picked is not None else {}
    if sent:
        print(f"Sharpens what you uploaded: {', '.join(sent)}.")
        return [files.write_bytes(Workdir.of(cfg).uploads / Path(name).name, data) for name, data in sent.items()]

    instead = absolute(photo) if photo else "the sample chelsea.png"
    if picked is not None:
        print(
            f"NOTHING UPLOADED YET: this run takes {instead} instead. Choose files above, wait until they are there, "
            "then run this cell and those below it again (Run all does not wait for you)."
        )
    else:
        print(f"Sharpens {instead}.")
    if photo:
        return [Path(instead)]

    import skimage

    return [Path(skimage.__file__).parent / "data" / "chelsea.png"]


def download_button(paths: Sequence[Path]) -> Any:
    """A button that brings the file, or a zip of several, to the browser's computer."""
    import ipywidgets

    button = ipywidgets.Button(description="Download", icon="download")
    link = ipywidgets.HTML()

    def bring(_: Any) -> None:
        path = _one_file(paths)
        if in_colab():
            from google.colab import files  # pyright: ignore[reportMissingImports]

            files.download(str(path))
            return
        # the file goes into the page only when it is asked for
        data = base64.b64encode(path.read_bytes()).decode()
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        name = html.escape(path.name)
        link.value = f'<a download="{name}" href="data:{kind};base64,{data}">{name}: click to save it</a>'

    button.on_click(bring)
    return ipywidgets.HBox([button, link])


def _one_file(paths: Sequence[Path]) -> Path:
    """The only path, or a zip of all of them beside the first."""
    if len(paths) == 1:
        return paths[0]
    whole = paths[0].parent / "sharpened.zip"
    with zipfile.ZipFile(whole, "w") as z:  # not compressed: photos are already
        for path in paths:
            z.write(path, path.name)
    return whole
