"""Runs an extraction again and again in forked children that are killed; started by test_faults.py with a job on its command line.

A child that is forked from a process which has the libraries loaded takes a fraction of a second, so that fifty kills are affordable.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path


def attempt(job: dict, kill_after: float | None, fault: str | None) -> tuple[bool, float]:
    """One extraction in a forked child. Returns whether it finished, and the seconds it took."""
    from pipeline.extraction import stage

    started = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if fault:
                os.environ["MEL_FAULT"] = fault
            stage.main(job)
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


def main(job: dict, faults: list[str], kills: int) -> dict:
    import open_clip  # noqa: F401 - loaded before the forks
    import torch
    import torchvision  # noqa: F401

    import pipeline.extraction.stage  # noqa: F401

    torch.set_num_threads(1)
    finished, _ = attempt({**job, "cache": job["cache"] + "-calm", "columns": job["columns"] + "-calm"}, None, None)
    assert finished
    warm = {**job, "cache": job["cache"] + "-warm"}
    seconds = attempt(warm, None, None)[1]
    killed, left = 0, {}
    for fault in faults:
        done, _ = attempt({**job, "cache": f"{job['cache']}-{fault.partition(':')[0]}"}, None, fault)
        left[fault] = not done
    chance = random.Random(0)
    for _ in range(8 * kills):
        done, _ = attempt(job, chance.uniform(0, seconds), None)
        killed += not done
        if killed == kills:
            break
        if done:  # nothing is left to interrupt: begin again
            shutil.rmtree(job["cache"], ignore_errors=True)
    assert attempt(job, None, None)[0]
    for fault in faults:
        assert attempt({**job, "cache": f"{job['cache']}-{fault.partition(':')[0]}"}, None, None)[0]
    return {"killed": killed, "stopped": left, "seconds": seconds}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    print(json.dumps(main(**json.loads(sys.argv[1]))))
