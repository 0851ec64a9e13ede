"""Pictures and image files made for tests, the damaged ones in `BAD` with what the error must say."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import skimage.data
import tifffile
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms
from torch import Tensor

from kd_utils.common.tensors import to_tensor
from kd_utils.imaging import writing
from kd_utils.imaging.reading import Photo

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def picture(h: int = 23, w: int = 37, c: int = 3, dtype: type = np.uint8) -> np.ndarray:
    """Smooth, so that lossy formats keep it: (h, w, c)."""
    y, x = np.mgrid[0:h, 0:w] / max(h, w)
    waves = [np.sin(5 * x + i) * np.cos(4 * y - i) * 0.4 + 0.5 for i in range(c)]
    return np.rint(np.stack(waves, 2) * np.iinfo(dtype).max).astype(dtype)


def photo(h: int, w: int, seed: int = 0) -> np.ndarray:
    """A natural-looking picture: smooth colour fields with edges and fine grain, (h, w, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((1, 3, 6, 6))).float()
    smooth = F.interpolate(coarse, size=(h, w), mode="bicubic")[0].permute(1, 2, 0).numpy()
    y, x = np.mgrid[:h, :w]
    edges = 0.25 * ((x // 9 + y // 13) % 2)[..., None]
    return ((smooth * 0.7 + edges + 0.03 * rng.standard_normal((h, w, 3))).clip(0, 1) * 255).astype(np.uint8)


def photo_tensor(height: int, width: int) -> Tensor:
    """(1, 3, height, width) in [0, 1] of a photo that is inside scikit-image."""
    return to_tensor(skimage.data.astronaut()[None, 60 : 60 + height, 180 : 180 + width])


def exif(orientation: int = 1) -> Image.Exif:
    block = Image.Exif()
    block[0x0112], block[271] = orientation, "Maker"
    block.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    block.get_ifd(0x8769)[0xA002] = 37
    return block


def file(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def written(photo: Photo, suffix: str) -> bytes:
    return writing.encode(photo, suffix)


def tiff(a: np.ndarray, planar: bool = False, **options) -> bytes:
    """Gray (H, W) or (H, W, C), as tifffile writes it."""
    buffer = io.BytesIO()
    kind, how = "rgb" if a.ndim == 3 else "minisblack", "separate" if planar else "contig"
    options = {"photometric": kind, "planarconfig": how} | options
    tifffile.imwrite(buffer, np.moveaxis(a, 2, 0) if planar else a, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG header of 30000x30000 and no data behind it."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    head = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + head + struct.pack(">I", 1 << 20) + b"IDAT"


def tiff_bomb() -> bytes:
    """A TIFF directory of 30000x30000 floats and nothing behind it."""
    tags = [(256, 4, 1, 30000), (257, 4, 1, 30000), (258, 3, 1, 32), (277, 3, 1, 3), (339, 3, 1, 3), (273, 4, 1, 8)]
    entries = b"".join(struct.pack("<HHII", *t) for t in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def floats(value: float) -> bytes:
    a = np.full((5, 5, 3), 0.5, np.float32)
    a[2, 2] = value
    return cv2.imencode(".tif", a)[1].tobytes()


def frames(kind: str) -> bytes:
    pages = [Image.fromarray(np.roll(picture(), 5 * i, axis=0)) for i in range(3)]
    return file(pages[0], kind, save_all=True, append_images=pages[1:])


def widthless(data: bytes) -> bytes:
    """A TIFF whose directory lacks tag 256: its number is changed to one that nobody knows."""
    return data.replace(struct.pack("<HH", 256, 4), struct.pack("<HH", 60000, 4), 1)


BAD = {
    "text.png": (lambda: b"hello, this is text\n" * 20, "no image"),
    "page.jpg": (lambda: b"<!DOCTYPE html><html></html>", "no image"),
    "empty.jpg": (lambda: b"", "empty"),
    "cut.jpg": (lambda: file(Image.fromarray(picture(200, 200)), "JPEG")[:1500], "cut short"),
    "cut.png": (lambda: file(Image.fromarray(picture(200, 200)), "PNG")[:-2000], "cut short"),
    "cut16.png": (lambda: cv2.imencode(".png", picture(200, 200, dtype=np.uint16))[1].tobytes()[:-9000], "damaged"),
    "cut16.tif": (lambda: cv2.imencode(".tif", picture(200, 200, dtype=np.uint16))[1].tobytes()[:-9000], "damaged"),
    "cut.webp": (lambda: file(Image.fromarray(picture(200, 200)), "WEBP")[:-300], "damaged"),
    "head.jpg": (lambda: file(Image.fromarray(picture()), "JPEG")[:12], "no image|damaged"),
    "bomb.png": (bomb, "179 megapixels"),
    "bomb.tif": (tiff_bomb, "30000x30000"),
    "lab16.tif": (lambda: tiff(picture(dtype=np.uint16), photometric="cielab"), "neither gray nor RGB"),
    "planes.tif": (lambda: tiff(picture(dtype=np.uint16), True)[:-900], "cut short"),
    "nan.tif": (lambda: floats(np.nan), "NaN or infinity at 1 pixels"),
    "inf.tif": (lambda: floats(np.inf), "NaN or infinity"),
    "hdr.tif": (lambda: floats(12.0), r"scale them to \[0, 1\]"),
    "tagless.tif": (lambda: widthless(file(Image.fromarray(picture()), "TIFF")), "damaged"),
    "pgm16.png": (lambda: cv2.imencode(".pgm", picture(c=1, dtype=np.uint16))[1].tobytes(), "16-bit PNG or TIFF"),
    "ppm16.png": (lambda: cv2.imencode(".ppm", picture(dtype=np.uint16))[1].tobytes(), "16-bit PNG or TIFF"),
    "jp2.png": (lambda: file(Image.fromarray(picture(c=1, dtype=np.uint16)[..., 0]), "JPEG2000"), "more than 8 bits"),
    "moving.gif": (lambda: frames("GIF"), "animation of 3 pictures"),
    "pages.tif": (lambda: frames("TIFF"), "a file of 3 pictures"),
    "moving.webp": (lambda: frames("WEBP"), "animation of 3 pictures"),
}
