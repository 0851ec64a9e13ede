"""Any image file in: EXIF orientation, alpha, gray, palette, CMYK, 16 bit, ICC; a bad file is one ImageError.

Pillow reads what has 8 bits a sample and all metadata, deep.py what has more. Depth is taken from the file's own type,
never guessed from its brightest pixel. encode.py writes.
"""

from __future__ import annotations

import io
import math
import re
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from kd_utils.common.errors import ImageError
from kd_utils.imaging.high_bit_depth import ORIENTATION, read_high_bit_depth, read_high_bit_depth_tiff, upright

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
# Pillow refuses above twice its limit (179 megapixels, more than any camera's file) and only warns below that.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
# What Pillow's readers raise for damaged files; TypeError: a TIFF without a width, RuntimeError: AVIF,
# ArithmeticError: a BigTIFF's offsets
BROKEN = (
    OSError, ValueError, SyntaxError, struct.error, EOFError, LookupError, TypeError, RuntimeError, ArithmeticError,
)  # fmt: skip


@dataclass
class Photo:
    """Pixels as they were coded, upright, with what is needed to write them back.

    `pixels` (H, W, 3) RGB or (H, W, 1) gray, uint8 or uint16; `alpha` (H, W) of the same type, not premultiplied.
    `icc` and `exif` are the raw profile and EXIF block (orientation already applied and reset).
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    quality: int = 0  # the JPEG quality it was stored with, as libjpeg counts; 0: not a JPEG
    lossless: bool = True  # how a WebP was coded, so that it is written back alike
    dpi: tuple[float, float] | None = None  # of a print, across and down, where the file says so


def list_files(folder: str | Path) -> list[Path]:
    """The files below `folder`, in a fixed order; hidden ones (`._a.jpg`, `.cache/`) are left out."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"{folder} is not a folder: give one that holds images")
    inside = [(p.relative_to(folder).parts, p) for p in folder.rglob("*")]
    return [p for parts, p in sorted(inside) if not any(part.startswith(".") for part in parts) and p.is_file()]


def list_images(folder: str | Path) -> list[Path]:
    """Those of `list_files` whose suffix is an image's that is read."""
    return [p for p in list_files(folder) if p.suffix.lower() in SUFFIXES]


def read_rgb(source: str | Path | bytes, name: str = "") -> np.ndarray:
    """uint8 (H, W, 3) RGB of any image file or its bytes: 16 bit rounded, gray repeated, alpha laid over white."""
    return to_rgb(read(source, name))


def to_rgb(photo: Photo) -> np.ndarray:
    """uint8 (H, W, 3) RGB of a photo, as `read_rgb`."""
    rgb = to_8_bit(photo.pixels)
    if rgb.shape[2] == 1:
        rgb = np.repeat(rgb, 3, axis=2)
    return rgb if photo.alpha is None else composite_over_white(rgb, to_8_bit(photo.alpha))


def to_8_bit(a: np.ndarray) -> np.ndarray:
    """uint16 rounded to uint8 (65535 is 255); uint8 as it is."""
    return a if a.dtype == np.uint8 else ((a.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def composite_over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """uint8 (H, W, C) with uint8 alpha (H, W) over white."""
    a = alpha[..., None].astype(np.uint16)
    return ((rgb * a + 255 * (255 - a) + 127) // 255).astype(np.uint8)


def read(source: str | Path | bytes, name: str = "") -> Photo:
    """Decode a file or its bytes, in full fidelity and upright.

    Raises ImageError for what is no image, damaged, cut short, animated, of several pages, above 179 megapixels, or
    holds NaN.
    """
    name = name or ("image" if isinstance(source, bytes) else str(source))
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as e:
        raise ImageError(f"{name} cannot be read ({e.strerror}): check the path and its permissions") from e
    if not data:
        raise ImageError(f"{name} is empty (0 bytes): copy or download it again")
    try:
        image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as e:
        raise ImageError(f"{name} claims more than 179 megapixels: it is damaged, or cut it into parts") from e
    except UnidentifiedImageError as e:
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _strange_tiff(data, name)
        raise ImageError(f"{name} is no image that can be read (JPEG, PNG, WebP, TIFF, BMP): convert it first") from e
    except BROKEN as e:
        raise ImageError(f"{name} is damaged ({e}): copy or download it again") from e
    try:
        return _photo(image, data, name)
    except ImageError:
        raise
    except BROKEN as e:
        raise ImageError(f"{name} is damaged or cut short ({e}): copy or download it again") from e


def _photo(image: Image.Image, data: bytes, name: str) -> Photo:
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # MPO: a camera's JPEG with a preview behind it
        what = "an animation" if getattr(image, "is_animated", False) and image.format != "TIFF" else "a file"
        raise ImageError(f"{name} is {what} of {image.n_frames} pictures: save the one you want as a file of its own")
    icc = image.info.get("icc_profile")
    quality = jpeg_quality(image) if image.format in ("JPEG", "MPO") else 0
    lossless = image.format != "WEBP" or _webp_is_lossless(data)
    if image.format == "TIFF":
        bits = max(image.tag_v2.get(258, (1,)))
    else:
        bits = data[24] if image.format == "PNG" else 8
        if bits == 8 and (image.mode[0] in "IF" or (image.format == "PPM" and _peak(data) > 255)):
            raise ImageError(f"{name} is a {image.format} file of more than 8 bits: convert it to a 16-bit PNG or TIFF")
    if bits <= 8:
        image.load()  # before its EXIF is read: Pillow turns a TIFF upright here, by the tag that it then removes
    turn, exif = _exif(image)
    if bits > 8 and image.format == "PNG":
        image.load()  # finds a file cut short, which OpenCV would fill with black
        pixels = upright(read_high_bit_depth(data, name), turn)
        if data[25] == 4:  # OpenCV widens gray with alpha to four channels
            pixels = pixels[..., (0, 3)]
        clear = image.info.get("transparency")
        if data[25] == 0 and clear is not None:  # the gray that is transparent, which OpenCV does not heed
            pixels = np.concatenate([pixels, np.where(pixels == clear, 0, 65535).astype(np.uint16)], axis=2)
    elif bits > 8:
        pixels = read_high_bit_depth_tiff(data, name, image.tag_v2)
    else:
        if image.mode == "CMYK" or image.mode == "LAB":
            image, icc = _to_srgb(image, icc), None
        clear = image.has_transparency_data
        gray = image.mode in ("1", "L", "LA", "La")
        mode = ("LA" if clear else "L") if gray else ("RGBA" if clear else "RGB")
        pixels = upright(_array(image, mode), turn)
    return Photo(*_apart(pixels), icc, exif, quality, lossless, _dpi(image))


def _apart(a: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W, 1 to 4) -> gray or RGB, and the alpha that is last of 2 and 4; none where all is opaque."""
    if a.shape[2] in (1, 3):
        return np.ascontiguousarray(a), None
    alpha = np.ascontiguousarray(a[..., -1])
    return np.ascontiguousarray(a[..., :-1]), None if (alpha == np.iinfo(alpha.dtype).max).all() else alpha


def _peak(data: bytes) -> int:
    """The value of white that a PGM or PPM states; 0 for one that states none."""
    found = re.match(rb"P[2356]\s+(?:(?:#[^\n]*\n\s*)*\d+\s+){2}(?:#[^\n]*\n\s*)*(\d+)", data[:4096])
    return int(found[1]) if found else 0


def _webp_is_lossless(data: bytes) -> bool:
    """Whether the picture's chunk is VP8L; an ICC profile of any length can stand before it."""
    at = 12  # after RIFF, its size, WEBP
    while at + 8 <= len(data) and data[at : at + 4] not in (b"VP8L", b"VP8 "):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return data[at : at + 4] == b"VP8L"


def _array(image: Image.Image, mode: str, rows: int = 512) -> np.ndarray:
    """(H, W, C) uint8, converted by strips: a whole-image copy would cost as much again."""
    out = np.empty((image.height, image.width, len(mode)), np.uint8)
    for y in range(0, image.height, rows):
        strip = image.crop((0, y, image.width, min(y + rows, image.height)))
        out[y : y + rows] = np.asarray(strip.convert(mode)).reshape(-1, image.width, len(mode))
    return out


def _strange_tiff(data: bytes, name: str) -> Photo:
    """A TIFF of floats or the like, which Pillow does not know, though it can read its directory."""
    try:
        file = io.BytesIO(data)
        tags = ImageFileDirectory_v2(data[:8])
        file.seek(tags.next)
        tags.load(file)
        width, height, channels = tags[256], tags[257], tags.get(277, 1)
    except (KeyError, TypeError, ValueError, SyntaxError, OSError, struct.error) as e:
        raise ImageError(f"{name} is damaged ({e}): copy or download it again") from e
    if width * height > 2 * Image.MAX_IMAGE_PIXELS or channels not in (1, 3, 4) or tags.next:
        what = f"{width}x{height} pixels of {channels} samples" + (" and several pages" if tags.next else "")
        raise ImageError(f"{name} is a TIFF of {what}: save it as one gray, RGB or RGBA picture")
    return Photo(*_apart(read_high_bit_depth_tiff(data, name, tags)), tags.get(34675))


def _exif(image: Image.Image) -> tuple[int, bytes | None]:
    """The orientation (1..8), and the EXIF block without it; a block that cannot be read is dropped."""
    try:
        exif = image.getexif()
        exif.bigtiff = False  # of a file beyond 4 GB or not: the block is a small classic one
        turn = exif.get(ORIENTATION, 1)
        if image.format == "TIFF":  # its directory also describes the strips; keep what describes the photo
            keep = {270, 271, 272, 282, 283, 296, 305, 306, 315, 33432, 34665, 34853}
            for tag in [t for t in exif if t not in keep]:
                del exif[tag]
        elif ORIENTATION in exif:
            exif[ORIENTATION] = 1
        return (turn if turn in range(1, 9) else 1), (exif.tobytes() if len(exif) else None)
    except Exception:  # noqa: BLE001 - cameras write every kind of broken EXIF; the picture matters more
        return 1, None


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    """What Pillow makes of JFIF, EXIF, pHYs or TIFF's tags; None where that is no resolution."""
    try:
        x, y = (float(d) for d in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 1 < x < math.inf and 1 < y < math.inf else None  # 1 is what Pillow takes a TIFF without to have


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """CMYK or LAB to sRGB through its own profile; without one, by Pillow's formula."""
    if icc:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            srgb, how = ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC
            bpc = ImageCms.Flags.BLACKPOINTCOMPENSATION  # as image editors do
            return ImageCms.profileToProfile(image, profile, srgb, how, "RGB", flags=bpc)
        except ImageCms.PyCMSError:
            pass
    if image.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, lab, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return image.convert("RGB")


def jpeg_quality(image: Image.Image) -> int:
    """The quality (1..100) whose luminance table, by libjpeg's scaling of the standard one, is nearest."""
    tables = getattr(image, "quantization", None)
    if not tables:
        return 0
    total = sum(tables[min(tables)])

    def gap(quality: int) -> int:
        scale = 5000 // quality if quality < 50 else 200 - 2 * quality
        return abs(total - sum(min(max((b * scale + 50) // 100, 1), 255) for b in LUMA))

    return min(range(1, 101), key=gap)


# The luminance table of the JPEG standard (ITU T.81, table K.1).
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56)
    + (14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92)
    + (49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99)
)
