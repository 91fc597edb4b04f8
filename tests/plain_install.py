"""An environment as a plain `pip install` leaves it: links to those of this one's packages that setup.cfg wants."""

import configparser
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

from documents import ROOT
from packaging.requirements import Requirement


def wanted() -> set[str]:
    """Normalised names of the distributions that setup.cfg wants without an extra, and of all that they want."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = [Requirement(line) for line in setup["options"]["install_requires"].split("\n") if line]
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    while listed:
        requirement = listed.pop()
        extras = ["", *sorted(requirement.extras)]
        for extra in extras:
            name = re.sub(r"[-_.]+", "-", requirement.name).lower()
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            found.add(name)
            for line in importlib.metadata.requires(name) or []:
                more = Requirement(line)
                if more.marker is None or more.marker.evaluate({"extra": extra}):
                    listed.append(more)
    return found


def make(folder: Path) -> Path:
    """The interpreter of such an environment, made in `folder`; it finds no other package."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in wanted():
        distribution = importlib.metadata.distribution(name)
        for part in {Path(file).parts[0] for file in distribution.files or () if Path(file).parts[0] != ".."}:
            source = Path(str(distribution.locate_file(part)))
            if source.exists() and not (site / part).exists() and not part.endswith(".pth"):
                os.symlink(source, site / part)
    return folder / "bin" / "python"
