"""Which device and precision a computation uses, and arithmetic that repeats itself. torch is imported inside."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from foundation.errors import UserError

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
MOST_PROCESSES = 256
"""On one machine's CPU."""


def check(device: str, precision: str = "auto") -> None:
    """Raises `UserError` for a name that no device or precision has; whether the machine has the device is not looked
    at."""
    kind, _, number = device.partition(":")
    if kind not in DEVICES or (":" in device and not (kind == "cuda" and number.isdecimal())):
        raise UserError(f"--device {device!r}: unknown; expected one of {', '.join(DEVICES)}, or cuda:N")
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision!r}: unknown; expected one of {', '.join(PRECISIONS)}")


def several(devices: str) -> tuple[str, ...]:
    """`cuda:0,cuda:1` → a device for each process; `cpu:2` → two on the CPU. Raises `UserError`; the machine is not
    looked at."""
    named: list[str] = []
    for device in filter(None, (part.strip() for part in devices.split(","))):
        kind, _, number = device.partition(":")
        if kind == "cpu" and number:
            if not number.isdecimal() or not 1 <= int(number) <= MOST_PROCESSES:
                raise UserError(f"--devices {device!r}: expected cpu:N with N from 1 to {MOST_PROCESSES}")
            named += ["cpu"] * int(number)
            continue
        try:
            check(device)
        except UserError as error:
            raise UserError(f"--devices {devices}: {str(error).partition(': ')[2]}, or cpu:N") from None
        if device in named:
            raise UserError(f"--devices {devices}: {device} is named twice; a process on it serves all")
        named.append(device)
    return tuple(named)


def choose(device: str) -> str:
    """`auto` → cuda, mps or cpu, the first that this machine has. Raises `UserError` for a device that it does not
    have."""
    import torch

    check(device)
    kind = device.partition(":")[0]
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if kind == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[kind]:
        raise UserError(
            f"--device {device}: this machine has none that torch can use; "
            "leave --device out, or check the driver and torch's build"
        )
    if device.startswith("cuda:") and int(device[5:]) >= torch.cuda.device_count():
        raise UserError(
            f"--device {device}: this machine has {torch.cuda.device_count()} CUDA device(s), numbered from 0"
        )
    return device


def choose_precision(precision: str, device: str, training: bool = False) -> str:
    """`auto` → fp32 away from CUDA; on CUDA fp16 for a frozen model, whose outputs keep three bits more than in bf16,
    and for training bf16, whose range gradients do not leave (fp16 where the card lacks bf16). Raises `UserError` for
    an unknown name."""
    check("auto", precision)
    if precision != "auto":
        return precision
    if not device.startswith("cuda"):
        return "fp32"
    import torch

    return "bf16" if training and torch.cuda.is_bf16_supported() else "fp16"


def autocast(device: str, precision: str) -> AbstractContextManager[None]:
    """The context in which a model runs at a precision; `auto` as for a frozen model."""
    import torch

    precision = choose_precision(precision, device)
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.partition(":")[0], {"fp16": torch.float16, "bf16": torch.bfloat16}[precision])


@contextlib.contextmanager
def repeatable(threads: int | None = None) -> Iterator[None]:
    """Inside, the same inputs give the same bytes on this machine, on `threads` CPU threads (None: torch's own)."""
    import torch

    deterministic: Any = torch.utils.deterministic  # its property is not in torch's annotations

    # read when CUDA starts; without it cuBLAS may sum in any order
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cores, fill = torch.get_num_threads(), deterministic.fill_uninitialized_memory
    deterministic.fill_uninitialized_memory = False  # it finds errors and repeats nothing, at a pass over every tensor
    torch.use_deterministic_algorithms(True, warn_only=True)
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        deterministic.fill_uninitialized_memory = fill
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.set_num_threads(cores)
