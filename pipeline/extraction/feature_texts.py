"""Texts about the people in a mention's picture: a sentence of attributes for each face, and the recognised names."""

from collections.abc import Mapping, Sequence

import numpy as np

from foundation.errors import UserError, nearest
from pipeline.extraction.parents import ParentRow

VERSION = 1  # raised by hand when a name is packed otherwise
NAME_BYTES = 96
THRESHOLD = 0.5  # a name recognised with no more than this is no text (DWE+, section 3)
MOST = 8  # texts of one mention, the best first
_ORDER = ("gender", "race", "age", "emotion")
_PAPER_WORDS = {"man": "male", "woman": "female"}  # DWE+ says male and female, DeepFace Man and Woman


def pack(name: str) -> np.ndarray:
    """A name as (96,) uint8: UTF-8, cut at a character, zeros behind."""
    data = name.encode("utf-8", "replace")[:NAME_BYTES].decode("utf-8", "ignore").encode()
    return np.frombuffer(data.ljust(NAME_BYTES, b"\0"), np.uint8)


def unpack(row: np.ndarray) -> str:
    """Inverse of `pack`."""
    return np.asarray(row, np.uint8).tobytes().rstrip(b"\0").decode("utf-8", "replace")


def texts(
    view: str,
    phrases: Sequence[str],
    rows: Sequence[ParentRow | None],
    labels: Mapping[str, Sequence[str]],
    threshold: float = THRESHOLD,
) -> list[list[str]]:
    """The strings of `view` for each mention, at most `MOST`, none where its picture has no row.

    rows: of `face_attributes` or `identity`, by output. labels: names of an output's classes. Raises `UserError` for
    another view.
    """
    makers = {
        "face_attributes": lambda phrase, row: sentences(phrase, row, labels),
        "identities": lambda phrase, row: names(row, threshold),
    }
    if view not in makers:
        raise UserError(f"no view {view!r} of what was found in a picture{nearest(view, makers)}")
    return [
        makers[view](phrase, row)[:MOST] if row is not None else [] for phrase, row in zip(phrases, rows, strict=True)
    ]


def sentences(phrase: str, row: ParentRow, labels: Mapping[str, Sequence[str]]) -> list[str]:
    """`<mention>, gender: male, race: white, age: 50` for each face, of the attributes that were found; the likeliest
    class of each. Attributes that the paper has not follow in the order of the row."""
    attributes = [name for name in _ORDER if name in row] + [
        name for name in row if name in labels and name not in _ORDER
    ]
    parts = []
    for face in range(len(row[attributes[0]]) if attributes else 0):
        words = [phrase]
        for name in attributes:
            if name == "age":
                value = str(round(float(row[name][face])))
            else:
                label = labels[name][int(np.argmax(row[name][face]))].lower()
                value = _PAPER_WORDS.get(label, label)
            words.append(f"{name}: {value}")
        parts.append(", ".join(words))
    return parts


def names(row: ParentRow, threshold: float = THRESHOLD) -> list[str]:
    """`Barack Obama, score: 0.76` for each name with a score over `threshold` on any of the faces, the best first."""
    best: dict[str, float] = {}
    for packed, scores in zip(row["names"], row["scores"], strict=True):
        for name, score in zip(packed, scores, strict=True):
            recognised = unpack(name)
            if recognised and score > threshold:
                best[recognised] = max(best.get(recognised, 0.0), float(score))
    return [f"{name}, score: {score:.2f}" for name, score in sorted(best.items(), key=lambda item: (-item[1], item[0]))]
