"""A table of texts, and how it is written in a terminal, in Markdown and in LaTeX."""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A text; the best of its column is marked."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """header: names of the columns, the first that of the rows' own. notes: sentences below it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[Cell | str]], *notes: str) -> Table:
    """A table of cells or plain texts. Empty notes are left out."""
    cells = tuple(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows)
    return Table(title, tuple(header), cells, tuple(note for note in notes if note))


def worded(shown: Table) -> list[bool]:
    """Which columns hold words rather than numbers, the first always."""
    columns = ["".join(row[place].text for row in shown.rows) for place in range(len(shown.header))]
    return [
        place == 0 or sum(map(str.isalpha, text)) > sum(map(str.isdigit, text)) for place, text in enumerate(columns)
    ]


def as_text(shown: Table, bold: bool = False) -> str:
    """Plain text in columns. The best is marked with `*`, and in a terminal (`bold`) set bold."""
    lines = [[_printable(name) for name in shown.header]]
    lines += [[_printable(cell.text) + ("*" if cell.best else "") for cell in row] for row in shown.rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(shown.header))]
    words_of = worded(shown)
    marked = [[False] * len(shown.header), *([cell.best and bold for cell in row] for row in shown.rows)]
    text = [_printable(shown.title)]
    for line, marks in zip(lines, marked, strict=True):
        cells = [
            cell.ljust(width) if words else cell.rjust(width)
            for cell, width, words in zip(line, widths, words_of, strict=True)
        ]
        text.append(
            "  ".join(
                f"\x1b[1m{cell}\x1b[0m" if mark else cell for cell, mark in zip(cells, marks, strict=True)
            ).rstrip()
        )
    return "\n".join([*text, *(f"  {_printable(note)}" for note in shown.notes)])


def as_markdown(shown: Table) -> str:
    """A Markdown table (GitHub's), the best in bold."""
    lines = [f"### {escape_markdown(shown.title)}", ""]
    lines.append("| " + " | ".join(map(escape_markdown, shown.header)) + " |")
    lines.append("|" + "|".join("---" if words else "---:" for words in worded(shown)) + "|")
    for row in shown.rows:
        cells = [f"**{escape_markdown(cell.text)}**" if cell.best else escape_markdown(cell.text) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, *(part for note in shown.notes for part in ("", escape_markdown(note)))]) + "\n"


def as_latex(shown: Table) -> str:
    """A LaTeX table (package booktabs), the best in bold."""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex(' '.join([shown.title + '.', *shown.notes]))}}}",
    ]
    lines += [rf"\begin{{tabular}}{{{''.join('l' if words else 'r' for words in worded(shown))}}}", r"\toprule"]
    lines += [" & ".join(map(escape_latex, shown.header)) + r" \\", r"\midrule"]
    for row in shown.rows:
        cells = [rf"\textbf{{{escape_latex(cell.text)}}}" if cell.best else escape_latex(cell.text) for cell in row]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


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
