"""Memory and time of looking at pictures of the largest size that is read, in threads, as preparing and linking do.

python benchmarks/large_pictures.py [--times 6] [--threads 6] [--folder DIR]

Writes 13 pictures of 62 million pixels (WebP: 16 million) to a temporary folder, one of each kind that takes memory of
its own to decode: alpha, deep grey, refined scans, turned by EXIF. Prints a Markdown row for looking at each of them
`--times` times: the most anonymous memory while that went on, and what is left of it afterwards.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _measure import PeakMemory, machine, now
from PIL import Image

from pipeline.datasets.images import DECODING, Limits
from pipeline.datasets.scan import Scan, examine_all

SIDE, TILE = 7900, 79  # pixels


def write(folder: Path) -> list[Path]:
    """One picture of each kind."""
    values = np.tile(np.random.default_rng(0).integers(0, 256, (TILE, TILE, 3), np.uint8), (SIDE // TILE,) * 2 + (1,))
    colour, grey, turned = Image.fromarray(values), values[..., 0], Image.Exif()
    alpha = colour.copy()
    alpha.putalpha(128)
    turned[0x0112] = 6
    pictures: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "colour.png": (colour, {"compress_level": 1}),
        "alpha.png": (alpha, {"compress_level": 1}),
        "grey-alpha.png": (alpha.convert("LA"), {"compress_level": 1}),
        "deep.png": (Image.fromarray(grey.astype(np.uint16) * 257), {"compress_level": 1}),
        "palette.png": (colour.quantize(64), {"compress_level": 1, "transparency": 0}),
        "plain.jpg": (colour, {"quality": 30}),
        "refined.jpg": (colour, {"quality": 30, "progressive": True}),
        "print.jpg": (colour.convert("CMYK"), {"quality": 20}),
        "turned.jpg": (colour, {"quality": 30, "exif": turned}),
        "float.tif": (Image.fromarray(grey.astype(np.float32)), {"compression": "tiff_adobe_deflate"}),
        "palette.gif": (colour.quantize(32), {}),
        "bits.bmp": (colour.convert("1"), {}),
        "colour.webp": (colour.crop((0, 0, 3990, 3990)), {"quality": 20}),
    }
    for name, (picture, options) in pictures.items():
        picture.save(folder / name, **options)
    return [folder / name for name in pictures]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=6)
    parser.add_argument("--threads", type=int, default=6)
    parser.add_argument("--folder", type=Path, help="where the pictures are written; a temporary folder below it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        paths = [str(path) for path in write(Path(place))] * options.times
        with PeakMemory() as memory:
            began = now()
            found = list(examine_all(paths, Limits(), options.threads))
            clock, busy = now() - began
        left = PeakMemory()
        with left:
            pass
    assert all(isinstance(one, Scan) and one.cause is None for one in found), found
    print(f"{machine()}; pictures of other threads wait beyond {DECODING.limit / 1e6:,.0f} MB\n")
    print("| pictures | threads | most, MB | left, MB | s (CPU) |")
    print("|---|---|---|---|---|")
    most, after = ((taken - memory.before) / 1e6 for taken in (memory.peak, left.before))
    print(f"| {len(found)} | {options.threads} | {most:,.0f} | {after:,.0f} | {clock:.0f} ({busy:.0f}) |")


if __name__ == "__main__":
    main()
