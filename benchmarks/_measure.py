"""What the benchmarks share: the machine's name, clocks, and the memory that a part of the work takes."""

import os
import platform
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def machine(device: "torch.device | None" = None) -> str:
    """The GPU's name where `device` is one, else the processor's, with the cores that this process may use."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else name}, {cores} cores"


def synchronise(device: "torch.device") -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def now() -> np.ndarray:
    """(2,) seconds by the clock, and of CPU."""
    return np.array([time.perf_counter(), time.process_time()])


class PeakMemory:
    """The most memory, in bytes, that is taken while it is entered, sampled every 20 ms.

    On a CPU the process's anonymous memory (mapped shards are not counted); on a GPU what torch has allocated there.
    before: taken when it was entered. peak: the most. halves: the most in the first and in the second half of the time.
    """

    def __init__(self, device: "torch.device | None" = None) -> None:
        self.cuda = device is not None and device.type == "cuda"

    def __enter__(self) -> "PeakMemory":
        if self.cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
        self.before = self._taken()
        self._samples, self._stop = [self.before], threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self._samples.append(self._taken())
        half = len(self._samples) // 2
        self.halves = max(self._samples[:half]), max(self._samples[half:])
        self.peak = max(self.halves)
        if self.cuda:
            import torch

            self.peak = torch.cuda.max_memory_allocated()

    def _taken(self) -> int:
        if self.cuda:
            import torch

            return torch.cuda.memory_allocated()
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

    def _watch(self) -> None:
        while not self.cuda and not self._stop.wait(0.02):
            self._samples.append(self._taken())
