"""Pictures: safe decoding to RGB, and content keys."""

import contextlib
import errno
import hashlib
import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from cache.identity import content_key
from cache.shard import Status
from foundation.budget import ByteBudget
from foundation.errors import PassingError, UserError
from pipeline.datasets import picture_bombs
from pipeline.datasets.contracts import DEFAULT_LIMITS, Limits

# Formats whose decoders are widely fuzzed and start no other program. Not PostScript, PSD, icons with embedded files.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
_SIGNATURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|BM....\0\0\0\0|II\*\0|MM\0\*", re.DOTALL
)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_ORIENTATION = 0x0112
_PNG = b"\x89PNG\r\n\x1a\n"
# Chunks of PNG that change no pixel and may inflate without end: texts and the colour profile. Of the texts XMP may
# hold the orientation; it is kept where it is not compressed.
_PNG_ASIDE = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_PNG_XMP, _PNG_XMP_BYTES = b"XML:com.adobe.xmp\0\0", 1 << 20
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
# Entropy-coded bytes that a JPEG decoder takes for picture where it still waits for some.
_JPEG_REST = (b"\x2a" * 512, b"\xd5" * 512)
# A WebP takes 16 bytes a pixel to decode, and holds any number of pixels in 2 kB where they have one colour.
_WEBP_PIXELS, _WEBP_PIXELS_PER_BYTE = 16_000_000, 2_000
_SIDE = 1_000_000  # pixels of either side: each row has a cost of its own
_BAND = 2_000_000  # pixels converted at a time: all 64 million at once would need 1.3 GB beside them
# Bytes a pixel that decoding takes at most, measured: 3 to 8 of most kinds, 12 of deep ones, 14 of WebP. A JPEG at a
# smaller scale takes its coefficients, where its scans refine one another.
_PIXEL_BYTES, _DEEP_PIXEL_BYTES, _SCALED_PIXEL_BYTES = 8, 16, 4
DECODING = ByteBudget((1 << 30) + ((os.cpu_count() or 1) << 27))
"""What the pictures that threads decode at a time may take: a picture of the largest size, and some photographs a
core."""
_LAST = 2**63 - 1  # ns: in the year 2262, and of every file from later
_NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)

Image.init()
if _unread := set(_FORMATS) - set(Image.OPEN):
    raise UserError(f"this Pillow cannot read {', '.join(sorted(_unread))}; install the one of the package index")
# `Limits` is checked before decoding; Pillow's own limit would overrule a higher one and warn below a lower one.
Image.MAX_IMAGE_PIXELS = None
# Blocks of more than 32 MB go back to the system when they are freed (glibc, `mallopt`); smaller ones may stay with the
# thread: 1.5 GB after 26 large pictures in six threads.
Image.core.set_block_size(64 << 20)
# What Pillow notes about damaged metadata must neither flood the log nor, under `-W error`, become a verdict.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class ImageError(Exception):
    """A picture that cannot be used, now or later.

    status: BROKEN or TOO_LARGE. cause: a short text, the same for all pictures with this fault.
    """

    def __init__(self, status: Status, cause: str) -> None:
        super().__init__(cause)
        self.status, self.cause = status, cause

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status, self.cause)


def image_key(data: bytes) -> bytes:
    """Content key (16 bytes) of a picture file's bytes."""
    return content_key("image", data)


def _ends_early(data: bytes) -> bool:
    """Whether the file stops before the end that its format marks or announces."""
    if data.startswith(_JPEG_START):
        return _JPEG_END not in data[-4096:]
    if data.startswith(_PNG):
        return b"IEND" not in data[-4096:]
    if data.startswith(b"GIF8"):
        return not data.rstrip(b"\0").endswith(b";")
    if data.startswith(b"RIFF"):
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if data.startswith(b"BM"):
        return len(data) < int.from_bytes(data[2:6], "little")
    return False


def _broken(data: bytes, error: Exception) -> ImageError:
    truncated = "truncated" in str(error).lower() or _ends_early(data)
    return ImageError(Status.BROKEN, "truncated" if truncated else "corrupt data")


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(Status.BROKEN, "no pixels")
    if width * height > limits.max_pixels or max(width, height) > _SIDE:
        raise ImageError(Status.TOO_LARGE, "too many pixels")


def _png_pixels(data: bytes) -> bytes:
    """A PNG file without the chunks that only describe it, so that none of them decides whether it can be read."""
    kept, place = [_PNG], len(_PNG)
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        xmp = end - place < _PNG_XMP_BYTES and data.startswith(_PNG_XMP, place + 8)
        if xmp or data[place + 4 : place + 8] not in _PNG_ASIDE:
            kept.append(data[place:end])
        place = end
    return b"".join([*kept, data[place:]])


def _set_transparent(image: Image.Image, data: bytes) -> None:
    """Give a PNG's transparent value in the depth of the decoded pixels; Pillow leaves it in that of the file.

    16-bit colours are decoded to their high bytes, so the transparent one takes those of the same high bytes with it.
    """
    value, depth = image.info.get("transparency"), data[24]
    if image.mode == "L" and isinstance(value, int) and depth < 8:
        image.info["transparency"] = value * 255 // ((1 << depth) - 1)
    elif image.mode == "RGB" and isinstance(value, tuple) and depth == 16:
        image.info["transparency"] = tuple(channel >> 8 for channel in value)


def _jpeg_is_whole(data: bytes) -> bool:
    """Whether a JPEG that lacks its end mark has all its pixels.

    A decoder that has them passes over what follows; one that waits for more takes it for picture. So the file, decoded
    with the end mark alone and with further bytes before it, must look the same. Where scans refine one another, all
    must have come.
    """
    if not _has_all_scans(data):
        return False
    looks = (_digest(Image.open(io.BytesIO(data + rest + _JPEG_END), formats=("JPEG",))) for rest in (b"", *_JPEG_REST))
    plain = next(looks)
    return all(other == plain for other in looks)


def _digest(image: Image.Image) -> bytes:
    """Of the pixels, taken a band at a time."""
    digest = hashlib.blake2b()
    for top, end in _bands(image):
        digest.update(image.crop((0, top, image.width, end)).tobytes())
    return digest.digest()


def _bands(image: Image.Image) -> list[tuple[int, int]]:
    """First row, and row behind the last, of parts of about `_BAND` pixels."""
    rows = max(1, _BAND // image.width)
    return [(top, min(top + rows, image.height)) for top in range(0, image.height, rows)]


def _has_all_scans(data: bytes) -> bool:
    """Whether a JPEG's scans hold each component's 64 coefficients down to the last bit (ITU-T T.81, B.2.2, B.2.3)."""
    missing: dict[int, set[int]] = {}
    place = 2
    while (place := data.find(b"\xff", place)) >= 0 and place + 4 <= len(data):
        mark = data[place + 1]
        if mark in (0x00, 0x01, 0xFF, *range(0xD0, 0xDA)):  # inside a scan, or a mark without a segment
            place += 1 if mark == 0xFF else 2
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        segment = data[place + 4 : end]
        if mark in (0xC0, 0xC1, 0xC2):
            missing = {component: set(range(64)) for component in segment[6::3]}
        elif mark == 0xDA and len(segment) == 4 + 2 * segment[0]:
            first, last, bits = segment[-3:]
            for component in segment[1:-3:2]:
                if bits & 0x0F == 0:
                    missing.get(component, set()).difference_update(range(first, last + 1))
        place = end
    return bool(missing) and not any(missing.values())


def _rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB: alpha over white; 16-bit grey by its high byte; other deep grey stretched over its own range."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8)
        grey[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F"):
        return _stretched(image)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        return _over_white(image)
    return image.convert("RGB")


def _stretched(image: Image.Image) -> Image.Image:
    """Deep grey over its own range, in RGB. Values that are not finite count as 0."""
    deep, bands = np.asarray(image), _bands(image)

    def finite(top: int, end: int) -> np.ndarray:
        return np.nan_to_num(deep[top:end].astype(np.float64), posinf=0, neginf=0)

    low = min(finite(*band).min() for band in bands)
    high = max(finite(*band).max() for band in bands)
    grey = np.empty(deep.shape, np.uint8)
    for top, end in bands:
        grey[top:end] = (finite(top, end) - low) * (255 / (high - low or 1))
    return Image.fromarray(grey).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """A picture with alpha, or with a transparent colour, over white, in RGB."""
    flat = Image.new("RGB", image.size)
    for top, end in _bands(image):
        band = image.crop((0, top, image.width, end))
        if band.mode in ("RGBa", "La"):
            band = band.convert("RGBA" if band.mode == "RGBa" else "LA")
        band = band.convert("RGBA")
        white = Image.new("RGBA", band.size, (255, 255, 255, 255))
        flat.paste(Image.alpha_composite(white, band).convert("RGB"), (0, top))
    return flat


@contextlib.contextmanager
def decoding(
    data: bytes, limits: Limits, draft: tuple[int, int] | None = None
) -> Iterator[tuple[Image.Image, tuple[int, int]]]:
    """Inside, the picture is decoded as `decode` gives it, with its full upright (width, height) in pixels, whatever
    the draft.

    It waits until the memory that it takes is free of other threads' pictures (`DECODING`), and keeps it from them:
    work on the picture belongs inside, another picture does not. Raises as `decode`.
    """
    image = _opened(data, limits)
    size = image.width * image.height
    if image.format == "JPEG" and draft is not None:
        size *= _SCALED_PIXEL_BYTES
    else:
        size *= _DEEP_PIXEL_BYTES if image.format == "WEBP" or image.mode[0] in "IF" else _PIXEL_BYTES
    with DECODING.holding(size):
        yield _decoded(image, data, limits, draft)


def _opened(data: bytes, limits: Limits) -> Image.Image:
    """A picture of which the head is read alone. Raises `ImageError` for what it says."""
    if not data:
        raise ImageError(Status.BROKEN, "empty file")
    if len(data) > limits.max_bytes:
        raise ImageError(Status.TOO_LARGE, "too many bytes")
    if cause := picture_bombs.excess(data):
        raise ImageError(Status.TOO_LARGE, cause)
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # other libraries switch it on for the whole process
    pixels = _png_pixels(data) if data.startswith(_PNG) else data
    try:
        image: Image.Image = Image.open(io.BytesIO(pixels), formats=_FORMATS)
    except MemoryError:
        raise
    except Exception as error:
        if _SIGNATURE.match(data):
            raise _broken(data, error) from error
        raise ImageError(Status.BROKEN, "not an image") from error
    _check_size(image.size, limits)
    few = max(_WEBP_PIXELS, len(data) * _WEBP_PIXELS_PER_BYTE)
    if image.format == "WEBP" and image.width * image.height > few:
        raise ImageError(Status.TOO_LARGE, "too many pixels for so small a file")
    return image


def _decoded(
    image: Image.Image, data: bytes, limits: Limits, draft: tuple[int, int] | None
) -> tuple[Image.Image, tuple[int, int]]:
    """The pixels of a file that was opened, and its full size. data: the file's bytes."""
    try:
        return _loaded(image, data, limits, draft)
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        failure = _broken(data, error)
        try:
            whole = image.format == "JPEG" and not data.endswith(_JPEG_END) and _jpeg_is_whole(data.rstrip(b"\xff"))
        except MemoryError:
            raise
        except Exception:
            whole = False
        if not whole:
            raise failure from error
    ended = data.rstrip(b"\xff") + _JPEG_END
    return _decoded(_opened(ended, limits), ended, limits, draft)


def _loaded(
    image: Image.Image, data: bytes, limits: Limits, draft: tuple[int, int] | None
) -> tuple[Image.Image, tuple[int, int]]:
    """As `_decoded`, of a file that ends with the mark of its end."""
    full = image.size
    scaled = draft is not None and image.draft(None, draft) is not None
    image.load()
    _check_size(image.size, limits)
    # Loading may change the size: first frames of GIFs, orientation of TIFFs.
    width, height = full if scaled else image.size
    orientation = _orientation(image)
    if data.startswith(_PNG):
        _set_transparent(image, data)
    image = _rgb(image)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    return image, ((height, width) if orientation in _SIDEWAYS else (width, height))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 where there is none that can be read. The picture must be loaded: some formats keep it behind
    the pixels.
    """
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:
        return 1
    return value if isinstance(value, int) and value in range(1, 9) else 1


def decode(data: bytes, limits: Limits = DEFAULT_LIMITS, draft: tuple[int, int] | None = None) -> Image.Image:
    """Decode a picture file's bytes to an upright `PIL.Image` in mode RGB (uint8), the first frame of an animation.

    draft: decode a JPEG at the smallest of its built-in scales that is not below this (width, height); same verdict, a
    fraction of the time. Thread-safe. Raises `ImageError` for files that are no usable picture (a header that announces
    too many pixels is enough) and `MemoryError`.
    """
    with decoding(data, limits, draft) as (image, _):
        return image


def container(path: Path) -> Path | None:
    """The HDF5 file that holds a picture listed as FILE/GROUP/NAME; None for a picture that is a file itself."""
    file = path.parent.parent
    return file if len(path.parents) > 2 and os.path.isfile(file) else None  # False for names that no file can have


def picture_stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and mtime in ns of a picture file, or of the file that holds the picture. Raises `OSError`."""
    try:
        status = os.stat(path)
    except NotADirectoryError:
        status = os.stat(container(path) or path)
    return status.st_size, min(status.st_mtime_ns, _LAST)


def _contained(file: Path, path: Path, limits: Limits) -> bytes:
    from cache import foreign

    try:
        return foreign.read_bytes(file, path.parent.name, path.name, limits.max_bytes)
    except foreign.Unusable as error:
        raise ImageError(Status.TOO_LARGE if error.too_large else Status.BROKEN, error.cause) from error


def read_picture(path: Path, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The bytes of a listed picture: of a file, or of FILE/GROUP/NAME in an HDF5 file.

    Raises `FileNotFoundError` where there is none, `ImageError` where it is no regular file or too large to be read,
    and `PassingError` where it cannot be read now.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a folder; or a pipe, which would never end
            raise ImageError(Status.BROKEN, "not a file")
        if status.st_size > limits.max_bytes:
            raise ImageError(Status.TOO_LARGE, "too many bytes")
        with open(path, "rb") as handle:
            return handle.read()
    except OSError as error:
        if error.errno == errno.ENOTDIR and (file := container(path)) is not None:
            return _contained(file, path, limits)
        if error.errno in _NO_SUCH_FILE:
            raise FileNotFoundError(f"{path}: no such file") from error
        raise PassingError(f"{path}: {error.strerror}") from error
