"""Label files: the name of each class of a recogniser."""

from pathlib import Path

from foundation.errors import UserError
from foundation.files import parse_json

MOST_BYTES = 16 << 20


def read_names(path: Path) -> list[str]:
    """One name per class from a text file (a line each) or a JSON list. Raises `UserError` for anything else."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(
                f"labels {path}: {path.stat().st_size:,} bytes, expected one name per class, at most {MOST_BYTES:,}"
            )
        text = path.read_text(encoding="utf-8")
        names = parse_json(text) if path.suffix == ".json" else [line.strip() for line in text.rstrip("\n").split("\n")]
    except (OSError, ValueError) as error:
        raise UserError(
            f"labels {path}: cannot be read ({error.__class__.__name__}); expected one name per class, a line each "
            "or a JSON list"
        ) from None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise UserError(
            f"labels {path}: expected one name per class, a line each or a JSON list of strings, none of them empty"
        )
    return names
