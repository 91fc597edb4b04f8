"""The paths below the work folder; no other module builds them."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from foundation.errors import UserError


def descriptions(dataset: Path, mode: str, kind: str = ".parquet") -> Path:
    """A file of the texts that `EnhanceEntities --mode MODE` leaves in a prepared dataset's folder."""
    return dataset / f"descriptions-{mode}{kind}"


@dataclass(frozen=True)
class Paths:
    """The folders below one `--work-dir`. Nothing is created here."""

    root: Path

    @classmethod
    def below(cls, folder: str | Path) -> "Paths":
        """The paths below a folder that a user names. Raises `UserError` for a name that no folder can have."""
        root = Path(folder).absolute()
        try:
            str(root).encode("utf-8")
            os.stat(root)
        except UnicodeEncodeError:
            raise UserError(
                f"--work-dir {str(root)!r}: the name, or the locale (LC_ALL), is not UTF-8; choose another --work-dir"
            ) from None
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
                reason = (error.strerror or "").lower()
                raise UserError(f"--work-dir {str(root)[:200]!r}: {reason}; choose another --work-dir") from None
        return cls(root)

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def receipts(self) -> Path:
        return self.root / "receipts"

    @property
    def memo(self) -> Path:
        """Hashes of files that have not changed since (by size and mtime); safe to delete."""
        return self.root / "memo"

    @property
    def rates(self) -> Path:
        """Last measured items per second of each feature."""
        return self.root / "memo" / "rates.json"

    def dataset(self, name: str, content: str) -> Path:
        return self.root / "datasets" / f"{name}-{content[:12]}"

    @property
    def answers(self) -> Path:
        """Answers of wikis and language models, for all datasets; no question is sent twice."""
        return self.root / "answers"

    def demo(self, part: str, request: str) -> Path:
        return self.root / "demo" / f"{part}-{request[:12]}"

    def receipt(self, task: str, request: str) -> Path:
        return self.receipts / f"{task}-{request[:16]}.json"

    def run(self, dataset: str, method: str, digest: str) -> Path:
        return self.root / "runs" / dataset / method / digest[:16]

    def find_run(self, name: str) -> Path:
        """The folder of a run, or of a mean over seeds: named as a path, or as <dataset>/<method>/<hash>.

        Raises `UserError` where there is no such folder.
        """
        for path in (Path(name).expanduser(), self.root / name, self.root / "runs" / name):
            if name and os.path.isdir(path):
                return path.absolute()
        raise UserError(
            f"{name}: no such run, neither as a folder nor under {self.root / 'runs'}; "
            "name the folder that TrainHead printed as `run:`, or <dataset>/<method>/<hash>"
        )

    def learned(self) -> list[Path]:
        """The folders of features that runs of heads learned to make; they belong to those runs."""
        return sorted(self.root.glob("runs/*/*/*/cache"))

    def sweep(self, dataset: str, method: str, digest: str) -> Path:
        return self.root / "sweeps" / dataset / method / digest[:16]

    def report(self, dataset: str, name: str, digest: str) -> Path:
        return self.root / "reports" / dataset / f"{name}-{digest[:12]}"

    def relative(self, path: Path) -> str:
        """A path as receipts hold it: that of a file in a layer of the cache is absolute."""
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()
