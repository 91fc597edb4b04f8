"""The module that `luigi --module tasks COMMAND` names: it imports the commands."""

import sys

from mel_cache.commands.catalogue import *  # noqa: F403 - the list stands there, where `python -m mel_cache` finds it too
from mel_cache.commands.catalogue import __all__ as __all__

if __name__ == "__main__":
    from mel_cache.commands.shell import cmdline

    cmdline.run("mel_cache.commands.catalogue", sys.argv[1:])
