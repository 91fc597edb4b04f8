"""Standoff annotations in the format of brat: a text, and beside it a file with its spans and their entities.

https://brat.nlplab.org/standoff.html
"""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from foundation.files import write_atomic
from linking.linker import Linked
from linking.texts.recognised import Found

CONFIG = """[entities]
{labels}

[relations]

[events]

[attributes]
NIL	Arg:<ENTITY>
"""
_LONGEST = 100  # characters of a file's name, before its number


class Folder:
    """Writes texts and annotations into a folder, two files for each text, and the configuration that brat reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.labels = set[str]()
        self._names = set[str]()

    def add(self, name: str, text: str, linked: Sequence[tuple[Found, Linked]]) -> None:
        """Write a text. name: its id."""
        stem = self._stem(name)
        (self.path / f"{stem}.txt").write_bytes(text.encode())
        (self.path / f"{stem}.ann").write_bytes(annotations(text, linked).encode())
        self.labels |= {_label(span.label) for span, _ in linked}

    def close(self) -> None:
        """Write the configuration."""
        content = CONFIG.format(labels="\n".join(sorted(self.labels or {"Mention"})))
        write_atomic(self.path / "annotation.conf", content.encode())

    def _stem(self, name: str) -> str:
        """A file's name for an id: letters and digits as they are, the rest in %-notation, none twice."""
        stem = quote(name, safe="").replace(".", "%2E")[:_LONGEST]
        number = 1
        unique = stem
        while unique.lower() in self._names:
            number += 1
            unique = f"{stem}~{number}"
        self._names.add(unique.lower())
        return unique


def annotations(text: str, linked: Sequence[tuple[Found, Linked]]) -> str:
    """The lines of an .ann file: T spans, N their entities, A those that are NIL, # confidences."""
    lines = []
    for number, (span, answer) in enumerate(linked, 1):
        parts = _parts(text, span)
        offsets = ";".join(f"{start} {end}" for start, end in parts)
        words = " ".join(_plain(text[start:end]) for start, end in parts)
        lines.append(f"T{number}\t{_label(span.label)} {offsets}\t{words}")
        if answer.nil:
            lines.append(f"A{number}\tNIL T{number}")
        elif answer.entities:
            first = answer.entities[0]
            lines.append(f"N{number}\tReference T{number} KB:{quote(first.id, safe='')}\t{_plain(first.name)}")
        if answer.confidence is not None:
            lines.append(f"#{number}\tAnnotatorNotes T{number}\tconfidence {answer.confidence:.4f}")
    return "".join(f"{line}\n" for line in lines)


def _parts(text: str, span: Found) -> list[tuple[int, int]]:
    """The span without line breaks, which no annotation may cross."""
    found = re.finditer(r"[^\r\n]+", text[span.start : span.end])
    return [(span.start + part.start(), span.start + part.end()) for part in found]


def _plain(text: str) -> str:
    return re.sub(r"[\t\r\n\v\f\x85\u2028\u2029]", " ", text)


def _label(label: str) -> str:
    """As brat writes a type: letters, digits, `_` and `-`."""
    return re.sub(r"[^\w-]+", "_", label) or "Mention"
