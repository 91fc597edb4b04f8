"""Options of `dual`, one vector per record, and the features it reads."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar

from cache.inputs import SIDES, Side
from foundation.contracts import contract
from foundation.errors import UserError
from foundation.files import parse_json
from heads.config.base import (
    DROPOUTS,
    ENTITY_TEXTS,
    PICTURES,
    TEXT_ONLY,
    WITHOUT_FOLD,
    Count,
    EntityPictures,
    EntityText,
    HeadConfig,
    Positive,
    Size,
    both_sides,
    multiple,
)
from heads.contracts import HeadWant

TEACHER = "teacher"
TAUGHT = ("teacher", "teacher_params", "teacher_weight", "teacher_temperature")
FOLDS = 2
"""Of train, by gold entity: a teacher scores the one that it left out."""


@contract
class DualConfig(HeadConfig):
    """The retriever: one vector of length 1 per record, compared by inner product (ours, after an idea of FAST-MEL)."""

    lr_decay: bool = True
    hard_negatives: Count = 4
    entity_pictures: EntityPictures = "mean"
    text_feature: Annotated[str, "a feature of the profile; auto: the first of TEXT that it has"] = "auto"
    image_feature: Annotated[
        str | None, "a feature of the profile; auto: the first of IMAGE that it has, if any; null: text alone"
    ] = "auto"
    entity_text: Annotated[
        EntityText, "the entity's text: properties, or enhanced: static or dynamic, by EnhanceEntities"
    ] = "properties"
    phrase: Annotated[
        bool, "the pooled vector of the phrase alone, or of the name alone, stands beside the text's (ours)"
    ] = True
    width: Annotated[Size, "d, numbers of a record's vector; 2 bytes each in a candidate source"] = 256
    attention_width: Annotated[Size, "of what the attention takes out of a modality's states"] = 256
    attention_heads: Annotated[
        Count, "weightings of a modality's states; 0: pooled vectors alone, no state is read"
    ] = 4
    shared: Annotated[bool, "mentions and entities have the same weights; false: each side its own"] = True
    temperature: Annotated[Positive, "inner products are divided by it; where it starts, for it is learned"] = 0.05
    symmetric: Annotated[
        bool, "the loss also asks of each gold which of the batch's mentions is its own; false: of mentions alone"
    ] = True
    per_picture: Annotated[
        bool,
        "a vector for each picture of an entity, of which the best counts, the same as entity_pictures: best; false: "
        "the same attention pools the states of all its pictures into the one vector",
    ] = False

    teacher: Annotated[
        str | None,
        "a method, or the folder of a finished run, that it learns from too: by the scores of two runs of it, each of "
        "the fold of train that it left out; none that learns from dev",
    ] = None
    teacher_params: Annotated[str, "the teacher's hyper-parameters, as --params has them; of a run its own"] = "{}"
    teacher_weight: Annotated[Positive, "of the divergence from the teacher, beside the loss"] = 1.0
    teacher_temperature: Annotated[Positive, "the teacher's scores are divided by it"] = 1.0

    TEXT: ClassVar[tuple[str, ...]] = ("text_tokens", "clip_text")
    IMAGE: ClassVar[tuple[str, ...]] = ("clip_image", "image_patches")
    TEXTS: ClassVar[Mapping[Side, str]] = {"mention": "mention_sep_sentence", "entity": "name_sep_attributes"}
    PHRASES: ClassVar[Mapping[Side, str]] = {"mention": "mention", "entity": "name"}
    later: ClassVar[tuple[str, ...]] = TAUGHT
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"per_picture": {"entity_pictures": "best"}}
    space: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "batch_size": {"choices": [32, 64, 128, 256]},
        "width": {"choices": [64, 128, 256]},
        "attention_width": {"choices": [64, 128, 256]},
        "attention_heads": {"choices": [1, 2, 4, 8]},
        "temperature": {"low": 0.02, "high": 0.2, "log": True},
        "hard_negatives": {"choices": [0, 1, 2, 4, 8]},
        "weight_decay": {"choices": [0.0, 0.001, 0.01, 0.1]},
        "picture_dropout": {"choices": DROPOUTS},
    }
    sensitivity: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "width": (32, 64, 128, 256),
        "attention_heads": (0, 1, 2, 4, 8),
        "hard_negatives": (0, 1, 2, 4, 8),
        "batch_size": (32, 64, 128, 256),
    }

    def __post_init__(self) -> None:
        if self.attention_heads:
            multiple("attention_width", self.attention_width, "attention_heads", self.attention_heads)
        if self.per_picture and self.entity_pictures != "best":
            raise ValueError(
                f"entity_pictures = {self.entity_pictures!r}: with per_picture it is 'best'; leave one out"
            )
        if self.teacher is not None:
            self._check_teacher(self.teacher)

    def _check_teacher(self, teacher: str) -> None:
        """Raises `UserError` or `ValueError` for a teacher that there is not, or that may be none."""
        from heads.config import config_class, load_config

        if config_class(teacher, "teacher").fits_on != "train":
            raise ValueError(
                f"teacher = {teacher!r}: it learns from half of dev, and what learns from it would know labels of dev; "
                "take a method that learns from train alone, such as mimic or ranker"
            )
        if self.fold is not None:
            raise ValueError("fold: a student's teachers know the fold that it would leave out; take fold or teacher")
        if not self.hard_negatives:
            raise ValueError("teacher: it is asked about the entities drawn from the list; set hard_negatives above 0")
        load_config(teacher, self._of_teacher(0), "teacher_params")

    def _of_teacher(self, fold: int) -> dict[str, Any]:
        """The teacher's hyper-parameters without a fold. Counts of golds are none of its inputs: of the fold that it
        left out it has counted no gold."""
        from heads.config import config_class

        assert self.teacher is not None
        try:
            params = parse_json(self.teacher_params)
        except ValueError as error:
            raise ValueError(f"teacher_params: malformed JSON ({error})") from None
        if not isinstance(params, dict):
            raise ValueError(f"teacher_params = {self.teacher_params:.60}: expected a JSON object")
        kind = config_class(self.teacher)
        counts = {"frequency": False} if hasattr(kind, "frequency") else {}
        none = {"teacher": None} if hasattr(kind, "teacher") else {}  # of its own, whatever the profile says
        return {**none, **params, **counts, "fold": [fold, FOLDS]}

    def runs(self, available: Collection[str]) -> dict[str, tuple[str, dict[str, Any]]]:
        """See `HeadConfig.runs`: the teacher without each fold. Raises `UserError` for one that reads a run which would
        know the fold."""
        from heads.config import load_config

        if self.teacher is None or not self.passes:
            return {}
        runs = {f"{TEACHER}{WITHOUT_FOLD}{fold}": (self.teacher, self._of_teacher(fold)) for fold in range(FOLDS)}
        for method, params in runs.values():
            config = load_config(method, params, "teacher_params")
            for label, (below, options) in config.runs(available).items():
                if load_config(below, options).left_out != config.left_out:
                    raise UserError(
                        f"teacher = {self.teacher!r}: its run {label!r} learns from all of train, and so knows the "
                        "golds that it is asked about; take a teacher that reads no other run"
                    )
        return runs

    def ablations(self, available: Collection[str]) -> dict[str, dict[str, Any]]:
        """See `HeadConfig.ablations`: no paper has any; each takes one part away."""
        pictures = self.pick("image_feature", self.IMAGE, available) is not None
        parts: dict[str, dict[str, Any]] = {
            "without attention": {"attention_heads": 0},
            "without hard negatives": {"hard_negatives": 0},
            "without phrase": {"phrase": False},
            "weights of each side": {"shared": False},
            "loss of mentions alone": {"symmetric": False},
            **({TEXT_ONLY: {"image_feature": None}} if pictures else {}),
        }
        return {
            name: changes
            for name, changes in parts.items()
            if any(value != getattr(self, option) for option, value in changes.items())
        }

    def wants(self, available: Collection[str]) -> list[HeadWant]:
        """See `HeadConfig.wants`. Text under `mention [SEP] sentence` and `name [SEP] attributes`, as MIMIC's."""
        text = self.pick("text_feature", self.TEXT, available)
        if text is None:
            raise UserError(
                f"dual reads a text feature ({' or '.join(self.TEXT)}), there are: {', '.join(sorted(available))}; "
                "add one to the profile"
            )
        outputs = ("tokens", "pooled") if self.attention_heads else ("pooled",)
        views = {**self.TEXTS, "entity": ENTITY_TEXTS[self.entity_text]}
        wanted = both_sides("text", text, views, outputs)
        if self.phrase:
            wanted += both_sides("phrase", text, self.PHRASES, ["pooled"])
        if image := self.pick("image_feature", self.IMAGE, available):
            wanted += both_sides("image", image, PICTURES, outputs)
        return sorted(wanted, key=lambda want: SIDES.index(want.side))
