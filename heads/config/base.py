"""What every head's configuration has: training hyper-parameters, checked construction from user-given values, wanted features."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from cache.inputs import SIDES, Side
from foundation.errors import UserError, nearest
from heads.contracts import HeadWant

TEXT_ONLY = "text only"
"""The ablation that every method has: itself, without anything that a picture tells."""


Training = Literal["head", "combination", "prompts"]
"""`head`: over cached features. `combination`: the same over pair features, which the scores of trained heads and frequency are made to first.
`prompts`: with the blocks of a CLIP run live beside the cached features."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Hyper-parameters of training; each method's configuration adds its own and overrides these defaults.

    lr: AdamW's step size. lr_decay: it falls linearly to 0 over all steps of `epochs` (else it stays). batch_size: mentions per step. epochs: at most
    so many passes over the training mentions (0: none, nothing is trained). patience: stop after so many epochs without a better dev MRR on candidate
    lists (0: never stop early). weight_decay: on matrices alone, never on biases or LayerNorms. eps: AdamW's. clip_norm: gradients are scaled down to
    this norm (0: left alone). eval_candidates: length of the candidate lists that choose the epoch. hard_negatives: entities drawn anew at each step
    from every mention's candidate list, negatives of the whole batch beside its golds (ours; golds alone are soon told apart by a head over frozen
    inputs). hard_reach: how far down the list they are drawn.
    """

    lr: float = 1e-3
    lr_decay: bool = False
    batch_size: int = 128
    epochs: int = 20
    patience: int = 5
    weight_decay: float = 0.0
    eps: float = 1e-8
    clip_norm: float = 0.0
    eval_candidates: int = 100
    hard_negatives: int = 0
    hard_reach: int = 40

    positive: ClassVar[tuple[str, ...]] = ("lr", "batch_size", "eps", "eval_candidates", "hard_reach")
    training: ClassVar[Training] = "head"
    """How it is trained, see `Training`."""
    fits_on: ClassVar[str] = "train"
    """What its parameters are learned from: "train", or "calibrate", a half of dev that chooses nothing."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Boolean options that stand for several others at once: option -> the defaults it puts in their place."""
    sensitivity: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Options whose influence the method's paper plots -> values to train with (ours where the paper's plot names none)."""
    space: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """What a search draws where no other space is given, see `heads.config._space`."""

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if (
                isinstance(value, (int, float))
                and not isinstance(value, bool)
                and (value < 0 or (value == 0 and option.name in self.positive))
            ):
                raise UserError(
                    f"{option.name} = {value!r}: expected {'more than 0' if option.name in self.positive else '0 or more'}"
                )

    def wants(self, available: Collection[str]) -> list[HeadWant]:
        """The features this head reads, of those `available` by name.

        Raises `UserError` where a feature that it cannot do without is not available.
        """
        raise NotImplementedError

    @property
    def evaluates(self) -> bool:
        """Whether a trained head is measured; a stage that only prepares another is not."""
        return True

    def runs(self, available: Collection[str]) -> dict[str, tuple[str, dict[str, Any]]]:
        """The runs this head reads, `label: (method, parameters)`; none by default. They are trained first, with the same seed and mentions."""
        return {}

    def searched(self) -> Mapping[str, Mapping[str, Any]]:
        """The search space of this configuration: `space`, or what of it these options read."""
        return self.space

    def pinned(self) -> dict[str, Any]:
        """Parameters that keep `runs` as they are while a search changes others."""
        return {}

    def pairs(self, available: Collection[str]) -> list[str]:
        """The pair features (see `pipeline.pairs.stage`) this head reads, given the features `available`; none by default."""
        return []

    def ablations(self, available: Collection[str]) -> dict[str, dict[str, Any]]:
        """The ablations of the method's paper: name -> parameters in place of these, and `TEXT_ONLY` where the method reads pictures.

        `train_fraction` among them is no option of the head but the share of the training mentions. Those that would change nothing, because the
        features `available` lack what they take away, are left out.
        """
        return {}

    def variations(self) -> dict[str, dict[str, Any]]:
        """One parameter changed at a time, by `sensitivity`: name -> parameters in place of these."""
        return {
            f"{option} = {value}": {option: value}
            for option, values in self.sensitivity.items()
            for value in values
            if value != getattr(self, option)
        }

    def pick(self, option: str, known: tuple[str, ...], available: Collection[str]) -> str | None:
        """The feature that `option` names: as it says, or where it says "auto" the first of `known` that is `available` (None where none is).

        Raises `UserError` for one that is not available.
        """
        name = getattr(self, option)
        if name == "auto":
            return next((feature for feature in known if feature in available), None)
        if name is not None and name not in available:
            raise UserError(f"{option} = {name!r}: the profile has no such feature{nearest(name, available)}")
        return name


def both_sides(role: str, feature: str, views: Mapping[Side, str], outputs: Collection[str]) -> list[HeadWant]:
    """The same outputs of a feature for mentions and entities, under each side's view."""
    return [HeadWant(side=side, role=role, feature=feature, view=views[side], outputs=tuple(outputs)) for side in SIDES]


PICTURES: Mapping[Side, str] = {"mention": "image", "entity": "image"}
"""The view of each side's own picture."""


C = TypeVar("C", bound=HeadConfig)


def build(kind: type[C], params: Mapping[str, Any], where: str) -> C:
    """A configuration of `kind` from plain values (JSON, YAML). Raises `UserError` for an unknown key or a value of the wrong type, found `where`."""
    hints = typing.get_type_hints(kind)
    options = {option.name: hints[option.name] for option in dataclasses.fields(kind)}
    for key in params:
        if key not in options:
            raise UserError(f"{where}: unknown key {key!r}{nearest(key, options)}")
    checked = {key: _typed(value, options[key], f"{where}: {key}") for key, value in params.items()}
    preset: dict[str, Any] = {}
    for option, defaults in kind.presets.items():
        if checked.get(option, False):
            preset |= defaults
    try:
        return kind(**(preset | checked))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _typed(value: Any, hint: Any, where: str) -> Any:
    """`value` as `hint` wants it: whole numbers become floats and lists tuples, nothing else is converted."""
    arguments = typing.get_args(hint)
    kind = typing.get_origin(hint) or hint
    if kind in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _typed(value, next(argument for argument in arguments if argument is not type(None)), where)
    if kind is Literal:
        if isinstance(value, str) and value in arguments:
            return value
        raise UserError(
            f"{where} = {value!r}: expected one of {', '.join(map(repr, arguments))}" + _near_value(value, arguments)
        )
    if kind is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_typed(part, arguments[0], where) for part in value)
        raise UserError(f"{where} = {value!r}: expected a list")
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if value != value or value in (float("inf"), float("-inf")):
            raise UserError(f"{where} = {value!r}: expected a finite number")
        return float(value)
    if type(value) is kind:
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    raise UserError(f"{where} = {value!r} ({type(value).__name__}): expected {names[kind]}")


def _near_value(value: Any, known: tuple[Any, ...]) -> str:
    close = difflib.get_close_matches(str(value), known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
