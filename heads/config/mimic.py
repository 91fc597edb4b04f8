"""Options of MIMIC (Luo et al., KDD 2023) and the features it reads."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from cache.inputs import SIDES, Side
from foundation.errors import UserError
from heads.config.base import PICTURES, TEXT_ONLY, HeadConfig, both_sides
from heads.contracts import HeadWant

Unit = Literal["tglu", "vdlu", "cmfu"]
UNITS: tuple[Unit, ...] = ("tglu", "vdlu", "cmfu")
TEXTS: Mapping[Side, str] = {"mention": "mention_sep_sentence", "entity": "name_sep_attributes"}


@dataclass(frozen=True, kw_only=True)
class MimicConfig(HeadConfig):
    """Defaults are the paper's, but for what frozen inputs need: lr (the paper's 1e-5 fine-tunes CLIP).

    text_feature, image_feature: names of features of the profile; "auto" takes the first of TEXT or IMAGE that the profile has.
        image_feature null (or "auto" where there is none): no image features at all, VDLU and CMFU are off for every pair.
    d_t, d_v, d_c: widths inside TGLU, of the projected image states (and VDLU), inside CMFU.
    units: the interaction units that score; a unit left out takes its loss with it.
    unit_losses: the units that have a loss of their own beside that of the mean (L_T, L_V, L_C of eq. 22).
    image_global: "projected" (the encoder's pooled vector through a Linear of its own, as released) or "class_row" (the class row of the
        projected local states, section 3.2.1 of the paper).
    attention_scale: TGLU divides by the square root of the width of Q ("query", as released) or of the text states ("text", eq. 9 as printed).
    attention_bias: TGLU's Q, K and V have biases (the release).
    missing_image: "null", one learned vector that stands for an absent picture, or "zero", zeros in place of its features (the paper's padding).
    mask_padding: false fills every text up to 40 positions with zero states that take part in TGLU.
    text_scale: initial weights of the LayerNorm of global text vectors. With 1 (the paper) S_T^G2G spans the width of the vectors, up and down,
        and the softmax of the loss has nothing left to learn from where the encoder is frozen.
    tglu_start: TGLU's Q, K, V and FC(t_E) begin each at "random" (the paper), or "aligned", as one orthogonal projection (ours: a frozen encoder's
        vectors and token states are alike from the start, so likeness need not be learned first).
    hard_scope: drawn hard negatives are negatives of the whole "batch" or of their "own" mention alone (far fewer pairs for as many of them).
    same_gold_negative: true keeps other mentions' copies of a mention's own gold among its in-batch negatives.
    vdlu_projections: VDLU passes class and pooled vectors through two more Linears and normalises the query (the release).
    cmfu_gate: eq. 17's gate is a "vector", or one "scalar" as in the release.
    release: all of the release's departures from the paper at once (see `presets`); an option given beside it has the last word.
    """

    lr: float = 1e-3
    text_feature: str = "auto"
    image_feature: str | None = "auto"
    d_t: int = 96
    d_v: int = 96
    d_c: int = 96
    units: tuple[Unit, ...] = UNITS
    unit_losses: tuple[Unit, ...] = UNITS
    image_global: Literal["projected", "class_row"] = "projected"
    attention_scale: Literal["query", "text"] = "query"
    attention_bias: bool = False
    missing_image: Literal["null", "zero"] = "null"
    mask_padding: bool = True
    text_scale: float = 1.0
    tglu_start: Literal["random", "aligned"] = "random"
    hard_scope: Literal["batch", "own"] = "batch"
    same_gold_negative: bool = False
    vdlu_projections: bool = False
    cmfu_gate: Literal["vector", "scalar"] = "vector"
    release: bool = False

    TEXT: ClassVar[tuple[str, ...]] = ("clip_text", "text_tokens")
    IMAGE: ClassVar[tuple[str, ...]] = ("clip_image", "image_patches")
    positive: ClassVar[tuple[str, ...]] = (*HeadConfig.positive, "d_t", "d_v", "d_c", "text_scale")
    space: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "batch_size": {"choices": [32, 64, 128, 256]},
        "text_scale": {"low": 0.03, "high": 1.0, "log": True},
        "d_t": {"choices": [32, 64, 96, 128]},
        "d_v": {"choices": [32, 64, 96, 128]},
        "d_c": {"choices": [32, 64, 96, 128]},
        "hard_negatives": {"choices": [0, 1, 2, 4]},
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "release": {
            "attention_bias": True,
            "vdlu_projections": True,
            "cmfu_gate": "scalar",
            "missing_image": "zero",
            "mask_padding": False,
            "same_gold_negative": True,
            "eps": 1e-4,
            "weight_decay": 1e-4,
        }
    }

    sensitivity: ClassVar[Mapping[str, tuple[Any, ...]]] = {  # figure 5
        "d_t": (32, 64, 96, 128),
        "d_v": (32, 64, 96, 128),
        "d_c": (32, 64, 96, 128),
        "lr": (1e-4, 3e-4, 1e-3, 3e-3),
        "batch_size": (32, 64, 128, 256),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.units or len(set(self.units)) != len(self.units):
            raise UserError(f"units = {list(self.units)}: expected at least one of {', '.join(UNITS)}, each once")

    def ablations(self, available: Collection[str]) -> dict[str, dict[str, Any]]:
        """See `HeadConfig.ablations`. Table 2, a unit's loss alone or the unit with its loss, and figure 4, low resource."""
        low = {f"{share:.0%} of train": {"train_fraction": share} for share in (0.1, 0.2)}
        if self.pick("image_feature", self.IMAGE, available) is None:
            return low
        without = {unit: [other for other in self.units if other != unit] for unit in self.units}
        losses = {
            f"without L_{unit[0].upper()}": {"unit_losses": [other for other in self.unit_losses if other != unit]}
            for unit in self.unit_losses
            if unit in self.units
        }
        units = {
            f"without {unit.upper()} + L_{unit[0].upper()}": {
                "units": others,
                "unit_losses": [other for other in self.unit_losses if other != unit],
            }
            for unit, others in without.items()
            if others
        }
        return {**losses, **units, TEXT_ONLY: {"image_feature": None}, **low}

    def wants(self, available: Collection[str]) -> list[HeadWant]:
        """See `HeadConfig.wants`. Text under `mention [SEP] sentence` and `name [SEP] attributes` (eq. 2, 3); no more outputs than the units read."""
        image = self.pick("image_feature", self.IMAGE, available)
        units = set(self.units) if image else {"tglu"} & set(self.units)
        if not units:
            raise UserError(
                f"units = {list(self.units)} need image features and there are none; add 'tglu' or choose a profile with images"
            )
        text = self.pick("text_feature", self.TEXT, available) if units & {"tglu", "cmfu"} else None
        if text is None and units & {"tglu", "cmfu"}:
            raise UserError(
                f"mimic reads a text feature ({' or '.join(self.TEXT)}), there are: {', '.join(sorted(available))}; add one to the profile"
            )
        wanted: list[HeadWant] = []
        if text:
            outputs = ["tokens", "pooled"] if "tglu" in units else ["pooled"]
            wanted += both_sides("text", text, TEXTS, outputs)
        if image and units & {"vdlu", "cmfu"}:
            outputs = ["tokens", "pooled"] if self.image_global == "projected" and "vdlu" in units else ["tokens"]
            wanted += both_sides("image", image, PICTURES, outputs)
        return sorted(wanted, key=lambda want: SIDES.index(want.side))
