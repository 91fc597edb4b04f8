"""Receipts: the results of finished tasks, and whether they are still valid."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foundation.checksums import problem, read_sealed, write_sealed
from foundation.errors import UserError
from foundation.files import fault_point

SMALL = 64 << 20
"""Bytes of the largest file whose content is compared each time a finished task is asked for. Larger ones are compared
before a task reads them, and by VerifyCache."""


@dataclass(frozen=True)
class Receipt:
    """What a finished task resolved to.

    request: the significant parameters in clear. result: identities and places. files: what must still be there, see
    `foundation.checksums.entry`. run: seconds, model loads and rows extracted of the run that made it.
    """

    task: str
    request: Mapping[str, Any]
    result: Mapping[str, Any]
    files: Sequence[Mapping[str, Any]]
    run: Mapping[str, Any]


def write(path: Path, receipt: Receipt) -> None:
    """Write a receipt, atomically and last: it is the proof that the task is done."""
    fault_point("before-receipt")
    write_sealed(path, asdict(receipt))


@dataclass(frozen=True)
class Examined:
    """A receipt, None where there is none; and what is wrong with it or a file that it lists, a line, or None."""

    receipt: dict[str, Any] | None = None
    fault: str | None = None


def examine(root: Path, path: Path, most: int | None = SMALL) -> Examined:
    """The receipt at `path`, compared with the files that it lists.

    root: the work folder. most: bytes of the largest file whose content is compared, not only its size; None: all.
    """
    if not os.path.lexists(path):
        return Examined()
    try:
        receipt = read_sealed(path, remedy=lambda _: "")
        wrong = [(file, problem(root, file, most)) for file in receipt["files"]]
    except UserError as error:
        return Examined(fault=str(error).removesuffix("; "))
    except (KeyError, TypeError, AttributeError):
        return Examined(fault=f"{path} is no receipt")
    faults = [f"{root / file['path']} {words}" for file, words in wrong if words]
    more = f" ({len(faults) - 1} more of this task)" if len(faults) > 1 else ""
    return Examined(receipt, f"{faults[0]}{more}" if faults else None)


def standing(root: Path, path: Path, most: int | None = SMALL) -> dict[str, Any] | None:
    """The receipt at `path` if every file that it lists is as it was written, else None: the task is incomplete.

    See `examine`.
    """
    examined = examine(root, path, most)
    return None if examined.fault else examined.receipt
