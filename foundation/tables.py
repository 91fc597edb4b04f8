"""Tables of text: described once, printed for a terminal, as Markdown or as LaTeX (the layout is tabulate's)."""

import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import fill, indent

from tabulate import DataRow, Line, TableFormat, tabulate
from wcwidth import wcswidth

NARROWEST = 16
"""Characters that a column keeps when it is wrapped to fit a terminal."""


@dataclass(frozen=True)
class Cell:
    """A text. best: whether it is marked as the best of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class TextTable:
    """header: names of the columns. title: a line above, "" for none. notes: sentences below. words: names of columns
    that are set left even where they hold more digits than letters."""

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    notes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


def text_table(
    header: Sequence[str],
    rows: Iterable[Sequence[Cell | str]],
    title: str = "",
    notes: Iterable[str] = (),
    words: Iterable[str] = (),
) -> TextTable:
    """A table of cells or plain texts. Empty notes are left out."""
    cells = tuple(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows)
    return TextTable(tuple(header), cells, title, tuple(filter(None, notes)), tuple(words))


def word_columns(table: TextTable) -> list[bool]:
    """Which columns hold words, set left, and which numbers, set right. The first always holds words."""

    def holds_words(place: int, name: str) -> bool:
        text = "".join(row[place].text for row in table.rows)
        return place == 0 or name in table.words or sum(map(str.isalpha, text)) > sum(map(str.isdigit, text))

    return [holds_words(place, name) for place, name in enumerate(table.header)]


def as_text(table: TextTable, bold: bool = False, width: int | None = None) -> str:
    """Plain text in columns; the best of a column is marked with `*`.

    bold: set the best bold as well, by a terminal's escape codes. width: characters of the terminal's lines; notes, and
    the column that has most to give where the table is wider, are wrapped between words (None: nothing is).
    """
    plain = [[_printable(name) for name in table.header]]
    plain += [[_printable(cell.text) + ("*" if cell.best else "") for cell in row] for row in table.rows]
    marks = [[False] * len(table.header), *([cell.best and bold for cell in row] for row in table.rows)]
    lines = [
        [f"\x1b[1m{text}\x1b[0m" if mark else text for text, mark in zip(row, marked, strict=True)]
        for row, marked in zip(plain, marks, strict=True)
    ]
    laid_out = _laid_out(table, (), lines, "plain", _limits(plain, width))
    title = [_printable(table.title)] if table.title else []
    room = max(NARROWEST, (width or sys.maxsize) - 2)
    notes = [indent(fill(_printable(note), room), "  ") for note in table.notes]
    return "\n".join([*title, *map(str.rstrip, laid_out.splitlines()), *notes])


def as_markdown(table: TextTable) -> str:
    """A Markdown table (GitHub's), the best of a column in bold."""
    header = [escape_markdown(name) for name in table.header]
    rows = [
        [f"**{escape_markdown(cell.text)}**" if cell.best else escape_markdown(cell.text) for cell in row]
        for row in table.rows
    ]
    parts = [f"### {escape_markdown(table.title)}"] if table.title else []
    parts += [_laid_out(table, header, rows, "pipe"), *map(escape_markdown, table.notes)]
    return "\n\n".join(parts) + "\n"


def as_latex(table: TextTable) -> str:
    """A LaTeX table (package booktabs), the best of a column in bold."""
    header = [escape_latex(name) for name in table.header]
    rows = [
        [rf"\textbf{{{escape_latex(cell.text)}}}" if cell.best else escape_latex(cell.text) for cell in row]
        for row in table.rows
    ]
    columns = "".join("l" if words else "r" for words in word_columns(table))
    row = DataRow("", " & ", r" \\")
    layout = TableFormat(
        lineabove=Line(rf"\begin{{tabular}}{{{columns}}}" + "\n" + r"\toprule", "", "", ""),
        linebelowheader=Line(r"\midrule", "", "", ""),
        linebetweenrows=None,
        linebelow=Line(r"\bottomrule" + "\n" + r"\end{tabular}", "", "", ""),
        headerrow=row,
        datarow=row,
        padding=0,
        with_header_hide=None,
    )
    caption = escape_latex(" ".join([*([f"{table.title}."] if table.title else []), *table.notes]))
    before = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}"]
    return "\n".join([*before, _laid_out(table, header, rows, layout), r"\end{table}"]) + "\n"


def terminal_width() -> int | None:
    """Characters in a line of the terminal (`COLUMNS` where it is set); None where standard output is none."""
    return shutil.get_terminal_size((0, 0)).columns or None


def terminal_text(text: str) -> str:
    """`text` without its bold type where the user has set `NO_COLOR`."""
    return re.sub(r"\x1b\[[01]m", "", text) if os.environ.get("NO_COLOR") else text


def _laid_out(
    table: TextTable,
    header: Sequence[str],
    rows: list[list[str]],
    layout: str | TableFormat,
    limits: list[int | None] | None = None,
) -> str:
    laid_out: str = tabulate(
        rows,
        headers=header,
        tablefmt=layout,
        colalign=["left" if words else "right" for words in word_columns(table)] if rows else None,
        disable_numparse=True,
        preserve_whitespace=True,
        maxcolwidths=limits,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return laid_out


def _limits(lines: list[list[str]], width: int | None) -> list[int | None] | None:
    """The width to which each column is wrapped, None for those that are not; None where nothing is wrapped."""
    columns = list(zip(*lines, strict=True))
    widths = [max(map(wcswidth, column)) for column in columns]
    excess = sum(widths) + 2 * (len(widths) - 1) - (width or sys.maxsize)
    least = [max(wcswidth(word) for text in column for word in text.split() or [""]) for column in columns]
    spare = [size - max(NARROWEST, longest) for size, longest in zip(widths, least, strict=True)]
    chosen = spare.index(max(spare))
    if excess <= 0 or spare[chosen] <= 0:
        return None
    limit = widths[chosen] - min(excess, spare[chosen])
    return [limit if place == chosen else None for place in range(len(widths))]


def escape_markdown(text: str) -> str:
    """`text` as Markdown shows it: nothing in it is markup, HTML or the end of a cell."""
    text = _printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", text)


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "−": "$-$",
    "–": "--",
    "Δ": r"$\Delta$",
    "λ": r"$\lambda$",
    "[": "{[}",
    "]": "{]}",
}


def escape_latex(text: str) -> str:
    """`text` as LaTeX prints it: no character of it is a command."""
    return "".join(_LATEX.get(character, character) for character in _printable(text))


def _printable(text: str) -> str:
    """One line without control characters: a name from data must not move the cursor or end a row."""
    return "".join(character if character.isprintable() else " " for character in text)
