"""Safe decoding: every kind of picture becomes RGB, every kind of damage its constant cause."""

import errno
import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFile

from cache.identity import content_key
from cache.shard import Status
from foundation.errors import PassingError
from pipeline.datasets import images
from pipeline.datasets import scan as scanning
from pipeline.datasets.images import ImageError, Limits, decode, image_key
from pipeline.datasets.scan import scan


def drawn(mode: str = "RGB", size: tuple[int, int] = (96, 64)) -> Image.Image:
    image = Image.new("RGB", size, (200, 30, 30))
    ImageDraw.Draw(image).rectangle((0, 0, size[0] // 2, size[1] // 2), fill=(20, 40, 220))
    return image.convert(mode)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


def png(size: tuple[int, int], pixels: bytes, depth: int = 8, colours: int = 2, **chunks: bytes) -> bytes:
    """A PNG file with further chunks before the pixels. colours: 0 grey, 2 RGB. pixels: rows, each behind a 0."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colours, 0, 0, 0))
    others = b"".join(chunk(kind.encode(), data) for kind, data in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + header + others + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and has next to nothing behind it."""
    return png((width, height), b"\0" * 1000)


def sixteen_bit() -> bytes:
    values = np.zeros((64, 96), np.uint16)
    values[:, 48:] = 65535
    return encoded(Image.fromarray(values), "PNG")


def animated(format: str) -> bytes:
    return encoded(drawn(), format, save_all=True, append_images=[Image.new("RGB", (96, 64), (0, 255, 0))] * 3)


GOOD = {
    "jpeg": encoded(drawn(), "JPEG", quality=95),
    "progressive": encoded(drawn(), "JPEG", quality=95, progressive=True),
    "cmyk": encoded(drawn("CMYK"), "JPEG", quality=95),
    "grey": encoded(drawn("L"), "JPEG"),
    "png": encoded(drawn(), "PNG"),
    "palette": encoded(drawn("P"), "PNG"),
    "rgba": encoded(drawn("RGBA"), "PNG"),
    "grey and alpha": encoded(drawn("LA"), "PNG"),
    "one bit": encoded(drawn("1"), "PNG"),
    "16 bit": sixteen_bit(),
    "gif": encoded(drawn(), "GIF"),
    "animated gif": animated("GIF"),
    "animated webp": animated("WEBP"),
    "animated png": animated("PNG"),
    "webp": encoded(drawn(), "WEBP"),
    "bmp": encoded(drawn(), "BMP"),
    "tiff": encoded(drawn(), "TIFF"),
    "32 bit float": encoded(Image.fromarray(np.linspace(0, 1, 96 * 64, dtype=np.float32).reshape(64, 96)), "TIFF"),
}


@pytest.mark.parametrize("kind", GOOD)
def test_every_kind_of_picture_becomes_rgb(kind):
    image = decode(GOOD[kind])
    assert (image.mode, image.size, np.asarray(image).dtype) == ("RGB", (96, 64), np.uint8)


@pytest.mark.parametrize(
    "kind",
    [
        "jpeg",
        "progressive",
        "cmyk",
        "png",
        "palette",
        "rgba",
        "gif",
        "animated gif",
        "animated webp",
        "animated png",
        "webp",
        "bmp",
        "tiff",
    ],
)
def test_colours_survive(kind):
    pixels = np.asarray(decode(GOOD[kind])).astype(int)
    assert np.abs(pixels[10, 10] - (20, 40, 220)).max() < 30
    assert np.abs(pixels[60, 90] - (200, 30, 30)).max() < 40


def test_sixteen_bits_become_eight_without_clipping_or_wrapping():
    pixels = np.asarray(decode(GOOD["16 bit"]))
    assert pixels[0, 0].tolist() == [0, 0, 0] and pixels[0, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_become_white_not_black(mode):
    assert np.asarray(decode(encoded(Image.new(mode, (8, 8)), "PNG"))).min() == 255


def test_a_transparent_palette_entry_becomes_white():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((0, 0), 1)
    pixels = np.asarray(decode(encoded(image, "PNG", transparency=0)))
    assert pixels[1, 1].tolist() == [255, 255, 255] and pixels[0, 0].tolist() == [255, 0, 0]


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


TRANSPARENT_COLOUR = {  # a PNG's bits a channel: the picture, its pixels over white
    "grey, 1 bit": (png((2, 1), b"\0\x40", 1, 0, tRNS=words(0)), [255, 255]),
    "grey, 2 bits": (png((4, 1), b"\0\x1b", 2, 0, tRNS=words(2)), [0, 85, 255, 255]),
    "grey, 4 bits": (png((2, 1), b"\0\x3a", 4, 0, tRNS=words(10)), [51, 255]),
    "grey, 8 bits": (png((2, 1), b"\0\x0a\xc8", 8, 0, tRNS=words(200)), [10, 255]),
    "grey, 16 bits": (png((3, 1), b"\0" + words(2560, 51201, 51202), 16, 0, tRNS=words(51201)), [10, 255, 200]),
    "RGB, 8 bits": (png((2, 1), bytes([0, 9, 9, 9, 200, 100, 50]), tRNS=words(200, 100, 50)), [9, 255]),
    "RGB, 16 bits": (
        png((2, 1), b"\0" + words(2570, 2570, 2570, 51201, 25601, 12801), 16, tRNS=words(51201, 25601, 12801)),
        [10, 255],
    ),
}


@pytest.mark.parametrize("kind", TRANSPARENT_COLOUR)
def test_the_transparent_colour_of_a_png_becomes_white_at_every_depth(kind):
    data, shown = TRANSPARENT_COLOUR[kind]
    assert np.asarray(decode(data)).tolist() == [[[value] * 3 for value in shown]]


def test_alpha_is_put_over_white_in_a_picture_of_many_bands():
    alpha = np.random.default_rng(0).integers(0, 256, (700, 5, 4), np.uint8)
    image = Image.fromarray(alpha, "RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    assert decode(encoded(image, "PNG")).tobytes() == Image.alpha_composite(white, image).convert("RGB").tobytes()


ASIDE = {  # chunks that describe a picture and inflate to 30 MB
    "zTXt": b"Comment\0\0" + zlib.compress(b"x" * 30_000_000),
    "iTXt": b"Comment\0\1\0\0\0" + zlib.compress(b"x" * 30_000_000),
    "iCCP": b"profile\0\0" + zlib.compress(b"x" * 30_000_000),
    "tEXt": b"Comment\0" + b"x" * 30_000_000,
}


@pytest.mark.parametrize("kind", ASIDE)
def test_what_only_describes_a_png_does_not_cost_the_picture(kind):
    data = png((2, 1), bytes([0, 9, 9, 9, 200, 100, 50]), **{kind: ASIDE[kind]})
    assert np.asarray(decode(data)).tolist() == [[[9, 9, 9], [200, 100, 50]]]


def test_an_orientation_in_xmp_is_applied():
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<rdf:Description tiff:Orientation="3"/>'
    data = png((2, 1), bytes([0, 9, 9, 9, 200, 100, 50]), iTXt=xmp)
    assert np.asarray(decode(data)).tolist() == [[[200, 100, 50], [9, 9, 9]]]


def noise(size: tuple[int, int] = (217, 133)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))


JPEGS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "colours whole": {"subsampling": 0},
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("picture", [noise(), drawn()], ids=["noise", "drawn"])
def test_a_jpeg_that_lacks_its_end_mark_alone_is_whole(kind, picture):
    data = encoded(picture, "JPEG", quality=95, **JPEGS[kind])
    for short in (data[:-2], data[:-1]):
        assert decode(short).tobytes() == decode(data).tobytes()
        assert decode(short, draft=(32, 32)).tobytes() == decode(data, draft=(32, 32)).tobytes()
    for missing in (4, 5, 8, 16, 64):
        with pytest.raises(ImageError, match="truncated"):
            decode(data[:-missing])
        with pytest.raises(ImageError, match="truncated"):
            decode(data[:-missing], draft=(32, 32))


def test_a_progressive_jpeg_that_ends_between_two_scans_is_truncated():
    data = encoded(noise(), "JPEG", quality=95, progressive=True)
    scans = [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"]
    assert len(scans) > 5
    for place in scans[1:]:
        with pytest.raises(ImageError, match="truncated"):
            decode(data[: data.rindex(b"\xff\xc4", 0, place)])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(format, orientation):
    upright = drawn()
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that a viewer takes back
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(encoded(stored, format, exif=exif))
    assert image.size == upright.size
    assert np.abs(np.asarray(image).astype(int) - np.asarray(upright)).mean() < 3
    assert np.asarray(image)[10, 10, 2] > 150


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_malformed_exif_does_not_cost_the_picture():
    assert decode(encoded(drawn(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")).size == (96, 64)


BAD = {
    "empty file": (b"", Status.BROKEN),
    "not an image": (b"<html>404 Not Found</html>" * 40, Status.BROKEN),
    "truncated": (GOOD["jpeg"][: len(GOOD["jpeg"]) // 2], Status.BROKEN),
    "corrupt data": (b"\x89PNG\r\n\x1a\n" + b"\1" * 300 + GOOD["png"][-12:], Status.BROKEN),
    "too many pixels": (png_header(50_000, 50_000), Status.TOO_LARGE),
}


@pytest.mark.parametrize("cause", BAD)
def test_every_kind_of_damage_has_its_cause(cause):
    data, status = BAD[cause]
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert (caught.value.status, caught.value.cause) == (status, cause)


@pytest.mark.parametrize("kind", ["jpeg", "progressive", "png", "gif", "webp", "bmp", "tiff"])
def test_a_cut_picture_is_never_shown(kind):
    data = GOOD[kind]
    for length in range(0, len(data) * 9 // 10, max(1, len(data) // 40)):
        with pytest.raises(ImageError) as caught:
            decode(data[:length])
        assert caught.value.status == Status.BROKEN


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"8BPS" + b"\0" * 100,
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"BMW builds cars",
        encoded(drawn(), "ICO"),
        encoded(drawn(), "PPM"),
    ],
)
def test_formats_outside_the_list_are_not_images(data):
    with pytest.raises(ImageError, match="not an image"):
        decode(data)


def test_the_limit_decides_and_pillows_own_does_not():
    big = encoded(Image.new("1", (14_000, 13_000)), "PNG")  # above the size at which Pillow itself refuses
    assert decode(big, Limits(max_pixels=14_000 * 13_000)).size == (14_000, 13_000)
    with pytest.raises(ImageError, match="too many pixels"):
        decode(big, Limits(max_pixels=14_000 * 13_000 - 1))


def test_too_many_bytes_are_refused():
    with pytest.raises(ImageError) as caught:
        decode(GOOD["jpeg"], Limits(max_bytes=len(GOOD["jpeg"]) - 1))
    assert (caught.value.status, caught.value.cause) == (Status.TOO_LARGE, "too many bytes")
    assert decode(GOOD["jpeg"], Limits(max_bytes=len(GOOD["jpeg"]))).size == (96, 64)


def test_truncation_is_found_though_another_library_allowed_it(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ImageError, match="truncated"):
        decode(BAD["truncated"][0])


def verdict(data: bytes, draft: tuple[int, int] | None) -> tuple:
    try:
        decode(data, draft=draft)
        return (Status.OK, None)
    except ImageError as error:
        return (error.status, error.cause)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_draft_reaches_the_verdict_of_the_full_picture(options):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (133, 217, 3), np.uint8))
    data = encoded(noise, "JPEG", **options)
    lengths = [*range(0, len(data), len(data) // 60), *range(len(data) - 40, len(data) + 1)]
    full = [verdict(data[:length], None) for length in lengths]
    assert [verdict(data[:length], (32, 32)) for length in lengths] == full
    assert full[-1] == (Status.OK, None) and full[len(full) // 4] == (Status.BROKEN, "truncated")
    small = decode(data, draft=(32, 32))
    assert 32 <= min(small.size) < 133


def test_decoding_in_threads_gives_the_pixels_of_decoding_alone():
    alone = {kind: decode(data).tobytes() for kind, data in GOOD.items()}
    kinds = list(GOOD) * 8
    with ThreadPoolExecutor(8) as pool:
        together = pool.map(lambda kind: decode(GOOD[kind]).tobytes(), kinds)
        assert all(pixels == alone[kind] for kind, pixels in zip(kinds, together, strict=True))


@pytest.fixture
def folder(tmp_path):
    files = {
        **{f"{kind}.img": data for kind, data in GOOD.items()},
        **{f"{cause}.img": data for cause, (data, _) in BAD.items()},
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    return tmp_path


def test_scan_gives_the_verdict_of_decode_for_every_file(folder):
    paths = sorted(folder.glob("*.img"))
    for path, found in zip(paths, scan(paths, workers=3), strict=True):
        data = path.read_bytes()
        assert (found.status, found.cause) == verdict(data, None)
        assert found.key == image_key(data) == content_key("image", data)
        assert (found.width, found.height) == ((96, 64) if found.status == Status.OK else (0, 0))


def test_scan_reports_the_upright_size_of_the_whole_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "turned.jpg").write_bytes(encoded(drawn(size=(1200, 800)), "JPEG", exif=exif))
    assert scan([tmp_path / "turned.jpg"])[0][3:] == (800, 1200)


def test_what_is_no_file_gets_a_verdict_and_does_not_block(folder):
    found = scan(
        [
            folder / "folder.jpg",
            folder / "pipe.jpg",
            folder / "loop.jpg",
            folder / "gone.jpg",
            folder / "jpeg.img" / "x.jpg",
            folder / ("x" * 300),
            folder / ("x/" * 3000) / "y.jpg",
            None,
        ]
    )
    assert [scanned.cause for scanned in found] == [
        "not a file",
        "not a file",
        "no such file",
        "no such file",
        "no such file",
        "no such file",
        "no such file",
        "not listed",
    ]
    assert [scanned.status for scanned in found] == [Status.BROKEN] * 2 + [Status.MISSING] * 6


def test_oversized_file_is_not_read(folder):
    with open(folder / "huge.jpg", "wb") as handle:
        handle.truncate(1 << 40)  # sparse
    assert scan([folder / "huge.jpg"])[0] == (Status.TOO_LARGE, "too many bytes", None, 0, 0)


def test_a_picture_dated_after_2262_is_remembered_like_others(tmp_path):
    path = tmp_path / "later.png"
    path.write_bytes(GOOD["png"])
    os.utime(path, (32_503_680_000, 32_503_680_000))
    first = scan([path], memo=tmp_path / "memo.parquet")
    path.write_bytes(bytes(len(GOOD["png"])))
    os.utime(path, (32_503_680_000, 32_503_680_000))
    assert scan([path], memo=tmp_path / "memo.parquet") == first and first[0].status == Status.OK


def test_an_unreadable_file_is_a_passing_failure_and_the_other_verdicts_are_kept(folder, tmp_path, monkeypatch):
    good, failing = folder / "jpeg.img", folder / "png.img"
    memo = tmp_path / "memo.parquet"

    def reading(path, *rest, **options):
        if str(path) == str(failing):
            raise OSError(errno.EIO, "Input/output error")
        return open(path, *rest, **options)

    monkeypatch.setattr(images, "open", reading, raising=False)
    with pytest.raises(PassingError, match=r"1 of 2 pictures.*png\.img: Input/output error"):
        scan([good, failing], memo=memo)
    monkeypatch.undo()
    stamp = good.stat().st_mtime_ns
    good.write_bytes(b"\0" * len(GOOD["jpeg"]))
    os.utime(good, ns=(stamp, stamp))
    assert [found.status for found in scan([good, failing], memo=memo)] == [Status.OK, Status.OK]


def test_an_unchanged_picture_is_not_read_again_and_a_replaced_one_is(tmp_path):
    path, memo = tmp_path / "a.jpg", tmp_path / "memo" / "pictures.parquet"
    path.write_bytes(GOOD["jpeg"])
    stamp = path.stat().st_mtime_ns
    first = scan([path], memo=memo)
    path.write_bytes(b"\0" * len(GOOD["jpeg"]))
    os.utime(path, ns=(stamp, stamp))  # the same size and time: taken for the old one
    assert scan([path], memo=memo) == first
    assert scan([path], memo=memo, rescan=True)[0].cause == "not an image"
    path.write_bytes(GOOD["jpeg"])
    os.utime(path, ns=(stamp + 1, stamp + 1))
    assert scan([path], memo=memo) == first


def test_other_limits_are_not_answered_from_the_memo(tmp_path):
    path, memo = tmp_path / "a.jpg", tmp_path / "memo.parquet"
    path.write_bytes(GOOD["jpeg"])
    assert scan([path], memo=memo)[0].status == Status.OK
    assert scan([path], Limits(max_pixels=100), memo=memo)[0].status == Status.TOO_LARGE


@pytest.mark.parametrize("content", [b"", b"PAR1 not a table", os.urandom(500)])
def test_a_damaged_memo_is_replaced(tmp_path, content):
    path, memo = tmp_path / "a.jpg", tmp_path / "memo.parquet"
    path.write_bytes(GOOD["jpeg"])
    memo.write_bytes(content)
    assert scan([path], memo=memo)[0].status == Status.OK
    assert memo.read_bytes() != content


def test_a_long_scan_keeps_what_it_has_done(tmp_path, monkeypatch):
    monkeypatch.setattr(scanning, "_CHUNK", 2)
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path in paths:
        path.write_bytes(GOOD["png"])
    examined = []

    def stop_at_the_last(path: str, limits: Limits) -> object:
        if path == str(paths[4]) and len(examined) < 5:
            raise KeyboardInterrupt
        examined.append(path)
        return examine(path, limits)

    examine = scanning.examine
    monkeypatch.setattr(scanning, "examine", stop_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        scan(paths, memo=tmp_path / "memo.parquet")
    assert sorted(examined) == [str(path) for path in paths[:4]]
    examined += ["all before"]
    scan(paths, memo=tmp_path / "memo.parquet")
    assert examined[5:] == [str(paths[4])], "what was seen before the interruption is not read again"


def test_real_portraits_are_usable():
    folder = Path(__file__).parents[2] / "shared" / "data" / "wikimel" / "mention_image"
    if not folder.is_dir():
        pytest.skip("the real data under ../shared is not there")
    found = scan(sorted(folder.iterdir())[:200])
    assert {scanned.status for scanned in found} == {Status.OK}
