"""Luigi's command line for these commands: what happens between loading them and running one.

Luigi has no hook there. `install` replaces three methods of its parser: how options are declared, what comes before
they are read, and how they become a task.
"""

import argparse
import functools
import importlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import luigi
from luigi.cmdline import luigi_run
from luigi.cmdline_parser import CmdlineParser
from luigi.interface import core
from luigi.parameter import ParameterVisibility
from luigi.task_register import Register

from foundation import logs, plugins
from foundation.errors import nearest
from heads.config import options
from mel_cache.commands.shell import command, help, messages, settings

Commands = Mapping[str, Mapping[str, type[luigi.Task]]]
"""By heading and name."""

_build = CmdlineParser._build_parser
_help = CmdlineParser._possibly_exit_with_help
_task = CmdlineParser.get_task_obj


def run(module: str, arguments: Sequence[str]) -> NoReturn:
    """Run a command of `module` and exit, as `luigi --module MODULE` does."""
    importlib.import_module(module)
    luigi_run(["--module", module, *arguments])
    raise SystemExit


def install(commands: Commands, base: type[luigi.Task]) -> None:
    """From here on Luigi's command line answers for these commands, the subclasses of `base`, and for no others."""

    def ours(name: str | None) -> bool:
        task = Register._get_reg().get(name)
        return task is None or (isinstance(task, type) and issubclass(task, base))

    @functools.lru_cache(maxsize=4)
    def parser_of(root_task: str | None, help_all: bool, known: frozenset[Any]) -> argparse.ArgumentParser:
        parser = _build(root_task, help_all)
        if ours(root_task):
            parser.__class__ = _Parser
        if isinstance(parser, _Parser) and root_task in Register.task_names():
            parser.take(Register.get_task_cls(root_task))
        return parser

    def build_parser(root_task: str | None = None, help_all: bool = False) -> argparse.ArgumentParser:
        # Luigi builds a parser of all options of all commands nine times a command: half a second.
        return parser_of(root_task, help_all, frozenset(Register._get_reg().items()))

    def before_options(parser: argparse.ArgumentParser, known: argparse.Namespace) -> None:
        if known.core_help_all or not ours(known.root_task):
            _help(parser, known)
        else:
            _before_options(commands, parser, known)

    def task(parser: CmdlineParser) -> luigi.Task:
        return _begin(parser) if ours(parser.known_args.root_task) else _task(parser)

    # Methods of another's class, replaced on purpose.
    CmdlineParser._build_parser = staticmethod(build_parser)  # type: ignore[method-assign]
    CmdlineParser._possibly_exit_with_help = staticmethod(before_options)  # type: ignore[method-assign]
    CmdlineParser.get_task_obj = task  # type: ignore[method-assign]
    messages.filter_log()


def _before_options(commands: Commands, parser: argparse.ArgumentParser, known: argparse.Namespace) -> None:
    """Print help, if requested, and exit; refuse an unknown command; set what luigi.cfg leaves open."""
    if "--json-log" in known.words:
        os.environ[logs.WANTED] = "1"
    tasks = {name: task for group in commands.values() for name, task in group.items()}
    name = known.root_task
    if name in Register.task_names():
        task = Register.get_task_cls(name)
    elif name is not None:
        messages.refuse(f"no command {name!r}{nearest(name, tasks)}")
    elif known.core_help:
        logs.say(help.overview(commands))
        sys.exit(0)
    else:
        messages.refuse(f"no command given; known: {', '.join(sorted(tasks))}")
    on_cluster = "MEL_RAY" in os.environ or any(word.partition("=")[0] == "--ray" for word in known.words)
    settings.apply(bool(known.core_scheduler_url or known.core_scheduler_host), on_cluster)
    if known.core_help:
        given, _ = parser.parse_known_args(known.words)
        with messages.refusing():
            plugins.register(getattr(given, "plugin", None) or [])
            logs.say(help.command(task, getattr(given, "method", None)))
        sys.exit(0)
    sys.excepthook = messages.quiet_interrupt
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # models are looked for in this process too


def _begin(parser: CmdlineParser) -> luigi.Task:
    """The task that the command line names. A wrong value or a missing option ends the command."""
    command.begin()
    task, given = Register.get_task_cls(parser.known_args.root_task), vars(parser.known_args)
    family = task.get_task_family()
    with messages.refusing():
        lacking = []
        for name, parameter in task.get_params():
            if given[name]:
                parameter.normalize(parameter.parse(given[name]))
            elif not parameter.has_task_value(family, name):
                lacking.append(help.flag(name, parameter))
        if lacking:
            listed = " and ".join(filter(None, (", ".join(lacking[:-1]), lacking[-1])))
            messages.refuse(f"{family} needs {listed}; {family} --help says what for")
        root = _task(parser)
    command.set_root(root.task_id)
    command.set_words(_again(task, given))
    return root


def _again(task: type[luigi.Task], given: Mapping[str, Any]) -> list[str]:
    """The words that give a command again, with what was typed that decides what it makes; nothing that is secret."""
    words = [task.get_task_family()]
    for name, parameter in task.get_params():
        private = parameter.visibility == ParameterVisibility.PRIVATE
        if not given[name] or private or name in ("work_dir", "dry_run", "json_log"):
            continue
        for value in given[name] if isinstance(given[name], list) else [given[name]]:
            implicit = isinstance(parameter, luigi.BoolParameter) and parameter.parsing != parameter.EXPLICIT_PARSING
            words += [help.flag(name, parameter)] if implicit else [help.flag(name, parameter), str(value)]
    return words


class _Parser(argparse.ArgumentParser):
    """Luigi's parser, with its errors in one line. `words` of what it returns: what it has read."""

    task: type[luigi.Task] | None = None

    def take(self, task: type[luigi.Task]) -> None:
        """Add the options of `task` that are named otherwise than its parameters."""
        self.task = task
        for name, parameter in task.get_params():
            if help.flag(name, parameter) not in self._option_string_actions:
                self.add_argument(help.flag(name, parameter), **parameter._parser_kwargs(name))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, rest = super().parse_known_args(args, namespace)
        known.words = list(args or ())
        return known, rest

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, rest = self.parse_known_args(args, namespace)
        if rest:
            self.refuse(rest[0], known, rest[1:])
        return known

    def error(self, message: str) -> NoReturn:
        ambiguous = re.match(r"ambiguous option: (\S+)", message)
        if ambiguous:
            self.refuse(ambiguous[1])
        messages.refuse(re.sub(r"^argument \S*?(--[^/: ]+):", r"\1:", message))

    def refuse(self, word: str, known: argparse.Namespace | None = None, after: Sequence[str] = ()) -> NoReturn:
        """End the command over a word that is no option of its, or of several. known, after: what else was given."""
        name = self.task.get_task_family() if self.task else "luigi"
        if not word.startswith("-"):
            messages.refuse(f"{name} takes no {word!r}: a value stands behind its option, as in --dataset demo")
        with messages.refusing():
            self._refuse_hyper_parameter(word, known, after)
        parameters = [*(self.task.get_params() if self.task else ()), *core.get_params()]
        listed = [help.flag(option, parameter) for option, parameter in parameters]
        word = word.partition("=")[0]
        messages.refuse(f"{name} has no option {word}; nearest: {messages.nearest_options(word, listed)}")

    def _refuse_hyper_parameter(self, word: str, known: argparse.Namespace | None, after: Sequence[str]) -> None:
        """End the command, with the option that takes it, where `word` names a hyper-parameter of the head."""
        parameters = dict(self.task.get_params()) if self.task else {}
        if known is None or not {"method", "params"} <= parameters.keys():
            return
        name, _, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        method = known.method or parameters["method"].task_value(known.root_task, "method")
        for option in options(method):
            if option.name == name:
                value = value or (after[0] if after else json.dumps(option.default))
                example = f"""--params '{{"{name}": {value}}}'"""
                messages.refuse(f"{known.root_task} has no option --{name}: a hyper-parameter of {method}, {example}")
