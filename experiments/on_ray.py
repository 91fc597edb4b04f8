"""Trainings and searches on a Ray cluster whose nodes share the work folder.

A job travels as JSON and its result comes back the same way. Features, lists, the study and the run's files are read
and written where they are without a cluster, so that a run that was begun on one node goes on on another.
"""

import os
import platform
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar, cast

from experiments.contracts import RemoteSearch, RemoteTraining, SearchResult
from foundation import child, cluster, logs, progress
from foundation.contracts import to_json
from foundation.errors import UserError
from heads.contracts import TrainingJob, TrainingResult

T = TypeVar("T")
RESTARTS = 3
"""Times that a process which was lost is started again."""
LOOK = 1.0  # seconds between two looks at what has ended


def train(job: RemoteTraining) -> TrainingResult:
    """Train a head on a node of the cluster, see `experiments.trainers.train`.

    A training that was on a node that is lost goes on elsewhere, from where dev was last measured. Raises `UserError`.
    """
    with cluster.connected(job.address):
        share = cluster.share(job.training.compute.device, job.threads)
        work = _Work("experiments.trainers:train", job.training, job.training, share)
        return work.results(1, TrainingResult)[0]


def search(job: RemoteSearch) -> SearchResult:
    """Search with a process on each device of the cluster, all in one study, see `experiments.search.search`.

    The trial of a process that is lost is queued again, as that of a local one. Raises `UserError`.
    """
    with cluster.connected(job.address):
        share = cluster.share(job.search.training.compute.device, job.threads)
        work = _Work("experiments.search:search", job.search, job.search.training, share)
        found = work.results(min(share.at_once, job.search.study.trials), SearchResult)
    run = {"processes": [dict(one.run) for one in found], "seconds": found[0].run["seconds"]}
    return SearchResult(best=found[0].best, value=found[0].value, counts=found[0].counts, text=found[0].text, run=run)


@dataclass
class _Work:
    """One job that processes of the cluster do, alone or together.

    target: the function that does it, as `foundation.child.run` names it. training: whose dataset all nodes must see.
    lost: processes that were lost so far.
    """

    target: str
    job: Any
    training: TrainingJob
    share: cluster.Share
    lost: int = 0
    under_way: set[Any] = field(default_factory=set)

    def results(self, processes: int, kind: type[T]) -> list[T]:
        """What so many processes answer, in the order in which they end. Raises what one of them raises."""
        import ray

        results: list[T] = []
        for _ in range(processes):
            self._start()
        try:
            while self.under_way:
                ended, _ = ray.wait(list(self.under_way), timeout=LOOK)
                for answer in ended:
                    self.under_way.discard(answer)
                    try:
                        answered = ray.get(answer)
                    except ray.exceptions.RayTaskError:
                        raise
                    except ray.exceptions.RayError as error:
                        self._again(error, bool(results))
                        continue
                    results.append(child.result_of(answered, kind, self.target))
        finally:
            for answer in self.under_way:
                ray.cancel(answer, force=True)
        return results

    def _start(self) -> None:
        import ray

        seen, made = self.training.dataset / "entities.parquet", cast(Any, ray.remote)
        task = made(
            num_gpus=self.share.gpus,
            num_cpus=self.share.cpus,
            max_calls=1,  # a process for each, whose memory comes back
            max_retries=0,
            runtime_env={"env_vars": child.defaults(self.share.threads)},
        )(remote)
        self.under_way.add(task.remote(self.target, to_json(self.job), str(seen), _seen(seen), _versions()))

    def _again(self, error: Exception, is_done: bool) -> None:
        """Start a process in place of one that was lost, where what it did is not done yet."""
        self.lost += 1
        reason = f"a process on the cluster is lost ({type(error).__name__})"
        if is_done:  # the others have finished what it did
            logs.notice(f"{reason}; the others have done its part")
            return
        if self.lost > RESTARTS:
            raise UserError(
                f"--ray: {self.lost} processes were lost on the cluster, the last by {type(error).__name__}; if memory "
                "ran out there, choose a smaller batch_size. Run the same command again to continue"
            )
        logs.notice(f"{reason}; another one goes on with what it did")
        self._start()


def remote(target: str, job: Any, seen: str, expected: list[int], versions: Mapping[str, str]) -> dict[str, Any]:
    """What runs on a node: `foundation.child.answer` of a function and the JSON of its job.

    seen, expected: a file that all nodes must see, and its size and time. versions: of libraries, on which numbers
    depend.
    """
    os.environ[progress.NO_BAR] = "1"
    host = socket.gethostname()
    if _seen(Path(seen)) != expected:
        return child.refusal(
            UserError(
                f"--ray: {host} does not see {seen} as it is here; trainings read features and write runs where they "
                "are, so the work folder must lie under the same path on a disk that all nodes share"
            )
        )
    if differing := {name for name, version in _versions().items() if versions.get(name) != version}:
        return child.refusal(
            UserError(
                f"--ray: {host} has another version of {', '.join(sorted(differing))} than this machine; install the "
                "same versions on every node"
            )
        )
    return child.answer(target, job)


def _seen(path: Path) -> list[int]:
    """Size and time of a file; nothing where there is none."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in ("numpy", "torch")}}
