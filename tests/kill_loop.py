"""Runs an extraction again and again in forked children that are killed; started by test_faults.py with a job on its
command line.

A child that is forked from a process which has the libraries loaded takes a fraction of a second, so that fifty kills
are affordable.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from foundation.contracts import from_json
from foundation.paths import Paths
from pipeline.extraction.contracts import ExtractionJob


def attempt(job: ExtractionJob, kill_after: float | None, fault: str | None) -> tuple[bool, float]:
    """One extraction in a forked child. Returns whether it finished, and the seconds it took."""
    from pipeline.extraction import stage

    started = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if fault:
                os.environ["MEL_FAULT"] = fault
            stage.extract(job)
            code = 0
        finally:
            os._exit(code)
    if kill_after is not None:
        while time.monotonic() - started < kill_after and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.002)
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            return True, time.monotonic() - started
    try:
        status = os.waitpid(child, 0)[1]
    except ChildProcessError:
        return True, time.monotonic() - started
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0, time.monotonic() - started


def at(suffix: str, job: ExtractionJob) -> ExtractionJob:
    """The job in a work folder beside its own."""
    work = job.work.with_name(job.work.name + suffix)
    return replace(job, work=work, columns=work / "columns")


def main(job: ExtractionJob, faults: list[str], kills: int) -> dict:
    import open_clip  # noqa: F401 - loaded before the forks
    import torch
    import torchvision  # noqa: F401

    import pipeline.extraction.stage  # noqa: F401

    torch.set_num_threads(1)
    finished, _ = attempt(at("-calm", job), None, None)
    assert finished
    seconds = attempt(at("-warm", job), None, None)[1]
    killed, left = 0, {}
    for fault in faults:
        done, _ = attempt(at(f"-{fault.partition(':')[0]}", job), None, fault)
        left[fault] = not done
    chance = random.Random(0)
    for _ in range(8 * kills):
        done, _ = attempt(job, chance.uniform(0, seconds), None)
        killed += not done
        if killed == kills:
            break
        if done:  # nothing is left to interrupt: begin again
            shutil.rmtree(Paths(job.work).cache, ignore_errors=True)
    assert attempt(job, None, None)[0]
    for fault in faults:
        assert attempt(at(f"-{fault.partition(':')[0]}", job), None, None)[0]
    return {"killed": killed, "stopped": left, "seconds": seconds}


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    print(json.dumps(main(from_json(ExtractionJob, options["job"]), options["faults"], options["kills"])))
