"""`python -m mel_cache COMMAND`: the same as `luigi --module tasks COMMAND`, whatever lies in the current folder."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # `python -m` looks into the current folder first, where a `tasks.py` or a `report.py` of the user's own may lie.
    if sys.path[0] == os.getcwd() != str(Path(__file__).resolve().parents[1]):
        del sys.path[0]
    from mel_cache.commands.shell import cmdline

    cmdline.run("mel_cache.commands.catalogue", sys.argv[1:])
