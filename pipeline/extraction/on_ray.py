"""Extraction on a Ray cluster: an actor for each device holds the models, chunks travel to it and shards come back.

No file system is shared: models and pictures travel too, and this process alone writes to the cache.
"""

import contextlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cache import union
from foundation import cluster, logs
from foundation.errors import PassingError, UserError
from foundation.progress import Bar
from foundation.waiting import Wait
from pipeline.extraction.chunks import Chunk
from pipeline.extraction.contracts import Account, ExtractionJob
from pipeline.extraction.runner import Target, claim, held_elsewhere
from pipeline.extraction.shipped import Computed, Machine, Pieces, Refused, Shipment, pieces, shipment
from pipeline.profiles import profile as profiles

AHEAD = 2  # chunks that an actor has at a time: one travels while another is computed
LOOK = 5.0  # seconds between two looks at the cluster's nodes
RESTARTS = 3
"""Actors that are started again on one node at most, after they were killed there."""


def run(job: ExtractionJob, targets: Sequence[Target], chunks: Sequence[Chunk]) -> Account:
    """Do these chunks on the cluster that `job.runtime.ray` names; returns the account.

    A node that is lost costs the chunks that it was at, which are done again; nodes that come are used. Raises
    `UserError`, among others where there is no cluster or no node is left, and `PassingError` at the end where pictures
    could not be read for a reason that may pass.
    """
    profile = profiles.load(job.profile)
    stores = {target.name: target.store for target in targets}
    runtime = replace(job.runtime, ray="", devices=())
    with (
        cluster.connected(job.runtime.ray),
        Bar(sum(chunk.rows for chunk in chunks), "extracting on Ray", "row") as bar,
    ):
        shipped = shipment(profile, stores, job.demo, runtime)
        return _Driver(shipped, profile.threads, {one.name: one for one in targets}, bar).run(chunks)


@dataclass
class _Work:
    """A chunk under way. claims: on it, until its rows are written."""

    chunk: Chunk
    group: Sequence[Target]
    claims: contextlib.ExitStack


@dataclass
class _Actor:
    """The actor on one device. tasks: what it is at, by its answer's reference."""

    node: str
    handle: Any
    tasks: dict[Any, _Work] = field(default_factory=dict)


@dataclass
class _Driver:
    """Gives chunks to actors and writes what comes back."""

    shipped: Shipment
    threads: int
    targets: Mapping[str, Target]
    bar: Bar
    actors: list[_Actor] = field(default_factory=list)
    started: dict[str, int] = field(default_factory=dict)  # actors that were started on each node
    undone: list[str] = field(default_factory=list)
    devices: dict[str, None] = field(default_factory=dict)

    def run(self, chunks: Sequence[Chunk]) -> Account:
        import ray

        self.reference = ray.put(self.shipped)
        waiting, again = deque(chunks), deque[_Work]()
        held: deque[Chunk] = deque()
        wait, waited_for, looked = Wait(), None, -LOOK
        try:
            while waiting or again or held or any(actor.tasks for actor in self.actors):
                if time.monotonic() - looked >= LOOK or not self.actors:
                    self._start_actors()
                    looked = time.monotonic()
                for actor in sorted(self.actors, key=lambda actor: len(actor.tasks)):
                    while len(actor.tasks) < AHEAD and (again or waiting):
                        work = again.popleft() if again else None
                        if work is None:
                            chunk = waiting.popleft()
                            work, place = self._claimed(chunk)
                            if place is not None:
                                held.append(chunk)
                                waited_for = place
                        if work is not None:
                            self._give(actor, work)
                if any(actor.tasks for actor in self.actors):
                    again.extend(self._take())
                    wait.again()
                elif held and not (waiting or again):
                    group = [self.targets[name] for name in held[0].features]
                    wait.pause(partial(held_elsewhere, group, len(held), waited_for))
                if not waiting and held:
                    waiting, held = held, deque()
        finally:
            for work in (*again, *(work for actor in self.actors for work in actor.tasks.values())):
                work.claims.close()
        if self.undone:
            raise PassingError(
                f"{len(self.undone)} pictures could not be read and stay undone, first: {self.undone[0]}; run the "
                "same command again"
            )
        return Account(
            rows={name: target.extracted for name, target in self.targets.items()},
            model_loads=tuple(self.targets),
            device=", ".join(self.devices) or None,
        )

    def _claimed(self, chunk: Chunk) -> tuple[_Work | None, Path | None]:
        """The chunk, claimed; None where all its rows are there. The file of a claim that is in the way."""
        group = [self.targets[name] for name in chunk.features]
        claims, place = claim(group, chunk.name)
        if claims is None:
            return None, place
        if all(target.store.has_shard(chunk.name) for target in group):
            claims.close()
            self.bar.skip(chunk.rows)
            return None, None
        return _Work(chunk, group, claims), None

    def _give(self, actor: _Actor, work: _Work) -> None:
        """Send the rows that the stores lack of a chunk to an actor."""
        import ray

        units = work.chunk.load()
        lacking = sorted({int(row) for target in work.group for row in target.store.missing(units.keys)})
        self.bar.skip(work.chunk.rows - len(lacking))
        if not lacking:
            work.claims.close()
            return
        sent = [
            (ray.put(piece), len(piece))
            for piece in pieces([units.sources[row] for row in lacking], self.shipped.limits)
        ]
        probes = {target.name: target.store.probe for target in work.group}
        answer = actor.handle.compute.remote(
            work.chunk.features,
            units.keys[lacking],
            [[reference] for reference, _ in sent],
            [n for _, n in sent],
            probes,
        )
        work.chunk = replace(work.chunk, rows=len(lacking))
        actor.tasks[answer] = work

    def _take(self) -> list[_Work]:
        """Write what has come back; returns the chunks of actors that were lost."""
        import ray

        by_answer = {answer: actor for actor in self.actors for answer in actor.tasks}
        ready, _ = ray.wait(list(by_answer), timeout=1.0)
        lost: list[_Work] = []
        for answer in ready:
            actor = by_answer[answer]
            work = actor.tasks.pop(answer, None)
            if work is None:  # its actor was lost a moment ago
                continue
            try:
                computed = ray.get(answer)
            except ray.exceptions.RayTaskError:
                work.claims.close()
                raise
            except ray.exceptions.RayError as error:
                logs.notice(
                    f"the process on node {actor.node[:8]} is lost ({type(error).__name__}); its chunks are done again"
                )
                lost += [work, *actor.tasks.values()]
                actor.tasks.clear()
                self.actors.remove(actor)
                continue
            with work.claims:
                self._write(work, computed)
        return lost

    def _write(self, work: _Work, computed: Computed | Refused) -> None:
        if isinstance(computed, Refused):
            raise UserError(*computed.lines)
        for target in work.group:
            known, theirs = target.store.probe, computed.probes.get(target.name)
            if theirs and not known:
                target.store.set_probe(theirs)
            elif theirs and (output := union.probe_differs(theirs, known)):
                raise UserError(
                    f"{target.name}: a node's libraries give other numbers than those of {target.store.folder} (output "
                    f"{output!r}); install the same versions on every node"
                )
            for name, data in computed.shards[target.name]:
                union.put(target.store, name, data)
            target.extracted += work.chunk.rows - len(computed.undone)
        self.undone += computed.undone
        if computed.device:
            self.devices[computed.device] = None
        self.bar.update(work.chunk.rows)

    def _start_actors(self) -> None:
        """An actor for each GPU of a node, one for a node without any, on nodes that have none yet."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node for node in ray.nodes() if node["Alive"]]
        for node in nodes:
            name, resources = node["NodeID"], node["Resources"]
            gpus = 0 if self.shipped.runtime.device == "cpu" else int(resources.get("GPU", 0))
            cpus = int(resources.get("CPU", 0))
            count = gpus or (1 if cpus else 0)
            there = sum(actor.node == name for actor in self.actors)
            for _ in range(min(count - there, count + RESTARTS - self.started.get(name, 0))):
                threads = self.threads or max(1, cpus // count)
                environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
                handle = (
                    ray.remote(Remote)
                    .options(
                        num_gpus=1 if gpus else 0,
                        num_cpus=0,
                        max_restarts=0,
                        scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False),
                        runtime_env={"env_vars": environment},
                    )
                    .remote(self.reference)
                )
                self.started[name] = self.started.get(name, 0) + 1
                self.actors.append(_Actor(name, handle))
        if not self.actors:
            raise UserError(
                "--ray: no node of the cluster has a device left to compute on; start some (`ray start --address "
                "ADDRESS`), and run the same command again"
            )


class Remote:
    """What runs in an actor: a `Machine` whose units are fetched piece by piece."""

    def __init__(self, shipped: Shipment) -> None:
        self._machine = Machine(shipped)

    def compute(
        self,
        features: Sequence[str],
        keys: np.ndarray,
        references: Sequence[list[Any]],
        lengths: Sequence[int],
        probes: Mapping[str, Any],
    ) -> Computed | Refused:
        """See `Machine.compute`. references: of the pieces, each in a list, so that Ray does not fetch them at once."""
        import ray

        def get(piece: list[Any]) -> list[Any]:
            units: list[Any] = ray.get(piece[0])
            return units

        return self._machine.compute(features, keys, Pieces(lengths, references, get), probes)
