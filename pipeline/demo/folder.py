"""A folder that appears whole or not at all."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from foundation.files import explained, make_folder

ABANDONED = 3600  # seconds after which an unfinished folder belongs to no running build


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its name, replacing what is there, when the block ends well.

    Two processes that make the same folder both succeed: the later one stays. Raises `UserError` for a full or
    forbidden place.
    """
    folder = Path(folder).absolute()
    make_folder(folder.parent)
    with explained(folder):
        _sweep(folder)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
        try:
            os.chmod(temporary, 0o777 & ~_umask())
            yield temporary
            for path in temporary.rglob("*"):
                if path.is_file():
                    path.chmod(0o666 & ~_umask())  # safetensors makes its own readable for their owner alone
            _take_name(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what killed builds of `folder` have left behind."""
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if left.stat().st_mtime < time.time() - ABANDONED:
                shutil.rmtree(left, ignore_errors=True)


def _take_name(temporary: Path, folder: Path) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError):
            os.rename(temporary, folder)
            return
        with (
            contextlib.suppress(FileNotFoundError),
            tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".old", dir=folder.parent) as old,
        ):
            os.rename(folder, Path(old) / "folder")
    os.rename(temporary, folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
