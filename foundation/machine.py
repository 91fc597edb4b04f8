"""The machine's devices and their memory; whether a folder can be written and mapped."""

import contextlib
import mmap
import os
import platform
from pathlib import Path

from foundation.contracts import contract
from foundation.errors import UserError
from foundation.files import explained, make_folder


@contract
class Device:
    """A device that torch can use. total, free: bytes of its memory, None where unknown."""

    name: str
    description: str
    total: int | None = None
    free: int | None = None


def devices() -> tuple[Device, ...]:
    """The CPU and every accelerator."""
    import torch

    found = [Device(name="cpu", description=f"{cores()} cores, {platform.machine()}", **_memory())]
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        description = torch.cuda.get_device_name(number)
        found.append(Device(name=f"cuda:{number}", description=description, total=total, free=free))
    if torch.backends.mps.is_available():
        found.append(Device(name="mps", description="Apple's GPU, which shares the CPU's memory"))
    return tuple(found)


def check_folder(folder: Path) -> None:
    """Write a file into `folder`, which is made if need be, and map it. Raises `UserError` where that cannot be
    done."""
    path = folder / f".doctor-{os.getpid()}.tmp"
    try:
        make_folder(folder)
        with explained(path), open(path, "w+b") as file:
            file.write(bytes(mmap.PAGESIZE))
            file.flush()
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                if mapped[:] != bytes(mmap.PAGESIZE):
                    raise UserError(f"{folder}: a file there is not mapped as written; choose another --work-dir")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: cannot be written or mapped ({error}); choose another --work-dir") from None
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> dict[str, int]:
    """Total and free bytes of memory, None where unknown."""
    names = {"total": "SC_PHYS_PAGES", "free": "SC_AVPHYS_PAGES"}
    known = {key: name for key, name in names.items() if name in os.sysconf_names}
    return {key: os.sysconf(name) * os.sysconf("SC_PAGE_SIZE") for key, name in known.items()}
