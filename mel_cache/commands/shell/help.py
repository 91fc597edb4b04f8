"""What `--help` prints: what a command is for, and each of its options once, with its default. No torch.

Luigi's own help lists every option twice, without defaults; it stays there under `--help-all`.
"""

import functools
import inspect
import json
import shutil
import textwrap
from collections.abc import Mapping

import luigi
from luigi.parameter import MissingParameterException, ParameterVisibility

from heads.config import Option, methods, options
from mel_cache.commands.shell.settings import FAILED, REFUSED

WIDEST = 120
INDENT = 26  # columns before what an option is for
TITLES = {
    "OnProfile": "models",
    "Listening": "the address",
    "OnDataset": "the dataset",
    "Task": "every command",
    "CandidateOptions": "candidate lists",
    "Leaderboard": "leaderboards",
    "Options": "texts",
}
"""Headings of options that a command has in common with others, by the class that declares them."""
_wrap = functools.partial(textwrap.wrap, break_on_hyphens=False)
METHODS = "methods"
USAGE = "luigi --module tasks {} [--option value ...]"
FOOT = f"""Exit codes: 0 done, {REFUSED} refused before anything ran, {FAILED} a task failed.
`python -m mel_cache {{0}}` does the same. Luigi's own options: --help-all"""


def flag(name: str, parameter: luigi.Parameter) -> str:
    """The option of a parameter, as its user types it."""
    return getattr(parameter, "flag", None) or f"--{name.replace('_', '-')}"


def width() -> int:
    """Columns of the terminal (COLUMNS where it is set), at most `WIDEST`."""
    return max(60, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns))


def overview(commands: Mapping[str, Mapping[str, type[luigi.Task]]]) -> str:
    """All commands, a line each, under their headings."""
    indent = max(len(name) for group in commands.values() for name in group) + 4
    lines = [USAGE.format("COMMAND"), ""]
    for title, group in commands.items():
        lines += [f"{title}:", *(_entry(f"  {name}", _role(task), indent) for name, task in group.items()), ""]
    lines += [USAGE.format("COMMAND --help").rpartition(" [")[0] + " lists the options of a command.", ""]
    return "\n".join([*lines, *_paragraphs(FOOT.format("COMMAND"))])


def command(task: type[luigi.Task], method: str | None = None) -> str:
    """A command's docstring and its options, its own first. method: the head whose hyper-parameters are listed too."""
    sections: dict[str, list[str]] = {}
    for name, parameter in task.get_params():
        sections.setdefault(_declared(task, name), []).append(_option(task, name, parameter))
    titles = list(dict.fromkeys(found.__name__ for found in task.__mro__ if found.__name__ in sections))
    lines = [USAGE.format(task.get_task_family()), "", *_paragraphs(inspect.getdoc(task) or ""), ""]
    if "method" in dict(task.get_params()):
        sections[METHODS] = _method_lines(method)
        titles.insert(1, METHODS)
    for title in titles:
        heading = "options" if title == task.__name__ else f"options of {TITLES.get(title, title)}"
        if title == METHODS:
            heading = f"hyper-parameters of {method}, as in --params '{{\"lr\": 0.001}}'" if method else METHODS
        lines += [f"{heading}:", *sections[title], ""]
    return "\n".join([*lines, *_paragraphs(FOOT.format(task.get_task_family()))])


def _method_lines(method: str | None) -> list[str]:
    """The hyper-parameters of a method, or without one the methods there are. Raises `UserError` for an unknown one."""
    if method is None:
        listed = _wrap(", ".join(methods()), width(), initial_indent="  ", subsequent_indent="  ")
        return [*listed, "  `--method NAME --help` lists the hyper-parameters of one"]
    return [
        _entry(f"  {option.name}", f"{option.meaning}; {_values(option)} ({json.dumps(option.default)})", INDENT)
        for option in options(method)
    ]


def _values(option: Option) -> str:
    return f"{option.kind}, {option.bounds}" if option.bounds else option.kind


def _declared(task: type[luigi.Task], name: str) -> str:
    """The last class that brings the parameter along: what a command shares with most others is listed there."""
    return next(found.__name__ for found in reversed(task.__mro__) if name in vars(found))


def _option(task: type[luigi.Task], name: str, parameter: luigi.Parameter) -> str:
    option = f"  {flag(name, parameter)}{_value(name, parameter)}"
    return _entry(option, f"{parameter.description or ''}{_default(task, name, parameter)}", INDENT)


def _entry(name: str, text: str, indent: int) -> str:
    """`name`, and beside it, or below it where it is long, `text` in lines of the terminal's width."""
    lines = _wrap(text, width() - indent) or [""]
    if len(name) + 2 <= indent:
        lines[0] = name.ljust(indent) + lines[0]
        return "\n".join([lines[0], *(" " * indent + line for line in lines[1:])])
    return "\n".join([name, *(" " * indent + line for line in lines)])


def _paragraphs(text: str) -> list[str]:
    """The paragraphs of a docstring, in lines of the terminal's width; what is indented stays as it is."""
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        lines += [*(_wrap(paragraph, width()) if "\n " not in paragraph else paragraph.split("\n")), ""]
    return lines[:-1]


def _value(name: str, parameter: luigi.Parameter) -> str:
    """What stands behind the flag."""
    if isinstance(parameter, luigi.BoolParameter):
        return "" if parameter.parsing == luigi.BoolParameter.IMPLICIT_PARSING else " true|false"
    if isinstance(parameter, (luigi.IntParameter, luigi.FloatParameter)):
        return " N" if isinstance(parameter, luigi.IntParameter) else " X"
    return " " + name.rpartition("_")[2].upper()


def _default(task: type[luigi.Task], name: str, parameter: luigi.Parameter) -> str:
    """The value that holds without the option, from its definition, the environment or luigi.cfg; no private one."""
    try:
        value = parameter.task_value(task.get_task_family(), name)
    except MissingParameterException:
        return " (required)"
    if parameter.visibility == ParameterVisibility.PRIVATE or value is False or value == "":
        return ""
    return f" ({textwrap.shorten(str(value), 60)})"


def _role(task: type[luigi.Task]) -> str:
    return (inspect.getdoc(task) or "").partition("\n\n")[0]
