"""Which device and precision a run uses."""

import contextlib
from typing import Any

from foundation.errors import UserError

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "fp16", "bf16")


def check(device: str, precision: str = "auto") -> None:
    """Raises `UserError` for a name that no device or precision has; whether the device is there is not looked at."""
    kind, _, number = device.partition(":")
    if kind not in DEVICES or (":" in device and not (kind == "cuda" and number.isdecimal())):
        raise UserError(f"--device {device!r}: unknown; expected one of {', '.join(DEVICES)}, or cuda:N")
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision!r}: unknown; expected one of {', '.join(PRECISIONS)}")


def choose(device: str) -> str:
    """`auto` → cuda, mps or cpu, whichever is there first. Raises `UserError` for a device that was asked for and is not there."""
    import torch

    check(device)
    kind = device.partition(":")[0]
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if kind == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there[kind]:
        raise UserError(
            f"--device {device}: this machine has none that torch can use; leave --device out, or check the driver and torch's build"
        )
    if device.startswith("cuda:") and int(device[5:]) >= torch.cuda.device_count():
        raise UserError(
            f"--device {device}: this machine has {torch.cuda.device_count()} CUDA device(s), numbered from 0"
        )
    return device


def autocast(device: str, precision: str) -> Any:
    """The context in which models run: half precision on CUDA unless told otherwise, full precision elsewhere."""
    import torch

    check("auto", precision)
    if precision == "auto":
        precision = "fp16" if device.startswith("cuda") else "fp32"
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.partition(":")[0], {"fp16": torch.float16, "bf16": torch.bfloat16}[precision])
