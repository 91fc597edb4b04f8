"""Where the pipeline and the heads meet."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linking.linker import Linked, Linker

__all__ = ["Linked", "Linker"]


def __getattr__(name: str) -> Any:
    """`from linking import Linker`, which imports torch, only where it is asked for."""
    if name in __all__:
        from linking import linker

        return getattr(linker, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
