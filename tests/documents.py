"""The pages of the documentation, their blocks of commands, and a folder in which those are run as a reader would run
them."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
PAGES = [*(ROOT / name for name in TOP), *sorted((ROOT / "docs").rglob("*.md"))]
NOT_SEEN = {".git", ".venv", "artifacts", "site", "build"}
_FENCE = re.compile(r"^( *)(`{3,})([^\n`]*)\n(.*?)^\1\2[ \t]*$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block. line: of its first fence, from 1. language and mark: first and second word behind that fence."""

    page: Path
    line: int
    language: str
    mark: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text, found = page.read_text(), []
    for match in _FENCE.finditer(text):
        language, _, mark = match[3].strip().partition(" ")
        found.append(Block(page, text[: match.start()].count("\n") + 1, language, mark.strip(), match[4]))
    return found


def checkout(folder: Path, work: Path) -> Path:
    """A folder that looks like a clone of this repository whose `artifacts` is `work`."""
    folder.mkdir(parents=True)
    for path in ROOT.iterdir():
        if path.name not in NOT_SEEN:
            (folder / path.name).symlink_to(path)
    (folder / "artifacts").symlink_to(work)
    return folder


def run(block: Block, folder: Path, timeout: float = 1500) -> str:
    """What a block of commands or of Python prints when it is run in `folder`. A block of commands fails with the first
    of them that does."""
    command = (
        ["bash", "-euo", "pipefail", "-c", block.text]
        if block.language == "bash"
        else [sys.executable, "-c", block.text]
    )
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEL_")}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**environment, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{block.text}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr
