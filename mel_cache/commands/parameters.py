"""Kinds of parameters. A value out of bounds, or of another kind, is a `UserError` that names the option. No torch."""

import math
import os
from typing import TYPE_CHECKING, Any, NoReturn

import luigi

from foundation.errors import UserError
from mel_cache.commands.shell.help import flag

MOST_SEED = 2**32 - 1
"""What every library's generator takes."""
MOST_WHOLE = 10**9
"""Above any whole number that can be meant, where an option names no bound of its own."""


def setting(name: str, default: Any, description: str, kind: Any = luigi.Parameter, **more: Any) -> Any:  # of `kind`
    """A parameter whose default may come from `MEL_<NAME>` in the environment, or from `[mel]` in luigi.cfg."""
    if kind is luigi.Parameter:
        default = os.environ.get(f"MEL_{name.upper()}", default)
    return kind(default=default, description=description, config_path={"section": "mel", "name": name}, **more)


if TYPE_CHECKING:

    class _Parameter(luigi.Parameter[Any]):
        """Of any kind of value; subclasses of it and of Luigi's own kinds have theirs."""
else:
    _Parameter = luigi.Parameter  # no generic class before luigi 3.8


class _Checked(_Parameter):
    """expected: what its values are, in words."""

    expected = ""

    def __set_name__(self, owner: type, name: str) -> None:
        if hasattr(super(), "__set_name__"):  # since luigi 3.8
            super().__set_name__(owner, name)
        self.option = flag(name, self)

    def parse(self, text: str) -> Any:
        try:
            return super().parse(text)
        except ValueError:
            self.refuse(text)

    def refuse(self, value: Any) -> NoReturn:
        raise UserError(f"{self.option} {value!s:.60}: expected {self.expected}")


class Renamed(luigi.Parameter):
    """A text whose option is `flag`. Tasks have methods `run`, `input` and `output`, so no parameter is called so."""

    def __init__(self, flag: str, **more: Any) -> None:
        super().__init__(**more)
        self.flag = flag


class Files(luigi.Parameter):
    """Paths, as a text with commas between them; the option may be repeated."""

    @classmethod
    def _parser_kwargs(cls, param_name: str, task_name: str | None = None) -> dict[str, Any]:
        return {**super()._parser_kwargs(param_name, task_name), "action": "append"}

    def parse(self, value: str | list[str]) -> str:
        return value if isinstance(value, str) else ",".join(value)


class RenamedFiles(Renamed, Files):
    """`Files` whose option is `flag`."""


class _Bounded(_Checked):
    """least, most: bounds of the value, themselves allowed; more_than: a bound that is not."""

    kind = ""

    def __init__(
        self, *, least: float = -math.inf, most: float = math.inf, more_than: float = -math.inf, **more: Any
    ) -> None:
        super().__init__(**more)
        self.least, self.most, self.more_than = least, most, more_than
        bounds = (("more than", more_than), ("at least", least), ("at most", most))
        stated = (f"{words} {bound}" for words, bound in bounds if math.isfinite(bound) and bound != MOST_WHOLE)
        self.expected = ", ".join([self.kind, *stated])

    def normalize(self, value: Any) -> Any:
        if not (self.least <= value <= self.most and value > self.more_than and math.isfinite(value)):
            self.refuse(value)
        return super().normalize(value)


class Whole(_Bounded, luigi.IntParameter):
    kind = "a whole number"

    def __init__(self, *, most: float = MOST_WHOLE, **more: Any) -> None:
        super().__init__(most=most, **more)


class Number(_Bounded, luigi.FloatParameter):
    kind = "a number"


class ShareOrWord(_Checked):
    """A number from 0 to below 1, or a word in its place, which is the default."""

    def normalize(self, value: Any) -> Any:
        try:
            good = value == self._default or 0 <= float(value) < 1
        except ValueError:
            good = False
        if not good:
            self.expected = f"a number from 0 to below 1, or {self._default}"
            self.refuse(value)
        return super().normalize(value)


class Below(_Checked):
    """A number above 0, at most 1, as a text; "": none."""

    expected = "a number above 0, at most 1"

    def normalize(self, value: Any) -> Any:
        try:
            good = not value or 0 < float(value) <= 1
        except ValueError:
            good = False
        if not good:
            self.refuse(value)
        return super().normalize(value)


class Shares(_Checked):
    """Numbers above 0, at most 1, as a text with commas between them; "": none. `shares` reads it."""

    expected = "numbers above 0, at most 1, like 0.25,0.5,1"

    def normalize(self, value: Any) -> Any:
        try:
            numbers = sorted({float(part) for part in str(value).split(",")}) if value else []
        except ValueError:
            self.refuse(value)
        if not all(0 < number <= 1 for number in numbers):
            self.refuse(value)
        return super().normalize(",".join(f"{number:g}" for number in numbers))


def shares(text: str) -> tuple[float, ...]:
    """The value of a parameter `Shares`, ascending."""
    return tuple(map(float, filter(None, text.split(","))))


class Choice(_Checked, luigi.ChoiceParameter):
    def __init__(self, *, choices: tuple[str, ...], **more: Any) -> None:
        super().__init__(choices=choices, **more)
        self.expected = " or ".join(choices)


class TrueOrFalse(_Checked, luigi.BoolParameter):
    parsing = luigi.BoolParameter.EXPLICIT_PARSING
    expected = "true or false"


DEVICE = setting("device", "auto", "auto, cpu, cuda, cuda:N or mps", significant=False)
PRECISION = setting("precision", "auto", "auto (fp16 on CUDA, fp32 elsewhere), fp32, fp16 or bf16", significant=False)
"""Where models run and in which numbers: parameters of every command that runs one."""
