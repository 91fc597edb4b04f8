"""From a request's mentions to their answers: pictures looked at, a place in the queue, one thread that links."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from linking.linked import Explained, Linked
from linking.linker import Linker
from linking.service.batching import Batcher, Bounds
from linking.service.entities import Entities
from linking.service.meter import Meter
from linking.service.pictures import Examiner
from pipeline.datasets.contracts import Limits
from pipeline.datasets.records import Mention

SECONDS = 30.0  # that a mention waits for its turn


@dataclass(frozen=True)
class Asked:
    """A mention to link. picture: bytes of a file. top_k: entities that are listed. explained: whether the answer is to
    be explained."""

    mention: Mention
    picture: bytes | None = None
    top_k: int = 5
    explained: bool = False


class Desk:
    """Links the mentions of all requests with one linker, in batches.

    load: gives the linker, when it is first needed. limits: of pictures. queue, batch: see `ServiceJob`. detections:
    features whose rows of pictures come with explanations.
    """

    detections: Collection[str] = ()

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
        return [one.linked for one in await self.answer(asked)]

    async def explain(self, asked: Sequence[Asked]) -> list[Explained]:
        """As `link`, with explanations."""
        return await self.answer([replace(one, explained=True) for one in asked])

    async def answer(self, asked: Sequence[Asked]) -> list[Explained]:
        """As `link`, with explanations of those that are to be explained."""
        examined = [await asyncio.to_thread(self._examined, one) for one in asked]
        answers = self.batcher.add([one for one, _ in examined])
        try:
            answered = [await asyncio.wrap_future(answer) for answer in answers]
        except BaseException:  # of a client that has gone, too
            _cancel(answers)
            raise
        return [
            replace(one, linked=replace(one.linked, picture=problem)) if problem else one
            for one, (_, problem) in zip(answered, examined, strict=True)
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

    def _link(self, asked: Sequence[Asked]) -> list[Explained]:
        """The answers; those that are not to be explained with empty explanations."""
        with TemporaryDirectory(prefix="mel-") as folder:
            mentions = []
            for number, one in enumerate(asked):
                if one.picture is not None:
                    (Path(folder) / str(number)).write_bytes(one.picture)
                mentions.append(replace(one.mention, image=None if one.picture is None else str(number)))
            root, most = Path(folder), max(one.top_k for one in asked)
            told, plain = (
                [mention for mention, one in zip(mentions, asked, strict=True) if one.explained == explained]
                for explained in (True, False)
            )
            explained = iter(self.linker.explain_all(told, root, most, self.detections) if told else ())
            linked = iter(self.linker.link_all(plain, root, most) if plain else ())
            answers = [next(explained) if one.explained else Explained(next(linked)) for one in asked]
        return [answer.of_best(one.top_k) for answer, one in zip(answers, asked, strict=True)]


def _cancel(answers: Sequence[Future[Explained]]) -> None:
    for answer in answers:
        answer.cancel()
