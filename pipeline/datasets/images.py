"""Pictures: safe decoding to RGB, and content keys."""

import errno
import io
import os
import re
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from cache.identity import content_key
from cache.shard import Status
from foundation.errors import PassingError, UserError
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
_NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)

Image.init()
if _unread := set(_FORMATS) - set(Image.OPEN):
    raise UserError(f"this Pillow cannot read {', '.join(sorted(_unread))}; install the one of the package index")
# `Limits` is checked before decoding; Pillow's own limit would overrule a higher one and warn below a lower one.
Image.MAX_IMAGE_PIXELS = None
# What Pillow notes about damaged metadata must neither flood the log nor, under `-W error`, become a verdict.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class ImageError(Exception):
    """A picture that cannot be used, now or later.

    status: BROKEN or TOO_LARGE. cause: a short text, the same for all pictures with this fault.
    """

    def __init__(self, status: Status, cause: str) -> None:
        super().__init__(cause)
        self.status, self.cause = status, cause


def image_key(data: bytes) -> bytes:
    """Content key (16 bytes) of a picture file's bytes."""
    return content_key("image", data)


def _ends_early(data: bytes) -> bool:
    """Whether the file stops before the end that its format marks or announces."""
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in data[-4096:]
    if data.startswith(b"\x89PNG"):
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
    if width * height > limits.max_pixels:
        raise ImageError(Status.TOO_LARGE, "too many pixels")


def _rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB: alpha over white; 16-bit grey by its high byte; other deep grey stretched over its own range."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
        low, high = values.min(), values.max()
        return Image.fromarray(((values - low) * (255 / (high - low or 1))).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        if image.mode in ("RGBa", "La"):
            image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def decode_with_size(data: bytes, limits: Limits, draft: tuple[int, int] | None) -> tuple[Image.Image, tuple[int, int]]:
    """As `decode`, with the picture's full upright (width, height) in pixels, whatever the draft."""
    if not data:
        raise ImageError(Status.BROKEN, "empty file")
    if len(data) > limits.max_bytes:
        raise ImageError(Status.TOO_LARGE, "too many bytes")
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # other libraries switch it on for the whole process
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except MemoryError:
        raise
    except Exception as error:
        if _SIGNATURE.match(data):
            raise _broken(data, error) from error
        raise ImageError(Status.BROKEN, "not an image") from error
    try:
        _check_size(image.size, limits)
        full = image.size
        scaled = draft is not None and image.draft(None, draft) is not None
        image.load()
        _check_size(image.size, limits)
        # Loading may change the size: first frames of GIFs, orientation of TIFFs.
        width, height = full if scaled else image.size
        orientation = _orientation(image)
        image = _rgb(image)
        if orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[orientation])
        return image, ((height, width) if orientation in _SIDEWAYS else (width, height))
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise _broken(data, error) from error


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
    return decode_with_size(data, limits, draft)[0]


def read_picture(path: Path, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The bytes of a listed picture file.

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
        if error.errno in _NO_SUCH_FILE:
            raise FileNotFoundError(f"{path}: no such file") from error
        raise PassingError(f"{path}: {error.strerror}") from error
