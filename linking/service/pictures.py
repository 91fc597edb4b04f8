"""Pictures that came with a request, decoded in processes of their own: one that takes too long or too much memory ends
there."""

from typing import Any

from foundation.confined import Bounds, Confined, Exceeded
from foundation.contracts import from_json, to_json
from pipeline.datasets.contracts import Limits
from pipeline.datasets.images import ImageError, decode
from pipeline.datasets.tables import STATUS_NAMES

PROCESSES = 2
SECONDS = 10  # of one picture
WAIT = 15  # seconds until a process is free
PER_PIXEL, BESIDE = 16, 256 << 20
"""Bytes of memory that decoding a picture may take, by its pixels and besides."""


class Examiner:
    """Says what is wrong with pictures. limits: of the run that reads them. seconds: of one picture."""

    def __init__(self, limits: Limits, seconds: float = SECONDS) -> None:
        self.limits = limits
        bounds = Bounds(seconds, limits.max_pixels * PER_PIXEL + BESIDE, WAIT)
        self._decode = Confined("linking.service.pictures:work", PROCESSES, bounds)

    def problem(self, data: bytes) -> str | None:
        """Why a file cannot be used as a picture; None where it can. Raises `foundation.confined.Busy`."""
        try:
            answer, _ = self._decode(to_json(self.limits), data)
        except Exceeded as error:
            return f"too large: {error} when it is decoded"
        problem: str | None = answer["problem"]
        return problem

    def close(self) -> None:
        """End the processes."""
        self._decode.close()


def work(limits: Any, data: bytes) -> tuple[Any, bytes]:
    """Decode a picture whole, as extracting from it does."""
    try:
        decode(data, from_json(Limits, limits))
    except ImageError as error:
        return {"problem": f"{STATUS_NAMES[error.status].replace('_', ' ')}: {error.cause}"}, b""
    return {"problem": None}, b""
