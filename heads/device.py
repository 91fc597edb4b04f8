"""Device and precision of a run, and arithmetic that repeats itself."""

import contextlib
import os
from typing import Any

import torch

from foundation.errors import UserError

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


def pick_device(name: str) -> torch.device:
    """`auto`: cuda, mps or cpu, the first that is there. Raises `UserError` for a device that was asked for and is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kind = name.partition(":")[0]
    if kind == "auto":
        return torch.device(next(kind for kind, found in there.items() if found))
    if kind not in there:
        raise UserError(f"--device {name!r}: unknown; expected auto, cpu, cuda or mps")
    if not there[kind]:
        raise UserError(
            f"--device {name}: this machine has none that torch can use; leave --device out, or check the driver and torch's build"
        )
    return torch.device(name)


def pick_precision(name: str, device: torch.device) -> str:
    """fp32, fp16 or bf16. `auto`: bf16 on CUDA (fp16 where the card has none), fp32 elsewhere. Raises `UserError` for another name."""
    if name == "auto":
        return ("bf16" if torch.cuda.is_bf16_supported() else "fp16") if device.type == "cuda" else "fp32"
    if name not in ("fp32", *HALF):
        raise UserError(f"--precision {name!r}: unknown; expected auto, fp32, fp16 or bf16")
    return name


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The context a head is trained in, at a precision that `pick_precision` gave; evaluation is in fp32 always."""
    return contextlib.nullcontext() if precision == "fp32" else torch.autocast(device.type, HALF[precision])


@contextlib.contextmanager
def repeatable(threads: int | None = None) -> Any:
    """Inside, the same inputs give the same bytes on this machine, on `threads` CPU threads (torch's own number where None)."""
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # read when CUDA starts; without it cuBLAS may sum in any order
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.get_num_threads(),
    )
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = (
        False  # a pass over every new tensor, which finds errors and repeats nothing
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.set_num_threads(before[2])
