"""Options of DSMIP (dynamic modality selection and interactive prompts) and the features each of its stages reads."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from cache.inputs import Side
from foundation.contracts import contract
from foundation.errors import UserError
from heads.config.base import (
    DROPOUTS,
    PICTURES,
    TEXT_ONLY,
    WITHOUT_FOLD,
    Count,
    Fraction,
    HeadConfig,
    NotNegative,
    Positive,
    Size,
    both_sides,
    once,
)
from heads.contracts import HeadWant

Expert = Literal["text", "visual", "multimodal"]
EXPERTS: tuple[Expert, ...] = ("text", "visual", "multimodal")
TEXTS: Mapping[Side, str] = {"mention": "mention_colon_sentence", "entity": "name_colon_attributes"}
PROMPTED = {"text": "prompted_text", "image": "prompted_image"}
"""Features that are extracted with learned prompts and belong to the run that learned them, not to the profile."""


@contract
class DsmipConfig(HeadConfig):
    """Defaults are the paper's (section 4), but for what is marked ours.

    The first stage trains each expert by itself, the second the gate over them. Training the gate first trains the
    experts that are missing.
    """

    lr: Positive = 5e-4
    batch_size: Size = 128
    epochs: Count = 20
    stage: Annotated[
        Literal["gate", "text", "visual", "prompts", "multimodal"],
        "gate: the second stage and the method itself; text, visual: those experts alone; prompts: the multimodal "
        "expert, over a frozen CLIP's blocks run live (multimodal: without prompts)",
    ] = "gate"
    prompts: Annotated[
        bool,
        "the multimodal expert has learned prompts; without them (table 2) it reads `text_feature` and `image_feature` "
        "as the others do",
    ] = True
    experts: Annotated[
        tuple[Expert, ...],
        "those that the gate chooses among ([text, multimodal] in the paper's runs on RichpediaMEL and WikiDiverse); "
        "one whose features the profile lacks is left out, and with one expert there is no gate",
    ] = EXPERTS
    text_feature: Annotated[str, "of the text expert"] = "clip_text"
    image_feature: Annotated[str, "of the visual expert"] = "clip_image"
    layers_text: Annotated[
        str, "text states entering the block that prompts start from (the profile's `block`; 0 is the paper's)"
    ] = "clip_layers_text"
    layers_image: Annotated[str, "picture states entering that block; a deeper one is cheaper"] = "clip_layers_image"
    gate_image: Annotated[
        str | None,
        "the picture's part of the gate's input; auto: the first of GATE_IMAGE that the profile has (VGG is the "
        "paper's); null: text alone",
    ] = "auto"
    prompt_layers: Annotated[Size, "J, or as many blocks as there are"] = 9
    prompt_length: Annotated[Size, "r, vectors per prompt"] = 2
    prompt_start: Annotated[Count, "the block that `layers_text` and `layers_image` hold the states of"] = 0
    d_t: Annotated[Size, "width inside TGLU, as MIMIC's"] = 96
    d_v: Annotated[Size, "width inside VDLU, as MIMIC's"] = 96
    d_c: Annotated[Size, "width inside CMFU, as MIMIC's"] = 96
    text_scale: Annotated[Positive, "initial weights of the LayerNorm of global text vectors, as MIMIC's"] = 1.0
    missing_image: Annotated[
        Literal["null", "zero"], "an absent picture is one learned vector, or zeros in place of its features"
    ] = "null"
    expert_epochs: Annotated[Count | None, "of the first stage; null: as `epochs`"] = None
    expert_hard_negatives: Annotated[Count | None, "of the first stage; null: as `hard_negatives`"] = None
    expert_lr: Annotated[NotNegative | None, "of the first stage; null: as `lr`"] = None
    gate_width: Annotated[Size, "of both blocks of the MLP of each side"] = 512
    gate_dropout: Annotated[Fraction, "in both blocks of the MLP of each side"] = 0.1
    temperature: Annotated[Positive, "tau of eq. 16"] = 0.1
    gate_noise: Annotated[
        bool, "draw from the Gumbel distribution at test time too (the paper); false: the most likely expert (ours)"
    ] = False
    expert_scale: Annotated[
        bool,
        "a learned factor for each expert's scores, which starts where all have the same spread (ours: a hard switch "
        "between scales would reorder candidates)",
    ] = True
    gate_loss: Annotated[
        Literal["gumbel", "likelihood"],
        "what the gate learns from. gumbel: the loss of the chosen expert, straight through Gumbel-softmax (the "
        "paper). likelihood: the probability that the experts give to golds, weighted by the gate (ours: for data on "
        "which gumbel takes one expert for all)",
    ] = "gumbel"
    gate_lr: Annotated[NotNegative | None, "of the gate and the factors in the second stage; null: as `lr`"] = None
    gate_folds: Annotated[
        Count,
        "with gate_loss likelihood: train is cut into so many folds (2 or more), and on a mention the gate learns "
        "from experts that were trained without its fold, for this alone; 0: from the experts themselves (ours)",
    ] = 0

    GATE_IMAGE: ClassVar[tuple[str, ...]] = ("image_vgg", "image_pooled", "image_patches")
    space: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "lr": {"low": 3e-5, "high": 3e-3, "log": True},
        "gate_width": {"choices": [128, 256, 512]},
        "gate_dropout": {"low": 0.0, "high": 0.4},
        "temperature": {"low": 0.05, "high": 1.0, "log": True},
        "batch_size": {"choices": [32, 64, 128, 256]},
        "hard_negatives": {"choices": [0, 1, 2, 4]},
        "d_t": {"choices": [32, 64, 96, 128]},
        "d_v": {"choices": [32, 64, 96, 128]},
        "d_c": {"choices": [32, 64, 96, 128]},
        "text_scale": {"low": 0.03, "high": 1.0, "log": True},
        "prompt_length": {"low": 1, "high": 4},
        "prompt_layers": {"low": 1, "high": 9},
        "picture_dropout": {"choices": DROPOUTS},
    }
    GATE_SPACE: ClassVar[tuple[str, ...]] = ("lr", "gate_width", "gate_dropout", "temperature")
    SHARED: ClassVar[tuple[str, ...]] = (
        "batch_size",
        "patience",
        "checks",
        "weight_decay",
        "eps",
        "clip_norm",
        "eval_candidates",
        "hard_negatives",
    )
    READ_BY: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "text": ("text_feature", "d_t", "text_scale"),
        "visual": ("image_feature", "d_v", "missing_image", "picture_dropout", "entity_pictures"),
        "prompts": (
            "layers_text",
            "layers_image",
            "prompt_layers",
            "prompt_length",
            "prompt_start",
            "d_t",
            "d_v",
            "d_c",
            "text_scale",
            "missing_image",
            "picture_dropout",
            "entity_pictures",
        ),
        "multimodal": (
            "text_feature",
            "image_feature",
            "prompts",
            "d_t",
            "d_v",
            "d_c",
            "text_scale",
            "missing_image",
            "picture_dropout",
            "entity_pictures",
        ),
    }

    later: ClassVar[tuple[str, ...]] = ("gate_loss", "gate_lr", "expert_hard_negatives", "gate_folds")

    @classmethod
    def gone(cls, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `HeadConfig.gone`: the first stage did not read `gate_start`; a gate that started from it is another."""
        return {"gate_start": None if config.get("stage") == "gate" else 3.0}

    def __post_init__(self) -> None:
        once("experts", self.experts, EXPERTS)
        if self.gate_folds == 1:
            raise ValueError("gate_folds = 1: expected at least 2 folds, or 0 for none")
        if self.gate_folds and self.gate_loss == "gumbel":
            raise ValueError(f"gate_folds = {self.gate_folds}: only gate_loss = 'likelihood' learns from them")
        if self.gate_folds and self.fold is not None:
            raise ValueError(
                f"fold = {list(self.fold)}, gate_folds = {self.gate_folds}: experts would leave out two folds; take one"
            )
        if self.stage == ("multimodal" if self.prompts else "prompts"):
            raise ValueError(
                f"stage = {self.stage!r}: with prompts = {str(self.prompts).lower()} the multimodal expert's stage is "
                f"{self.stage_of('multimodal')!r}"
            )

    @property
    def stays_live(self) -> bool:  # type: ignore[override]  # here it depends on an option
        """See `HeadConfig.stays_live`: prompts are learned with a model beside the cache."""
        return self.stage == "prompts"

    def lr_of(self, parameter: str) -> float:
        """See `HeadConfig.lr_of`: the gate is new in the second stage, the units are not."""
        new = parameter == "scale" or parameter.startswith("gate.")
        return self.gate_lr if new and self.gate_lr is not None else self.lr

    @property
    def evaluates(self) -> bool:
        """Experts are measured by `experts: [text]` and so on, which needs no training but the first stage's and reads
        prompted features from the cache."""
        return self.stage == "gate" and super().evaluates

    def stage_of(self, expert: Expert) -> str:
        """The first stage that trains an expert."""
        return "prompts" if expert == "multimodal" and self.prompts else expert

    def possible(self, available: Collection[str]) -> list[Expert]:
        """The experts whose features are there. Raises `UserError` where none is."""
        needs: dict[Expert, set[str]] = {
            "text": {self.text_feature},
            "visual": {self.image_feature},
            "multimodal": {self.layers_text, self.layers_image}
            if self.prompts
            else {self.text_feature, self.image_feature},
        }
        served: list[Expert] = [expert for expert in self.experts if needs[expert] <= set(available)]
        if not served:
            lacking = sorted(set().union(*(needs[expert] for expert in self.experts)) - set(available))
            raise UserError(
                f"dsmip: none of its experts ({', '.join(self.experts)}) has its features; the profile lacks "
                f"{', '.join(lacking)}"
            )
        return served

    def ablations(self, available: Collection[str]) -> dict[str, dict[str, Any]]:
        """See `HeadConfig.ablations`. Table 2, each expert alone and no prompts; two experts, as on two of the paper's
        datasets; figure 3, low resource."""
        if self.stage != "gate":
            return {}
        experts = self.possible(available)
        alone = {
            f"{expert} expert alone": {"experts": [expert]}
            for expert in experts
            if expert != "text" and len(experts) > 1
        }
        two = (
            {"text and multimodal experts": {"experts": ["text", "multimodal"]}} if set(experts) == set(EXPERTS) else {}
        )
        plain = self.prompts and "multimodal" in experts and {self.text_feature, self.image_feature} <= set(available)
        without = {"without prompts": {"prompts": False}} if plain else {}
        text = {TEXT_ONLY: {"experts": ["text"]}} if "text" in experts and len(experts) > 1 else {}
        return {**text, **alone, **without, **two, "10% of train": {"train_fraction": 0.1}}

    def searched(self) -> Mapping[str, Mapping[str, Any]]:
        """See `HeadConfig.searched`: the gate's own options, or those that the stage of this configuration reads."""
        read = self.GATE_SPACE if self.stage == "gate" else ("lr", *self.SHARED, *self.READ_BY[self.stage])
        return {name: entry for name, entry in self.space.items() if name in read}

    def pinned(self) -> dict[str, Any]:
        """See `HeadConfig.pinned`: the experts stay as they were trained."""
        return (
            {"expert_lr": self.expert_lr or self.lr, "expert_epochs": self.expert_epochs or self.epochs}
            if self.stage == "gate"
            else {}
        )

    def runs(self, available: Collection[str]) -> dict[str, tuple[str, dict[str, Any]]]:
        """See `HeadConfig.runs`: the experts that the gate starts from."""
        if self.stage != "gate":
            return {}
        experts: dict[str, dict[str, Any]] = {
            expert: self._of_stage(self.stage_of(expert)) for expert in self.possible(available)
        }
        folds = range(self.gate_folds if len(experts) > 1 else 0)
        judges = {
            f"{expert}{WITHOUT_FOLD}{fold}": {**params, "fold": [fold, self.gate_folds]}
            for expert, params in experts.items()
            for fold in folds
        }
        return {label: ("dsmip", params) for label, params in {**experts, **judges}.items()}

    def trains_on(self, label: str, name: str) -> bool:
        """See `HeadConfig.trains_on`: the units of each expert; prompts, and the visual expert's absent picture beside
        a gate, stay as they are."""
        if label not in EXPERTS:
            return False
        frozen = label == "visual" and self.missing_image == "null" and len(self.experts) > 1
        return name.startswith("scoring.") and not (frozen and name == "scoring.absent_image")

    def _of_stage(self, stage: str) -> dict[str, Any]:
        """The parameters of an expert's own training: only options that its stage reads, so that others do not train it
        again."""
        chosen = {name: getattr(self, name) for name in (*self.SHARED, *self.READ_BY[stage])}
        lr, epochs = self.expert_lr or self.lr, self.expert_epochs or self.epochs
        if self.expert_hard_negatives is not None:
            chosen["hard_negatives"] = self.expert_hard_negatives
        left_out = {"fold": list(self.fold)} if self.fold is not None else {}
        return {"stage": stage, "lr": lr, "epochs": epochs, **chosen, **left_out}

    def wants(self, available: Collection[str]) -> list[HeadWant]:
        """See `HeadConfig.wants`. Text under `word : context` and `name : attributes` (section 3.2.1)."""
        if self.stage == "gate":
            experts = self.possible(available)
            return [want for expert in experts for want in self._of_expert(expert)] + (
                self._of_gate(available) if len(experts) > 1 else []
            )
        expert: Expert = next(expert for expert in EXPERTS if self.stage_of(expert) == self.stage)
        lacking = sorted({want.feature for want in self._of_expert(expert)} - {*available, *PROMPTED.values()})
        if lacking:
            raise UserError(f"dsmip, stage {self.stage}: the profile lacks {', '.join(lacking)}")
        return self._of_expert(expert)

    def _of_expert(self, expert: Expert) -> list[HeadWant]:
        states = ["tokens", "pooled"]
        if expert == "text":
            return both_sides("text", self.text_feature, TEXTS, states)
        if expert == "visual":
            return both_sides("image", self.image_feature, PICTURES, states)
        if self.stage == "prompts":
            of_text = "states" if self.prompt_start else "ids"  # before the first block the token ids say all
            pictures = both_sides("image", self.layers_image, PICTURES, ["states"])
            return both_sides("text", self.layers_text, TEXTS, [of_text]) + pictures
        features = PROMPTED if self.prompts else {"text": self.text_feature, "image": self.image_feature}
        pictures = both_sides(PROMPTED["image"], features["image"], PICTURES, states)
        return both_sides(PROMPTED["text"], features["text"], TEXTS, states) + pictures

    def _of_gate(self, available: Collection[str]) -> list[HeadWant]:
        wanted: list[HeadWant] = []
        if self.layers_text in available:
            wanted += both_sides("gate_text", self.layers_text, TEXTS, ["embedding"])
        elif self.text_feature in available:
            wanted += both_sides("gate_text", self.text_feature, TEXTS, ["pooled"])
        image = self.pick("gate_image", self.GATE_IMAGE, available)
        return wanted + (both_sides("gate_image", image, PICTURES, ["pooled"]) if image else [])
