"""Picture files of every format, damaged, cut off, and with sizes that lie."""

import functools
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from fuzz.odd import bytes_of
from fuzz.target import Target
from pipeline.datasets import images
from pipeline.datasets.contracts import Limits

KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SIZES = [0, 1, 2, 100, 8192, 16_384, 40_000, 65_535, 10**6, 2**31 - 1, 2**31, 2**32 - 1]
LIMITS = Limits(max_pixels=4_000_000, max_bytes=1_000_000)
"""Of a picture here: a small bound shows what comes before it."""


@functools.cache
def files() -> dict[str, bytes]:
    """Small pictures: of each format, progressive, with a palette, with alpha, animated, of 16 bits."""
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 4), dtype=np.uint8)
    rgba, rgb = Image.fromarray(pixels), Image.fromarray(pixels[:, :, :3])
    made: dict[str, bytes] = {}

    def add(name: str, image: Image.Image, kind: str, **options: object) -> None:
        out = io.BytesIO()
        image.save(out, kind, **options)
        made[name] = out.getvalue()

    for kind in KINDS:
        add(kind, rgb, kind)
    add("progressive", rgb, "JPEG", progressive=True)
    add("palette", rgb.quantize(16), "PNG", transparency=3)
    add("alpha", rgba, "PNG")
    add("lossless", rgba, "WEBP", lossless=True)
    add("animated", rgb, "GIF", save_all=True, append_images=[rgb.transpose(Image.Transpose.ROTATE_180)])
    add("animated webp", rgb, "WEBP", save_all=True, append_images=[rgb.transpose(Image.Transpose.ROTATE_180)])
    add("deep", Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257), "PNG")
    add("tagged", rgb, "JPEG", exif=_exif())
    return made


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _announced(name: str, data: bytes, width: int, height: int) -> bytes:
    """A picture whose header announces another size."""
    if data.startswith(b"\x89PNG"):
        header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    if data.startswith(b"GIF8"):
        return data[:6] + struct.pack("<HH", width & 0xFFFF, height & 0xFFFF) + data[10:]
    if data.startswith(b"BM"):
        return data[:18] + struct.pack("<II", width, height) + data[26:]
    if data.startswith(b"\xff\xd8"):
        for mark in (b"\xff\xc0", b"\xff\xc2"):
            at = data.find(mark)
            if at >= 0:
                return data[: at + 5] + struct.pack(">HH", height & 0xFFFF, width & 0xFFFF) + data[at + 9 :]
    if data.startswith(b"RIFF") and data[12:16] == b"VP8 ":
        return data[:26] + struct.pack("<HH", width & 0x3FFF, height & 0x3FFF) + data[30:]
    if data.startswith(b"RIFF") and data[12:16] == b"VP8L":
        bits = (width - 1) & 0x3FFF | ((height - 1) & 0x3FFF) << 14
        return data[:21] + struct.pack("<I", bits) + data[25:]
    if data.startswith(b"RIFF"):
        sizes = ((width - 1) & 0xFFFFFF).to_bytes(3, "little") + ((height - 1) & 0xFFFFFF).to_bytes(3, "little")
        return data[:24] + sizes + data[30:]
    return data


@st.composite
def odd(draw: st.DrawFn) -> bytes:
    name = draw(st.sampled_from(sorted(files())))
    data = files()[name]
    kind = draw(st.sampled_from(("bytes", "bytes", "header", "size", "cut", "other", "tail")))
    if kind == "size":
        data = _announced(name, data, draw(st.sampled_from(SIZES)), draw(st.sampled_from(SIZES)))
        return draw(st.one_of(st.just(data), bytes_of(data)))
    if kind == "cut":
        return data[: draw(st.integers(0, len(data)))]
    if kind == "header":
        at = draw(st.integers(0, min(80, len(data)) - 1))
        return data[:at] + draw(st.binary(min_size=1, max_size=4)) + data[at + 1 :]
    if kind == "other":
        return data[: draw(st.integers(0, 40))] + files()[draw(st.sampled_from(sorted(files())))]
    if kind == "tail":
        return data + draw(st.binary(max_size=64)) * draw(st.integers(1, 50))
    return draw(bytes_of(data))


def read(data: bytes, folder: Path) -> None:
    """The verdict on a picture file, whole and at a JPEG's smaller scale."""
    path = folder / "picture"
    path.write_bytes(data)
    content = images.read_picture(path, LIMITS)
    images.image_key(content)
    image = images.decode(content, LIMITS)
    assert image.mode == "RGB" and image.width * image.height <= LIMITS.max_pixels
    images.decode(content, LIMITS, (8, 8))


def _without_end() -> bytes:
    return files()["JPEG"].removesuffix(b"\xff\xd9")


TARGETS = (
    Target(
        kind="pictures",
        readers=(
            "pipeline.datasets.images:_opened",
            "pipeline.datasets.images:read_picture",
            "pipeline.datasets.images:_jpeg_is_whole",
        ),
        valid=_without_end,
        odd=odd,
        read=read,
        refusals=(images.ImageError,),
        share=16,
    ),
)
