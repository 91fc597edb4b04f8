"""What `luigi --module tasks NAME --help` prints: what the command is for, and each option once, with its default. No torch.

Luigi's own help lists every option twice, without defaults; it stays there under `--help-all`.
"""

import inspect
import sys
import textwrap
from collections.abc import Mapping, Sequence

import luigi
from luigi.parameter import MissingParameterException, ParameterVisibility

from foundation import logs
from foundation.errors import nearest

WIDTH = 120
INDENT = 26  # columns before what an option is for
TITLES = {
    "OnProfile": "models",
    "OnDataset": "the dataset",
    "Task": "every command",
    "CandidateOptions": "candidate lists",
    "Leaderboard": "leaderboards",
    "Options": "texts",
}
"""Headings of options that a command has in common with others, by the class that declares them."""


def asked(arguments: Sequence[str], commands: Mapping[str, type[luigi.Task]]) -> str | None:
    """The help that a command line of luigi's asks for, None where it asks for none."""
    if "--module" not in arguments or "--help" not in arguments:
        return None
    named = [word for word in arguments if word in commands]
    return command(commands[named[0]]) if named else overview(commands)


def offer(arguments: Sequence[str], commands: Mapping[str, type[luigi.Task]]) -> None:
    """Print the help that is asked for, if any, and end the process; end it in one line where there is no such command."""
    text = asked(arguments, commands)
    if text is not None:
        logs.say(text)
        sys.exit(0)
    named = arguments[3] if arguments[1:3] == ["--module", "tasks"] and len(arguments) > 3 else ""
    if named and not named.startswith("-") and named not in commands:
        sys.exit(f"error: no command {named!r}{nearest(named, list(commands))}")


def overview(commands: Mapping[str, type[luigi.Task]]) -> str:
    """All commands, a line each."""
    width = max(map(len, commands)) + 2
    lines = [f"  {name.ljust(width)}{_first_line(task)}" for name, task in commands.items()]
    usage = "luigi --module tasks COMMAND"
    return "\n".join(
        [f"{usage} [--option value ...]", "", *lines, "", f"{usage} --help lists the options of a command."]
    )


def command(task: type[luigi.Task]) -> str:
    """A command's docstring and its options, those of its own first."""
    sections: dict[str, list[str]] = {}
    for name, parameter in task.get_params():
        sections.setdefault(_declared(task, name), []).append(_option(task, name, parameter))
    order = dict.fromkeys(found.__name__ for found in task.__mro__ if found.__name__ in sections)
    lines = [f"luigi --module tasks {task.get_task_family()} [--option value ...]", "", inspect.getdoc(task) or "", ""]
    for title in order:
        said = "options" if title == task.__name__ else f"options of {TITLES.get(title, title)}"
        lines += [f"{said}:", *sections[title], ""]
    return "\n".join([*lines, "Luigi's own options: --help-all"])


def _declared(task: type[luigi.Task], name: str) -> str:
    """The last class that brings the parameter along: what a command shares with most others is told there."""
    return next(found.__name__ for found in reversed(task.__mro__) if name in vars(found))


def _option(task: type[luigi.Task], name: str, parameter: luigi.Parameter) -> str:
    flag = f"  --{name.replace('_', '-')}{_value(name, parameter)}"
    said = f"{parameter.description or ''}{_default(task, name, parameter)}"
    lines = textwrap.wrap(said, WIDTH - INDENT) or [""]
    if len(flag) + 2 <= INDENT:
        lines[0] = flag.ljust(INDENT) + lines[0]
        return "\n".join([lines[0], *(" " * INDENT + line for line in lines[1:])])
    return "\n".join([flag, *(" " * INDENT + line for line in lines)])


def _value(name: str, parameter: luigi.Parameter) -> str:
    """What stands behind the flag."""
    if isinstance(parameter, luigi.BoolParameter):
        return "" if parameter.parsing == luigi.BoolParameter.IMPLICIT_PARSING else " true|false"
    if isinstance(parameter, (luigi.IntParameter, luigi.FloatParameter)):
        return " N" if isinstance(parameter, luigi.IntParameter) else " X"
    return " " + name.rpartition("_")[2].upper()


def _default(task: type[luigi.Task], name: str, parameter: luigi.Parameter) -> str:
    """The value that holds without the option, from its definition, the environment or luigi.cfg; never one that is meant to stay private."""
    try:
        value = parameter.task_value(task.get_task_family(), name)
    except MissingParameterException:
        return " (required)"
    if parameter.visibility == ParameterVisibility.PRIVATE or value is False or value == "":
        return ""
    return f" ({textwrap.shorten(str(value), 60)})"


def _first_line(task: type[luigi.Task]) -> str:
    return (inspect.getdoc(task) or "").partition("\n")[0]
