"""A pool of processes on this machine, one for each device, which divide the chunks of one manifest by their claims.

This process loads no model and starts no device: a process that has started CUDA cannot give it to others.
"""

import contextvars
import dataclasses
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from foundation import child, logs, machine, progress
from foundation.errors import PassingError
from foundation.progress import Bar
from pipeline.extraction.contracts import Account, PartJob, PartResult

RESTARTS = 3
"""Times that the process of a device is started again at most after it was killed."""
_TARGET = "pipeline.extraction.stage:extract_part"


class _Stopped(Exception):
    """Another process of the pool has failed."""


@dataclass
class _Progress:
    """The rows that all processes have done, as one bar. Each draws none of its own."""

    bar: Bar
    stopped: threading.Event
    _own: dict[tuple[int, str], int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begins(self, worker: int) -> None:
        """A process was started, and has done nothing yet."""
        with self._lock:
            self._own = {place: rows for place, rows in self._own.items() if place[0] != worker}

    def watch(self, worker: int, state: Mapping[str, Any]) -> None:
        """Take up the progress of one process. Raises where the pool is to end, which ends that process."""
        if self.stopped.is_set():
            raise _Stopped
        if state["unit"] != "row":
            return
        with self._lock:
            place = worker, state["what"]
            new = state["own"] - self._own.get(place, 0)
            if new > 0:
                self._own[place] = state["own"]
                self.bar.update(new)


def run(job: PartJob, rows: int) -> Account:
    """Do the chunks of a part, whose manifest is on disk. rows: that are to come.

    A process that is killed is started again; what it was at is done by whichever process comes first. Raises what a
    process raises, after the others were ended.
    """
    runtime = job.extraction.runtime
    accounts: list[Account] = []
    stopped = threading.Event()
    with (
        Bar(rows, f"extracting in {len(runtime.devices)} processes", "row") as bar,
        ThreadPoolExecutor(len(runtime.devices)) as threads,
    ):
        shown = _Progress(bar, stopped)
        workers = [_Worker(job, number, device, shown) for number, device in enumerate(runtime.devices)]
        running: dict[Future[Account], _Worker] = {}
        for worker in workers:
            running[threads.submit(contextvars.copy_context().run, worker.run)] = worker
        passing: PassingError | None = None
        killed: child.Killed | None = None
        try:
            while running:
                for ended in wait(running, return_when=FIRST_COMPLETED)[0]:
                    worker = running.pop(ended)
                    try:
                        accounts.append(ended.result())
                    except PassingError as error:  # the others do all else first
                        passing = error
                    except child.Killed as error:
                        killed = error
                        if worker.starts <= RESTARTS:
                            logs.notice(f"the process on {worker.device} was killed; it is started again")
                            running[threads.submit(contextvars.copy_context().run, worker.run)] = worker
        finally:
            stopped.set()
    if passing is not None:
        raise passing
    if killed is not None and not accounts:
        raise killed
    return summed(accounts)


@dataclass
class _Worker:
    """The process on one device. starts: how many times it was started."""

    job: PartJob
    number: int
    device: str
    progress: _Progress
    starts: int = 0

    def run(self) -> Account:
        self.starts += 1
        self.progress.begins(self.number)
        extraction = self.job.extraction
        devices, runtime = extraction.runtime.devices, extraction.runtime
        own = dataclasses.replace(runtime, device=self.device, devices=())
        job = dataclasses.replace(self.job, extraction=dataclasses.replace(extraction, runtime=own))
        environment = {progress.NO_BAR: "1", **_threads(devices)}
        with child.watched(lambda state: self.progress.watch(self.number, state)):
            return child.run(_TARGET, job, PartResult, environment=environment).account


def _threads(devices: Sequence[str]) -> dict[str, str]:
    """Threads of each process: this one's, divided among those that compute on the CPU."""
    computing = sum(device in ("cpu", "auto") for device in devices)
    cores = machine.cores()
    if (child.wanted_threads() or cores) * computing <= cores:
        return {}
    each = str(max(1, cores // max(1, computing)))
    return {"OMP_NUM_THREADS": each, "MKL_NUM_THREADS": each}


def summed(accounts: Sequence[Account]) -> Account:
    """The accounts of several processes as one: rows and seconds of stages are added up."""
    names = {name: None for account in accounts for name in account.rows}
    stages = {name: None for account in accounts for name in account.stages or {}}
    return Account(
        rows={name: sum(account.rows.get(name, 0) for account in accounts) for name in names},
        model_loads=tuple(name for account in accounts for name in account.model_loads),
        device=", ".join(dict.fromkeys(account.device for account in accounts if account.device)) or None,
        stages={name: round(sum((one.stages or {}).get(name, 0.0) for one in accounts), 3) for name in stages},
    )
