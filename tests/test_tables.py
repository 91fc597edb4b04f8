"""Tables as text, Markdown and LaTeX: the best is marked, and no name from data becomes markup."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from foundation.tables import (
    Cell,
    as_latex,
    as_markdown,
    as_text,
    escape_latex,
    escape_markdown,
    terminal_text,
    terminal_width,
    text_table,
)
from report.published import published

HOSTILE = (
    "a|b <script>alert(1)</script> *x* _y_ `z` [l](u) #1 $5_000 50% & ~^ {c} \\input{/etc/passwd}\nnext\x1b[31m\u202e"
)


def shown(name="mimic"):
    rows = [[name, Cell("71.20 ± 0.30", True), "full-kb"], ["dwe", "9.00 ± 1.00", "full-kb"]]
    return text_table(["", "H@1", "protocol"], rows, "Figures", ["A note.", ""])


def test_text_marks_the_best_and_sets_numbers_right_and_words_left():
    assert as_text(shown()).splitlines() == [
        "Figures",
        "                 H@1  protocol",
        "mimic  71.20 ± 0.30*  full-kb",
        "dwe      9.00 ± 1.00  full-kb",
        "  A note.",
    ]
    bold = as_text(shown(), bold=True)
    assert bold.count("\x1b[1m") == 1 and re.sub(r"\x1b\[\d+m", "", bold) == as_text(shown())


def test_wide_characters_take_two_columns():
    lines = as_text(text_table(["", "n"], [["日本", "1"], ["ab", "2"]])).splitlines()
    assert lines == ["      n", "日本  1", "ab    2"]


def test_a_table_wider_than_the_terminal_is_wrapped_in_its_widest_column(monkeypatch):
    words = "one two three four five six seven eight nine ten"
    table = text_table(["", "n", "text"], [["a", "1,234", words], ["b", "5", "eleven"]], "T", [f"A note: {words}"])
    lines = as_text(table, width=30).splitlines()
    assert " ".join(line.strip() for line in lines[-3:]) == f"A note: {words}"
    assert max(map(len, lines)) <= 30 and " ".join(line[10:].strip() for line in lines[2:5]) == words
    assert as_text(table, width=200) == as_text(table)
    monkeypatch.setenv("COLUMNS", "30")
    assert terminal_width() == 30


def test_no_color_takes_the_bold_type_away(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    bold = as_text(shown(), bold=True)
    assert terminal_text(bold) == bold
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal_text(bold) == as_text(shown())


def test_markdown_and_latex_set_the_best_bold():
    lines = as_markdown(shown()).splitlines()
    assert lines[2:6] == [
        "|       |              H@1 | protocol   |",
        "|:------|-----------------:|:-----------|",
        "| mimic | **71.20 ± 0.30** | full-kb    |",
        "| dwe   |      9.00 ± 1.00 | full-kb    |",
    ]
    latex = as_latex(shown())
    assert (
        r"mimic & \textbf{71.20 $\pm$ 0.30} & full-kb    \\" in latex
        and r"\begin{tabular}{lrl}" in latex
        and "A note." in latex
    )


def test_a_hostile_name_stays_a_name():
    for form in (as_text, as_markdown, as_latex):
        text = form(shown(HOSTILE))
        assert len(text.splitlines()) == len(form(shown()).splitlines()) and "\x1b" not in text and "\u202e" not in text
    markdown = as_markdown(shown(HOSTILE))
    assert "<script" not in markdown and len(re.findall(r"(?<!\\)\|", markdown.splitlines()[4])) == 4
    for plain, escaped in (
        ("*x*", r"\*x\*"),
        ("_y_", r"\_y\_"),
        ("[l](u)", r"\[l\](u)"),
        ("&", "&amp;"),
        ("\\", "\\\\"),
    ):
        assert escaped in escape_markdown(HOSTILE) and escape_markdown(plain) == escaped
    assert escape_latex("\\input{x}") == r"\textbackslash{}input\{x\}"
    assert re.sub(r"\\(text\w+\{\}|[{}&%$#_])|\{[\[\]]\}", "", escape_latex(HOSTILE)).isprintable()
    assert not re.search(r"[\\&%$#_~^{}]", re.sub(r"\\(text\w+\{\}|[{}&%$#_])|\{[\[\]]\}", "", escape_latex(HOSTILE)))


def test_latex_compiles(tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex on this machine")
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\\usepackage[utf8]{inputenc}\\usepackage[T1]{fontenc}\\usepackage{booktabs}\\begin{document}\n"
        + as_latex(shown(HOSTILE))
        + as_latex(published())
        + "\\end{document}\n"
    )
    subprocess.run(
        ["pdflatex", "-halt-on-error", "-no-shell-escape", "t.tex"], cwd=tmp_path, check=True, capture_output=True
    )


def test_published_figures_are_called_published_in_every_form():
    for text in (as_text(published()), as_markdown(published()), as_latex(published())):
        assert "PUBLISHED" in text and "not measured here" in text and "87.98 / 91.82" in text and "full KB" in text


def test_no_module_lays_out_a_table_by_itself():
    root = Path(__file__).resolve().parents[1]
    padding = re.compile(r"(?<!encode\(\))\.[lr]just\((?!.*b\")|\{[^{}\"]*:[<>]\{?\w+\}?,?\.?\w*\}")  # not of bytes
    # help.py: options with their indented descriptions, as argparse shows them
    allowed = {root / "foundation" / "tables.py", root / "mel_cache" / "commands" / "shell" / "help.py"}
    rooms = ("cache", "experiments", "foundation", "heads", "linking", "mel_cache", "pipeline", "report", "benchmarks")
    sources = [path for room in rooms for path in (root / room).rglob("*.py") if path not in allowed]
    assert len(sources) > 100
    padded = [
        f"{path.relative_to(root)}: {line.strip()}"
        for path in sources
        for line in path.read_text().splitlines()
        if padding.search(line)
    ]
    assert not padded
    assert padding.search("name.ljust(width)") and padding.search("f'{name:<18}'") and padding.search("{n:>13,}")
