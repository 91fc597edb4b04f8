"""Pictures of pages, made small in processes of their own: one that takes too long or too much memory ends there."""

import time
from collections.abc import Callable
from typing import Any

from cache.shard import Status
from foundation.confined import Bounds, Busy, Confined, Exceeded
from foundation.contracts import contract, from_json, to_json
from linking.service.pictures import BESIDE, PER_PIXEL, PROCESSES, SECONDS, WAIT
from pipeline.datasets.contracts import Limits
from pipeline.datasets.images import ImageError
from report.thumbnails import Thumbnail, thumbnail

PAGE = 15  # seconds of all pictures of a page; those that are left are not shown

Shrink = Callable[[bytes, int, Limits], Thumbnail]
"""As `report.thumbnails.thumbnail`."""


class Pictures:
    """Makes thumbnails under the limits of a run, and in bounded time and memory.

    seconds: of one picture.
    """

    def __init__(self, limits: Limits, seconds: float = SECONDS) -> None:
        self.limits = limits
        bounds = Bounds(seconds, limits.max_pixels * PER_PIXEL + BESIDE, WAIT)
        self._decode = Confined("report.explore.pictures:work", PROCESSES, bounds)

    def shrinking(self) -> Shrink:
        """A function that makes the thumbnails of one page. It raises `ImageError` also where there is no time."""
        end = time.monotonic() + PAGE

        def shrink(data: bytes, side: int, limits: Limits) -> Thumbnail:
            try:
                header, small = self._ask(data, side, end - time.monotonic())
            except Busy as error:
                raise ImageError(Status.TOO_LARGE, str(error)) from error
            return Thumbnail(small, header["kind"], tuple(header["size"]))

        return shrink

    def close(self) -> None:
        """End the processes."""
        self._decode.close()

    def _ask(self, data: bytes, side: int, seconds: float) -> tuple[Any, bytes]:
        try:
            answer, out = self._decode(to_json(PictureJob(side=side, limits=self.limits)), data, seconds)
        except Exceeded as error:
            raise ImageError(Status.TOO_LARGE, f"{error} when it is decoded") from error
        if "cause" in answer:
            raise ImageError(Status(answer["status"]), answer["cause"])
        return answer, out


@contract
class PictureJob:
    """What is made of a picture file: its thumbnail of `side` pixels at most."""

    side: int
    limits: Limits


def work(value: Any, data: bytes) -> tuple[Any, bytes]:
    """Do a `PictureJob`, given as JSON: the thumbnail, or why there is none."""
    job = from_json(PictureJob, value)
    try:
        small = thumbnail(data, job.side, job.limits)
    except ImageError as error:
        return {"status": int(error.status), "cause": error.cause}, b""
    return {"kind": small.kind, "size": small.size}, small.data
