"""Small picture files that would hold a decoder for minutes, or fill the memory, are refused by their parts."""

import contextlib
import signal
import struct
import threading
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image
from test_images import GOOD, drawn, encoded, noise, png, png_header

from cache.shard import Status
from foundation.budget import ByteBudget
from pipeline.datasets import images
from pipeline.datasets.images import ImageError, Limits, decode, decoding


def jpeg(parts: bytes, data: bytes = GOOD["jpeg"]) -> bytes:
    """A JPEG with more before its first segment."""
    return data[:2] + parts + data[2:]


def gif(parts: bytes) -> bytes:
    place = GOOD["gif"].index(b",")
    return GOOD["gif"][:place] + parts + GOOD["gif"][place:]


def chunked_png(count: int, kind: bytes = b"abCd") -> bytes:
    place = GOOD["png"].index(b"IDAT") - 4
    return GOOD["png"][:place] + (bytes(4) + kind + struct.pack(">I", zlib.crc32(kind))) * count + GOOD["png"][place:]


def tiff(numbers: int, order: str = "<", big: bool = False, kind: int = 4) -> bytes:
    """A grey TIFF of 10 x 10 pixels with one list of so many numbers in a tag of its own."""
    offset, count = ("Q", "Q") if big else ("I", "I")
    tags = [(256, 4, 1, 10), (257, 4, 1, 10), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 16)]
    tags += [(277, 3, 1, 1), (278, 4, 1, 10), (279, 4, 1, 100), (60000, kind, numbers, 16)]
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}H", 43 if big else 42)
    head += struct.pack(f"{order}HHQ" if big else f"{order}I", *((8, 0, 416) if big else (416,)))
    entries = b""
    for tag, listed, length, value in tags:
        short = listed == 3 and order == ">"
        shifted = value << (48 if big else 16) if short else value
        entries += struct.pack(f"{order}HH{count}{offset}", tag, listed, length, shifted)
    directory = struct.pack(f"{order}{'Q' if big else 'H'}", len(tags)) + entries + bytes(8)
    return head.ljust(16, b"\0") + b"\x07" * 400 + directory + b"\0"


EXIF = b"\xff\xe1\0\x0aExif\0\0II"
PARTS = {
    "comments of a JPEG": jpeg(b"\xff\xfe\0\2" * 150_000),
    "EXIF in pieces, joined in quadratic time": jpeg(EXIF * 100),
    "bytes that fill a JPEG": jpeg(b"\xff" * 150_000),
    "bytes of a JPEG that mean nothing": jpeg(b"\0" * 150_000),
    "profiles of a JPEG": jpeg(b"\xff\xe2\0\x10ICC_PROFILE\0\1" * 150_000),
    "chunks of a PNG": chunked_png(150_000),
    "empty chunks of pixels": chunked_png(150_000, b"IDAT"),
    "comments of a GIF": gif(b"\x21\xfe\1a\0" * 150_000),
    "blocks of one comment": gif(b"\x21\xfe" + b"\1a" * 150_000 + b"\0"),
    "bytes of a GIF that mean nothing": gif(b"\0" * 150_000),
    "numbers in a TIFF": tiff(1 << 22),
    "numbers in a TIFF, other byte order": tiff(1 << 22, ">"),
    "numbers in a BigTIFF": tiff(1 << 40, big=True),
}


def verdict(data: bytes, limits: Limits = images.DEFAULT_LIMITS) -> tuple[Status, str]:
    with pytest.raises(ImageError) as caught:
        decode(data, limits)
    return caught.value.status, caught.value.cause


@pytest.mark.parametrize("kind", PARTS)
def test_a_picture_of_too_many_parts_is_refused(kind):
    assert verdict(PARTS[kind]) == (Status.TOO_LARGE, "too many parts")


FEW = {
    "JPEG": jpeg(b"\xff\xfe\0\2" * 300 + EXIF * 4 + b"\xff" * 900),
    "PNG": chunked_png(20_000),
    "GIF": gif(b"\x21\xfe\1a\0" * 9_000),
    "TIFF": tiff(90, kind=7),
    "TIFF, other byte order": tiff(90, ">"),
    "BigTIFF": tiff(90, big=True),
    "bytes of a TIFF, however many": tiff(1 << 22, kind=7),
}


@pytest.mark.parametrize("kind", FEW)
def test_a_picture_of_many_parts_is_read(kind):
    assert decode(FEW[kind]).size in ((96, 64), (10, 10))


def scanned(picture: Image.Image, scans: int) -> bytes:
    """A progressive JPEG of which one scan is there so many times more."""
    data = encoded(picture, "JPEG", progressive=True)
    *_, first, second = (place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda")
    return data[:second] + data[first:second] * scans + data[second:]


@pytest.mark.parametrize("scans", [250, 4_000])
def test_a_jpeg_of_thousands_of_scans_is_refused(scans):
    assert verdict(scanned(drawn(), scans)) == (Status.TOO_LARGE, "too many scans")


def test_a_large_jpeg_may_have_fewer_scans_than_a_small_one():
    assert decode(scanned(drawn(), 150)).size == (96, 64)
    large = bytearray(scanned(drawn(), 150))
    place = large.index(b"\xff\xc2")
    large[place + 5 : place + 9] = struct.pack(">HH", 7_000, 9_000)
    assert verdict(bytes(large)) == (Status.TOO_LARGE, "too many scans")


def test_scans_of_a_preview_in_a_jpeg_do_not_count():
    preview = b"\xff\xe1" + struct.pack(">H", 60_002) + b"\xff\xda" * 30_000
    assert decode(jpeg(preview)).size == (96, 64)


def test_bytes_behind_a_jpeg_are_no_scans_of_it():
    behind = b"\xff\xda" * 100_000  # a film, as telephones append it
    assert decode(GOOD["jpeg"] + behind).size == (96, 64)
    hidden = scanned(drawn(), 250)
    place = hidden.rindex(b"\xff\xda")
    assert verdict(hidden[:place] + b"\xff\xfe\0\4\xff\xd9" + hidden[place:]) == (Status.TOO_LARGE, "too many scans")


def test_a_tiff_whose_list_ends_early_is_counted_as_far_as_it_goes():
    data = bytearray(tiff(1 << 22))
    data[416] += 5
    assert verdict(bytes(data[: 418 + 12 * 10])) == (Status.TOO_LARGE, "too many parts")


def test_a_bigtiff_that_leads_out_of_all_files_is_broken():
    data = bytearray(tiff(90, big=True))
    data[8:16] = b"\xff" * 8
    assert verdict(bytes(data))[0] == Status.BROKEN


@pytest.mark.parametrize("size", [(1, 1_000_001), (1_000_001, 1)])
def test_a_picture_of_a_million_rows_is_refused(size):
    assert verdict(png_header(*size)) == (Status.TOO_LARGE, "too many pixels")


def test_a_large_webp_of_one_colour_is_refused():
    small, large = (encoded(Image.new("RGB", (size, size)), "WEBP", lossless=True) for size in (3_900, 4_100))
    assert decode(small).size == (3_900, 3_900)
    assert verdict(large) == (Status.TOO_LARGE, "too many pixels for so small a file")


def test_deep_grey_is_stretched_without_copies_of_the_whole_picture(monkeypatch):
    monkeypatch.setattr(images, "_BAND", 50_000)
    values = np.linspace(-3, 9, 1_200_000, dtype=np.float32).reshape(1000, 1200)
    values[0, :3] = np.nan, np.inf, -np.inf
    data = encoded(Image.fromarray(values), "TIFF", compression="tiff_adobe_deflate")
    tracemalloc.start()
    grey = np.asarray(decode(data))[..., 0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * values.size, "bytes a pixel"
    finite = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    low, high = finite.min(), finite.max()
    assert (grey == ((finite - low) * (255 / (high - low))).astype(np.uint8)).all()


@pytest.mark.parametrize("size", [(300, 7), (7, 300)])
def test_bands_cover_pictures_of_every_shape(size, monkeypatch):
    whole = decode(encoded(noise(size), "JPEG", quality=95)[:-2]).tobytes()
    values = np.arange(2_100, dtype=np.int32).reshape(size[1], size[0])
    deep = encoded(Image.fromarray(values), "TIFF")
    alpha = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 4), np.uint8), "RGBA"), "PNG")
    at_once = [decode(data).tobytes() for data in (deep, alpha)]
    monkeypatch.setattr(images, "_BAND", 50)
    assert decode(encoded(noise(size), "JPEG", quality=95)[:-2]).tobytes() == whole
    assert [decode(data).tobytes() for data in (deep, alpha)] == at_once


def test_a_png_of_few_pixels_that_inflates_to_much_more_is_read():
    assert decode(png((2, 1), bytes([0, 9, 9, 9, 200, 100, 50]) + bytes(50_000_000))).size == (2, 1)


# Pictures of several threads


@pytest.fixture
def ends():
    """A test that waits for ever fails after two minutes."""

    def late(*_: object) -> None:
        raise TimeoutError("nobody frees the bytes that it waits for")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def later(budget: ByteBudget, size: int) -> tuple[threading.Thread, threading.Event]:
    """A thread that holds bytes of a budget until the event."""
    go = threading.Event()

    def hold() -> None:
        with budget.holding(size):
            go.wait()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    return thread, go


def waiting(budget: ByteBudget, count: int) -> bool:
    """Whether so many threads come to wait for a budget, and stay."""
    pause = threading.Event()
    return any(len(budget._waiting) == count and not pause.wait(0.1) for _ in range(100) if not pause.wait(0.01))


@pytest.mark.usefixtures("ends")
def test_threads_wait_until_the_bytes_of_others_are_free_in_the_order_in_which_they_asked():
    budget = ByteBudget(10)
    with budget.holding(6), contextlib.ExitStack() as stack:
        first, go = later(budget, 5)
        stack.callback(go.set)
        assert waiting(budget, 1)
        second, done = later(budget, 1)
        stack.callback(done.set)
        assert waiting(budget, 2), "it would fit, and does not overtake"
        go.set()
        done.set()
    first.join(30)
    second.join(30)
    assert not first.is_alive() and not second.is_alive()
    with budget.holding(10):
        pass


@pytest.mark.usefixtures("ends")
def test_what_is_larger_than_the_budget_goes_alone():
    budget = ByteBudget(10)
    with budget.holding(25):
        thread, go = later(budget, 1)
        assert waiting(budget, 1)
    go.set()
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.usefixtures("ends")
def test_a_thread_that_is_interrupted_while_it_waits_holds_nobody_up():
    budget = ByteBudget(10)

    def interrupted(size: int) -> bool:
        raise KeyboardInterrupt

    with budget.holding(10):
        budget._fits = interrupted
        with pytest.raises(KeyboardInterrupt), budget.holding(1):
            pass
        del budget._fits
    with budget.holding(10):
        pass


@pytest.mark.usefixtures("ends")
@pytest.mark.parametrize(("kind", "draft", "pixel"), [("jpeg", None, 8), ("jpeg", (8, 8), 4), ("webp", None, 16)])
def test_a_picture_is_decoded_when_the_pictures_of_other_threads_leave_room(kind, draft, pixel, monkeypatch):
    size = 96 * 64 * pixel
    for room, waits in ((2 * size, False), (2 * size - 1, True)):
        budget = ByteBudget(room)
        monkeypatch.setattr(images, "DECODING", budget)
        thread = threading.Thread(target=lambda: decode(GOOD[kind], draft=draft), daemon=True)
        with decoding(GOOD[kind], Limits(), draft):
            thread.start()
            if waits:
                assert waiting(budget, 1)
            else:
                thread.join(30)
            assert thread.is_alive() == waits
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.usefixtures("ends")
def test_a_picture_that_is_refused_leaves_its_room(monkeypatch):
    monkeypatch.setattr(images, "DECODING", ByteBudget(1))
    for data in (GOOD["png"][:-40], GOOD["jpeg"][: len(GOOD["jpeg"]) // 2], b"", GOOD["jpeg"][:-2], GOOD["png"]):
        with contextlib.suppress(ImageError):
            decode(data)
