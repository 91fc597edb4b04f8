"""New mentions linked against the KB of a finished run."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linking.linker import Explained, Hints, Linked, Linker

__all__ = ["Explained", "Hints", "Linked", "Linker"]


def __getattr__(name: str) -> Any:
    """Import `linking.linker`, and torch with it, when one of its names is used for the first time."""
    if name in __all__:
        from linking import linker

        return getattr(linker, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
