"""Strategies of odd values, of JSON with a few edits, of damaged bytes, and of folders of such files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

Files = Mapping[str, bytes | None]
"""A folder's files by path; None: a folder stands in a file's place."""


class Raw(str):
    """Text that stands in JSON as it is, such as a number of 400 digits."""


class Pairs(list[tuple[str, Any]]):
    """A JSON object, in which a key may stand twice."""


NUMBERS = [
    *("0", "-1", "-0.0", "1e400", "-1e400", "1e-400", "NaN", "Infinity", "-Infinity", "0.1", "1.0", "1e9"),
    *(str(2**bits + more) for bits in (8, 15, 16, 31, 32, 53, 63, 64, 128) for more in (-1, 0)),
    *(f"-{2**bits}" for bits in (31, 63, 64)),
    *("9" * digits for digits in (18, 19, 20, 39, 310, 400, 4300, 4301)),
]
TEXTS = [
    *("", " ", "\t\n", "\0", "a\0b", "\n", "\r\n", "\x1b[31m", "\u2028", "\u200b", "\ufeff", "\ufffd", "\x85"),
    *("nan", "NaN", "null", "None", "true", "nil", "inf", "-1", "0", "1e999", "1_000", "0x10", "1.5"),
    *("\u0661\u0662", "\uff11\uff12", "\u00b2", "\u2460", "\u4e09", "\U0001d7d8"),  # digits of other kinds
    *("..", ".", "/", "../../x", "/etc/passwd", "a/../../b", "~", "C:\\x", "file:///x", "con", "-", "--", "@", "@x"),
    *("%", "%s", "%00", "%zz", "{}", "{0}", "{phrase}", "{x.__class__}", "$HOME", "`x`", "<b>", "'", '"', "\\"),
    *("\ud800", "x\udfffy", "e\u0301", "\u0301", "\U0001f468\u200d\U0001f469", "\u0645\u0631\u062d\u0628\u0627"),
    *("x" * 300, "x" * 5000, "ab " * 20000, "\u0301" * 3000, "(" * 500, "a|" * 300, "Q" + "1" * 400),
]

BYTES = [0, 1, 2, 3, 7, 8, 16, 64, 127, 128, 254, 255]
"""What a damaged byte becomes: lengths and counts that are off, or enormous."""

texts = st.one_of(st.sampled_from(TEXTS), st.text(max_size=12))
numbers = st.sampled_from([Raw(number) for number in NUMBERS])
_WHOLE: list[Any] = [
    *(None, True, False, [], {}, [[]], [None], [""], ["a"], {"": ""}, {"a": None}, [1, 2, 3], {"id": 1}, [{}]),
    Raw("[" * 400 + "]" * 400),
    Raw("[" * 100_000 + "]" * 100_000),
    Raw('{"a":' * 3000 + "1" + "}" * 3000),
    Raw("[" + "0," * 20_000 + "0]"),
]
values = st.one_of(numbers, texts, st.sampled_from(_WHOLE))
"""Odd JSON values."""


def pairs(value: Any) -> Any:
    """A JSON value with its objects as `Pairs`."""
    if isinstance(value, dict):
        return Pairs((name, pairs(item)) for name, item in value.items())
    return [pairs(item) for item in value] if isinstance(value, list) else value


def render(value: Any) -> str:
    """The JSON text of a value."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{json.dumps(name)}: {render(item)}" for name, item in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(render, value)) + "]"
    return render(pairs(value)) if isinstance(value, dict) else json.dumps(value)


def _places(value: Any, here: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Every place inside a value: the numbers of the items that lead there."""
    items = [item for _, item in value] if isinstance(value, Pairs) else value if isinstance(value, list) else []
    return [here, *(place for number, item in enumerate(items) for place in _places(item, (*here, number)))]


def _edited(value: Any, place: Sequence[int], edit: tuple[str, Any, str]) -> Any:
    if not place:
        return [value] if edit[0] == "wrap" else edit[1]
    number, *rest = place
    items = list(value)
    name, item = items[number] if isinstance(value, Pairs) else ("", items[number])
    kind, odd, key = edit
    if rest:
        new = [(name, _edited(item, rest, edit))]
    elif kind == "remove":
        new = []
    elif kind == "twice":
        new = [(name, item), (name, odd)]
    elif kind == "rename":
        new = [(key, item)]
    elif kind == "add":
        new = [(name, item), (key, odd)]
    else:
        new = [(name, [item] if kind == "wrap" else odd)]
    if isinstance(value, Pairs):
        return Pairs([*items[:number], *new, *items[number + 1 :]])
    return [*items[:number], *(item for _, item in new), *items[number + 1 :]]


_EDITS = ("replace", "replace", "replace", "remove", "twice", "rename", "add", "wrap")


@st.composite
def json_of(draw: st.DrawFn, value: Any) -> str:
    """The JSON text of `value` after one to three edits."""
    changed = pairs(value)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(_places(changed)))
        changed = _edited(changed, place, (draw(st.sampled_from(_EDITS)), draw(values), draw(texts)))
    return render(changed)


@st.composite
def bytes_of(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with a few bytes changed, cut off, put in, or repeated."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(("flip", "flip", "flip", "cut", "insert", "remove", "repeat")))
        if kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + draw(st.binary(min_size=1, max_size=8)) + data[at:]
        elif kind in ("remove", "repeat"):
            end = at + draw(st.integers(1, 64))
            data = data[:at] + data[at:end] * (2 if kind == "repeat" else 0) + data[end:]
        else:
            data = data[:at] + draw(st.binary(min_size=1, max_size=4)) + data[at + 1 :]
    return data


_WHOLE_FILES = [b"", b"\n", b"\0" * 64, b"\xef\xbb\xbf", b"\xff\xfe\0x", b"{}", b"[]", b"null", b"1", b'"x"', b"[" * 99]


def as_json(text: str) -> bytes:
    """JSON text as the bytes of a file."""
    return text.encode("utf-8", "surrogatepass")


@st.composite
def lines_of(draw: st.DrawFn, data: bytes) -> bytes:
    """JSON Lines with one line edited."""
    lines = data.splitlines()
    at = draw(st.integers(0, len(lines) - 1))
    lines[at] = as_json(draw(json_of(json.loads(lines[at]))))
    return b"\n".join(lines) + b"\n"


def file_of(name: str, data: bytes) -> st.SearchStrategy[bytes | None]:
    """A damaged file: JSON and JSON Lines edited as such in most cases."""
    damaged: list[st.SearchStrategy[Any]] = [bytes_of(data), st.sampled_from([*_WHOLE_FILES, None])]
    if name.endswith(".json"):
        damaged += [json_of(json.loads(data)).map(as_json)] * 6
    if name.endswith((".jsonl", ".ndjson")):
        damaged += [lines_of(data)] * 6
    return st.one_of(damaged)


@st.composite
def folder_of(draw: st.DrawFn, files: Mapping[str, bytes], most: int = 2) -> dict[str, bytes | None]:
    """A folder with up to `most` files damaged, one of them perhaps gone."""
    changed: dict[str, bytes | None] = dict(files)
    for name in draw(st.lists(st.sampled_from(sorted(files)), min_size=1, max_size=most, unique=True)):
        if draw(st.integers(0, 19)) == 0:
            del changed[name]
        else:
            changed[name] = draw(file_of(name, files[name]))
    return changed


def write(folder: Path, files: Files) -> Path:
    """The folder with these files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            path.mkdir()
        else:
            path.write_bytes(data)
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    """The files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
