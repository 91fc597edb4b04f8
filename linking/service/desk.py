"""From a request's mentions to their answers: pictures looked at, a place in the queue, one thread that links."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from linking.linker import Linked, Linker
from linking.service.batching import Batcher, Bounds
from linking.service.entities import Entities
from linking.service.meter import Meter
from linking.service.pictures import Examiner
from pipeline.datasets.contracts import Limits
from pipeline.datasets.records import Mention

SECONDS = 30.0  # that a mention waits for its turn


@dataclass(frozen=True)
class Asked:
    """A mention to link. picture: bytes of a file. top_k: entities that are listed."""

    mention: Mention
    picture: bytes | None = None
    top_k: int = 5


class Desk:
    """Links the mentions of all requests with one linker, in batches.

    load: gives the linker, when it is first needed. limits: of pictures. queue, batch: see `ServiceJob`.
    """

    def __init__(self, load: Callable[[], Linker], limits: Limits, queue: int, batch: int) -> None:
        self.load, self.examiner, self.meter = load, Examiner(limits), Meter()
        self.batcher = Batcher(self._link, Bounds(queue, batch, SECONDS), self.meter.mention)
        self.meter.read_waiting(self.batcher.__len__)

    @cached_property
    def linker(self) -> Linker:
        """Called first by one thread alone: before there are requests, or by that which links."""
        return self.load()

    @cached_property
    def entities(self) -> Entities:
        """The KB's."""
        return Entities(self.linker.kb, self.linker.kb.folder)

    async def link(self, asked: Sequence[Asked]) -> list[Linked]:
        """The answers. Raises `Full`, `foundation.confined.Busy`, and what linking raises.

        A picture that cannot be used is left out, and `Linked.picture` says why.
        """
        examined = [await asyncio.to_thread(self._examined, one) for one in asked]
        answers = self.batcher.add([one for one, _ in examined])
        try:
            linked = [await asyncio.wrap_future(answer) for answer in answers]
        except BaseException:  # of a client that has gone, too
            _cancel(answers)
            raise
        return [
            replace(one, picture=problem) if problem else one
            for one, (_, problem) in zip(linked, examined, strict=True)
        ]

    def close(self) -> None:
        """Answer what waits; write features that are in memory, where they are kept."""
        self.batcher.close()
        self.examiner.close()
        if "linker" in vars(self):
            self.linker.close()

    def _examined(self, asked: Asked) -> tuple[Asked, str | None]:
        """The mention without a picture that cannot be used, and why."""
        problem = None if asked.picture is None else self.examiner.problem(asked.picture)
        return (replace(asked, picture=None), problem) if problem else (asked, None)

    def _link(self, asked: Sequence[Asked]) -> list[Linked]:
        with TemporaryDirectory(prefix="mel-") as folder:
            mentions = []
            for number, one in enumerate(asked):
                if one.picture is not None:
                    (Path(folder) / str(number)).write_bytes(one.picture)
                mentions.append(replace(one.mention, image=None if one.picture is None else str(number)))
            answers = self.linker.link_all(mentions, Path(folder), max(one.top_k for one in asked))
        return [
            replace(answer, entities=answer.entities[: one.top_k]) for answer, one in zip(answers, asked, strict=True)
        ]


def _cancel(answers: Sequence[Future[Linked]]) -> None:
    for answer in answers:
        answer.cancel()
