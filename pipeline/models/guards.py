"""What is looked at before a library meets a model's files, and what becomes of their damage."""

import contextlib
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from foundation.errors import PassingError, UserError

MOST_LAYERS, MOST_SIZE = 1_000, 1 << 31
"""Of a configuration: blocks of a model, any other whole number. Libraries build what is announced before they look at
the weights."""
_DEPTHS = re.compile(r"layers?$|depths?$|blocks?$", re.IGNORECASE)
_COUNTED = {"num_labels", "num_classes", "vocab_size", "max_position_embeddings"}
_MOST_COUNTED = 10_000_000


def check_sizes(config: Any, where: str, name: str = "") -> None:
    """Raises `UserError` for a configuration that announces more than any model has. where: names it in the message."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            check_sizes(value, where, str(key))
    elif isinstance(config, list):
        if _DEPTHS.search(name):
            config = [*config, sum(value for value in config if type(value) is int)]
        for value in config:
            check_sizes(value, where, name)
    elif type(config) is int:
        most = MOST_LAYERS if _DEPTHS.search(name) else _MOST_COUNTED if name in _COUNTED else MOST_SIZE
        if abs(config) > most:
            raise UserError(f"{where}: {name} is {str(config)[:40]}, expected at most {most:,}; save the model again")


@contextlib.contextmanager
def explained(reference: str) -> Iterator[None]:
    """Inside, a model's files are read: whatever their damage raises there becomes a `UserError`."""
    try:
        yield
    except (UserError, PassingError, MemoryError, ImportError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which says itself what is too large
            raise
        reason = textwrap.shorten(" ".join(str(error).split()), 160, placeholder=" …")
        raise UserError(
            f"model {reference!r}: its files cannot be read ({type(error).__name__}: {reason}); download or save the "
            "model again"
        ) from error
