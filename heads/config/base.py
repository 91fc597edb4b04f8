"""The base of every head's configuration: training hyper-parameters, wanted features, and the hooks that a method
overrides."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, AllowInfNan

from cache.inputs import IMAGE, IMAGES, SIDES, Side
from foundation.contracts import contract
from foundation.errors import UserError, nearest
from heads.contracts import HeadWant
from heads.tune import HEAD, TOWERS, TUNED, Kind, Tune, kind_of

if TYPE_CHECKING:
    from heads.base import Head

WITHOUT_FOLD = ", without fold "
"""Between a name and a fold: label of a run of `HeadConfig.runs` that leaves the fold out."""
TEXT_ONLY = "text only"
"""The ablation that every method with pictures has: itself without anything that a picture shows."""

Training = Literal["head", "combination"]
"""`head`: over cached features. `combination`: the same over pair features, among them the scores of trained heads and
training frequency."""

DROPOUTS = [0.0, 0.1, 0.3, 0.5]
"""Values of `picture_dropout` that search spaces hold."""

Finite = Annotated[float, AllowInfNan(False)]
Positive = Annotated[Finite, Gt(0)]
NotNegative = Annotated[Finite, Ge(0)]
Fraction = Annotated[Finite, Ge(0), Lt(1)]
Share = Annotated[Finite, Ge(0), Le(1)]
MOST = 10**9
"""Above any size or count that can be meant."""
Size = Annotated[int, Gt(0), Le(MOST)]
Count = Annotated[int, Ge(0), Le(MOST)]


def _below(fold: tuple[int, int]) -> tuple[int, int]:
    if not fold[0] < fold[1] >= 2:
        raise ValueError(f"{list(fold)}: expected [i, n], i < n, n at least 2")
    return fold


Fold = Annotated[tuple[Count, Count], AfterValidator(_below)]

EntityPictures = Literal["first", "random", "best", "mean"]
OVER_PICTURES = ("clip_ti", "object_relation")
"""Pair features of the entity's first picture of which there are others over all its pictures, see `over_pictures`."""

HeadMaker = Callable[[Any, Mapping[str, tuple[int, ...]]], "Head"]
"""A head's class, or a function of the configuration and the shapes of the input columns that makes one."""


@contract
class HeadConfig:
    """Hyper-parameters of training; each method's configuration adds its own and overrides these defaults.

    An option is a field with its type, bounds and meaning: `lr: Annotated[Positive, "AdamW's step size"] = 1e-3`.
    """

    lr: Annotated[Positive, "AdamW's step size"] = 1e-3
    lr_decay: Annotated[bool, "lr falls linearly to 0 over all steps of `epochs`; else it stays"] = False
    batch_size: Annotated[Size, "mentions per step"] = 128
    epochs: Annotated[Count, "the most passes over the training mentions; 0: nothing is trained"] = 20
    patience: Annotated[Count, "stop after so many epochs without a better dev MRR on candidate lists; 0: never"] = 5
    checks: Annotated[
        Size,
        "how often an epoch dev is measured, in equal parts of its steps: each time the weights may be the best, and a "
        "killed run goes on from there",
    ] = 1
    weight_decay: Annotated[NotNegative, "on matrices alone, never on biases or LayerNorms"] = 0.0
    eps: Annotated[Positive, "AdamW's"] = 1e-8
    clip_norm: Annotated[NotNegative, "gradients are scaled down to this norm; 0: left alone"] = 0.0
    eval_candidates: Annotated[Size, "length of the candidate lists that choose the epoch"] = 100
    hard_negatives: Annotated[
        Count,
        "entities drawn anew at each step from every mention's candidate list, as negatives of the whole batch beside "
        "its golds (ours: a head over frozen inputs soon tells golds apart)",
    ] = 0
    hard_reach: Annotated[Size, "how far down the list hard negatives are drawn"] = 40
    picture_dropout: Annotated[
        Share,
        "while training, chance with which a mention's picture is masked at a step, and an entity's; all that is made "
        "from it goes with it (ours)",
    ] = 0.0
    entity_pictures: Annotated[
        EntityPictures,
        "of several pictures of an entity: the first; a random one while training and the first at evaluation (the "
        "release of MIMIC); the best, the one with which the pair's score is highest; or the mean of the pair's scores "
        "with each",
    ] = "first"
    tune: Annotated[
        Mapping[Kind, Tune],
        "encoders whose upper blocks are trained with the head, over cached states of the lower ones: "
        '{"text": {"block": 3, "how": "lora"}, "image": ...}; docs/tuning.md',
    ] = field(default_factory=dict)
    live: Annotated[
        bool, "the stage that trains the blocks of `tune`; the head itself then reads what they give from the cache"
    ] = False
    full_kb: Annotated[
        bool | Size,
        "whether golds are ranked in the whole KB at the end, by methods that can; N: among N entities with the lowest "
        "hash of their id, beside the mention's candidates and gold, where the KB is too large (ours; so labelled)",
    ] = True
    fold: Annotated[
        Fold | None,
        "[i, n]: it learns from the training mentions without fold i of n, cut by gold entity; for what another run "
        "learns from its scores, and not measured (ours)",
    ] = None

    training: ClassVar[Training] = "head"
    """How it is trained, see `Training`."""
    fits_on: ClassVar[str] = "train"
    """The mentions its parameters are learned from: "train", or "calibrate", the half of dev that is not used for
    choosing."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Boolean options that set several others: option -> the defaults that it sets."""
    sensitivity: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Options whose influence the method's paper plots -> values to train with (ours where the plot names none)."""
    space: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """The default search space, see `heads.config.space`."""
    stays_live: ClassVar[bool] = False
    """Whether encoders run live in the finished head too, since it reads pairs through them, or owns their prompts."""
    later: ClassVar[tuple[str, ...]] = (
        *("picture_dropout", "entity_pictures", "tune", "live", "fold", "checks", "full_kb"),
    )
    """Options of this class that came when there were runs already: see `heads.config.naming_options`."""

    @classmethod
    def gone(cls, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Options that there were when runs like this full configuration (plain values) were made, and are no more.

        Name -> the value that it has in the names of such runs, where it decided nothing of them; None: in none.
        """
        return {}

    def head_class(self) -> HeadMaker | None:
        """What constructs the head; None: the class in `heads/methods/` under the method's name.

        A plugin gives its class here, and may import it, and torch with it, only then.
        """
        return None

    def wants(self, available: Collection[str]) -> list[HeadWant]:
        """The features this head reads, of those `available` by name.

        Raises `UserError` where a feature that it cannot do without is not available.
        """
        raise NotImplementedError

    def inputs(self, available: Collection[str]) -> list[HeadWant]:
        """The features of `wants` as they are extracted and read: of entities all pictures, unless the first is enough.

        Raises `UserError` as `wants` does.
        """
        wanted = self.wants(available)
        if self.entity_pictures == "first":
            return wanted
        return [replace(want, view=IMAGES) if (want.side, want.view) == ("entity", IMAGE) else want for want in wanted]

    def over_pictures(self, pair: str) -> str:
        """The pair feature that is read for the pair feature `pair`: that over all pictures of an entity, where it
        reads them and `entity_pictures` wants the best or the mean."""
        several = pair in OVER_PICTURES and self.entity_pictures in ("best", "mean")
        return f"{pair}_{self.entity_pictures}" if several else pair

    def lr_of(self, parameter: str) -> float:
        """AdamW's step size for the head's parameter of that name: `lr` for all."""
        return self.lr

    @property
    def runs_towers(self) -> bool:
        """Whether blocks of `tune` run live in this head."""
        return bool(self.tune) and (self.live or self.stays_live)

    @property
    def passes(self) -> int:
        """The most passes over the training mentions: none where another stage has trained it."""
        return self.epochs if self.runs_towers or not self.tune else 0

    def step(self, parameter: str) -> tuple[float, float, float]:
        """For the parameter of that name, of the head or a tower: AdamW's step size, weight decay (of a matrix), and
        the share of all steps over which the step size rises."""
        if parameter.startswith(TOWERS):
            tune = self.tune[kind_of(parameter.removeprefix(TOWERS).partition(".")[0])]
            return tune.rate, tune.weight_decay, tune.warmup
        return self.lr_of(parameter.removeprefix(HEAD) if self.live else parameter), self.weight_decay, 0.0

    @property
    def class_states(self) -> tuple[str, ...]:
        """The inputs (`<role>.<output>`) whose first state must be a class token's; none by default."""
        return ()

    @property
    def left_out(self) -> tuple[int, int] | None:
        """The fold (number, of how many) of the training mentions that it does not learn from, see `heads.folds`."""
        return self.fold

    @property
    def keeps_start(self) -> bool:
        """Whether the weights before the first epoch may be kept as the best: those of a start that is good already."""
        return False

    @property
    def evaluates(self) -> bool:
        """Whether a trained head is measured; a stage that only prepares another is not."""
        return not self.live and self.fold is None

    def runs(self, available: Collection[str]) -> dict[str, tuple[str, dict[str, Any]]]:
        """The runs this head reads, `label: (method, parameters)`; none by default. They are trained first, with the
        same seed and mentions."""
        return {}

    def trains_on(self, label: str, name: str) -> bool:
        """Whether the parameter `name` of the run `label` (see `runs`) is this head's own: it goes on from it, or has
        it from the stage that trained it beside blocks of `tune`."""
        return label == TUNED and name.startswith(HEAD)

    def searched(self) -> Mapping[str, Mapping[str, Any]]:
        """The search space of this configuration: `space`, or the part of it that these options use."""
        return self.space

    def pinned(self) -> dict[str, Any]:
        """Parameters that keep `runs` as they are while a search changes others."""
        return {}

    def pairs(self, available: Collection[str]) -> list[str]:
        """The pair features this head reads (files of `pipeline/pairs/`), given the features `available`; none by
        default."""
        return []

    def read_pairs(self, available: Collection[str]) -> list[str]:
        """The pair features of `pairs` as they are computed and read, see `over_pictures`."""
        return [self.over_pictures(pair) for pair in self.pairs(available)]

    def ablations(self, available: Collection[str]) -> dict[str, dict[str, Any]]:
        """The ablations of the method's paper: name -> parameters in place of these, and `TEXT_ONLY` where the method
        reads pictures.

        `train_fraction` among them is no option of the head but the share of the training mentions. Those that would
        change nothing, because `available` lacks the features that they remove, are left out.
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
        """The feature that `option` names: its value or, for "auto", the first of `known` that is `available` (None
        where none is).

        Raises `UserError` for one that is not available.
        """
        name: str | None = getattr(self, option)
        if name == "auto":
            return next((feature for feature in known if feature in available), None)
        if name is not None and name not in available:
            raise UserError(f"{option} = {name!r}: the profile has no such feature{nearest(name, available)}")
        return name


def both_sides(role: str, feature: str, views: Mapping[Side, str], outputs: Collection[str]) -> list[HeadWant]:
    """The same outputs of a feature for mentions and entities, under each side's view."""
    return [HeadWant(side=side, role=role, feature=feature, view=views[side], outputs=tuple(outputs)) for side in SIDES]


EntityText = Literal["properties", "static", "dynamic", "description", "name"]
ENTITY_TEXTS: Mapping[EntityText, str] = {
    "properties": "name_sep_attributes",
    "static": "name_sep_static",
    "dynamic": "name_sep_dynamic",
    "description": "name_sep_description",
    "name": "name",
}
"""Kind of an entity's text (DWE+, section 3) -> its view. EnhanceEntities writes static and dynamic texts."""

PICTURES: Mapping[Side, str] = {"mention": "image", "entity": "image"}
"""The view of each side's own picture."""


def once(option: str, values: Collection[str], known: Collection[str], empty: bool = False) -> None:
    """Raises `ValueError` where the list `option` has a value twice, or none (unless an `empty` list will do)."""
    if len(set(values)) != len(values) or not (values or empty):
        wanted = (
            f"each of {', '.join(known)} at most once" if empty else f"at least one of {', '.join(known)}, each once"
        )
        raise ValueError(f"{option} = {list(values)}: expected {wanted}")


def multiple(option: str, value: int, of: str, factor: int) -> None:
    """Raises `ValueError` where `value` of `option` is no multiple of the option `of`."""
    if value % factor:
        raise ValueError(f"{option} = {value}: expected a multiple of {of} = {factor}")
