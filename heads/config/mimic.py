"""Options of MIMIC (Luo et al., KDD 2023) and the features it reads."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from cache.inputs import SIDES, Side
from foundation.contracts import contract
from foundation.errors import UserError
from heads.config.base import DROPOUTS, PICTURES, TEXT_ONLY, HeadConfig, Positive, Size, both_sides, once
from heads.contracts import HeadWant

Unit = Literal["tglu", "vdlu", "cmfu"]
UNITS: tuple[Unit, ...] = ("tglu", "vdlu", "cmfu")
TEXTS: Mapping[Side, str] = {"mention": "mention_sep_sentence", "entity": "name_sep_attributes"}


@contract
class MimicConfig(HeadConfig):
    """Defaults are the paper's, except lr: the paper's 1e-5 fine-tunes CLIP, and here the encoder is frozen."""

    lr: Positive = 1e-3
    text_feature: Annotated[str, "a feature of the profile; auto: the first of TEXT that it has"] = "auto"
    image_feature: Annotated[
        str | None,
        "a feature of the profile; auto: the first of IMAGE that it has, if any; null: no pictures, VDLU and CMFU are "
        "off for every pair",
    ] = "auto"
    d_t: Annotated[Size, "width inside TGLU"] = 96
    d_v: Annotated[Size, "width of the projected image states, and inside VDLU"] = 96
    d_c: Annotated[Size, "width inside CMFU"] = 96
    units: Annotated[tuple[Unit, ...], "the interaction units that score; one left out takes its loss with it"] = UNITS
    unit_losses: Annotated[
        tuple[Unit, ...], "the units that have a loss of their own beside that of the mean (L_T, L_V, L_C of eq. 22)"
    ] = UNITS
    image_global: Annotated[
        Literal["projected", "class_row"],
        "the encoder's pooled vector through a Linear of its own (the release), or the class row of the projected "
        "local states (section 3.2.1)",
    ] = "projected"
    attention_scale: Annotated[
        Literal["query", "text"],
        "TGLU divides by the root of the width of Q (the release) or of the text states (eq. 9 as printed)",
    ] = "query"
    attention_bias: Annotated[bool, "TGLU's Q, K and V have biases (the release)"] = False
    missing_image: Annotated[
        Literal["null", "zero"],
        "an absent picture is one learned vector, or zeros in place of its features (the paper's padding)",
    ] = "null"
    mask_padding: Annotated[
        bool,
        "false: padding takes part in TGLU: the encoder's own states there where the text feature has the output "
        "`padded` (clip_text's `pad_to`), else zeros up to 40 positions",
    ] = True
    unit_length: Annotated[bool, "pooled vectors of texts and pictures are scaled to length 1 (the release)"] = False
    text_scale: Annotated[
        Positive,
        "initial weights of the LayerNorm of global text vectors; with 1 (the paper) S_T^G2G spans their whole width "
        "and leaves the softmax of the loss nothing to learn from where the encoder is frozen",
    ] = 1.0
    tglu_start: Annotated[
        Literal["random", "aligned"],
        "TGLU's Q, K, V and FC(t_E) begin each at random (the paper), or as one orthogonal projection (ours: a frozen "
        "encoder's vectors and token states are alike from the start, so likeness need not be learned first)",
    ] = "random"
    hard_scope: Annotated[
        Literal["batch", "own"],
        "drawn hard negatives are negatives of the whole batch, or of their own mention (far fewer pairs for as many)",
    ] = "batch"
    same_gold_negative: Annotated[
        bool, "other mentions' copies of a mention's own gold stay among its in-batch negatives"
    ] = False
    vdlu_projections: Annotated[
        bool, "VDLU passes class and pooled vectors through two more Linears and normalises the query (the release)"
    ] = False
    cmfu_gate: Annotated[Literal["vector", "scalar"], "the gate of eq. 17: a vector, or a scalar (the release)"] = (
        "vector"
    )
    release: Annotated[
        bool, "all of the release's departures from the paper at once; an option given beside it has the last word"
    ] = False

    TEXT: ClassVar[tuple[str, ...]] = ("clip_text", "text_tokens")
    IMAGE: ClassVar[tuple[str, ...]] = ("clip_image", "image_patches")
    space: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "batch_size": {"choices": [32, 64, 128, 256]},
        "text_scale": {"low": 0.03, "high": 1.0, "log": True},
        "d_t": {"choices": [32, 64, 96, 128]},
        "d_v": {"choices": [32, 64, 96, 128]},
        "d_c": {"choices": [32, 64, 96, 128]},
        "hard_negatives": {"choices": [0, 1, 2, 4]},
        "picture_dropout": {"choices": DROPOUTS},
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "release": {
            "attention_bias": True,
            "vdlu_projections": True,
            "cmfu_gate": "scalar",
            "missing_image": "zero",
            "mask_padding": False,
            "unit_length": True,
            "same_gold_negative": True,
            "entity_pictures": "random",
            "eps": 1e-4,
            "weight_decay": 1e-4,
        }
    }

    later: ClassVar[tuple[str, ...]] = ("unit_length",)
    sensitivity: ClassVar[Mapping[str, tuple[Any, ...]]] = {  # figure 5
        "d_t": (32, 64, 96, 128),
        "d_v": (32, 64, 96, 128),
        "d_c": (32, 64, 96, 128),
        "lr": (1e-4, 3e-4, 1e-3, 3e-3),
        "batch_size": (32, 64, 128, 256),
    }

    def __post_init__(self) -> None:
        once("units", self.units, UNITS)

    @property
    def class_states(self) -> tuple[str, ...]:
        """See `HeadConfig.class_states`: the class row of the local states (section 3.2.1)."""
        return ("image.tokens",) if self.image_global == "class_row" else ()

    def ablations(self, available: Collection[str]) -> dict[str, dict[str, Any]]:
        """See `HeadConfig.ablations`. Table 2, a unit's loss alone or the unit with its loss, and figure 4, low
        resource."""
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
        """See `HeadConfig.wants`. Text under `mention [SEP] sentence` and `name [SEP] attributes` (eq. 2, 3); no more
        outputs than the units read."""
        image = self.pick("image_feature", self.IMAGE, available)
        units = set(self.units) if image else {"tglu"} & set(self.units)
        if not units:
            raise UserError(
                f"units = {list(self.units)} need image features and there are none; add 'tglu' or choose a profile "
                "with images"
            )
        text = self.pick("text_feature", self.TEXT, available) if units & {"tglu", "cmfu"} else None
        if text is None and units & {"tglu", "cmfu"}:
            raise UserError(
                f"mimic reads a text feature ({' or '.join(self.TEXT)}), there are: {', '.join(sorted(available))}; "
                "add one to the profile"
            )
        wanted: list[HeadWant] = []
        if text:
            outputs = ["tokens", "pooled"] if "tglu" in units else ["pooled"]
            padded = ("padded",) if "tglu" in units and not self.mask_padding else ()
            wanted += [replace(want, optional=padded) for want in both_sides("text", text, TEXTS, outputs)]
        if image and units & {"vdlu", "cmfu"}:
            outputs = ["tokens", "pooled"] if self.image_global == "projected" and "vdlu" in units else ["tokens"]
            wanted += both_sides("image", image, PICTURES, outputs)
        return sorted(wanted, key=lambda want: SIDES.index(want.side))
