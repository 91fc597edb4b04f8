"""`face_attributes`: age, gender, race and emotion of found faces; read docs/responsible-use.md before using it."""

import functools
import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from cache.identity import Output, weights_hash
from foundation.contracts import contract
from pipeline.extraction import base
from pipeline.models import files as model_files
from pipeline.models.files import ModelFiles
from pipeline.models.recognisers import deepface
from pipeline.models.recognisers.align import Margin
from pipeline.models.recognisers.classifier import Classifier, midpoints

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@contract
class Options(base.DerivedOptions):
    """model: folder of DeepFace's weight files, or `deepface` for its own place. attributes: which of age, gender,
    race, emotion are found, and any others that have a classifier, in the order in which a sentence tells them after
    DeepFace's.

    classifiers: attribute → a Hugging Face image classifier that finds it, for DeepFace's attributes in place of its
    model. margin: share of its size by which a box is widened on each side before it is cut.
    """

    attributes: Annotated[tuple[str, ...], Field(min_length=1)] = ("gender", "race", "age")
    classifiers: Mapping[str, base.Name] = field(default_factory=dict)
    margin: base.Margin = 0.0

    def __post_init__(self) -> None:
        if len(set(self.attributes)) < len(self.attributes):
            raise ValueError(f"attributes = {list(self.attributes)!r}: one is named twice")
        for name in (*self.attributes, *self.classifiers):
            own = name in self.classifiers and _NAME.fullmatch(name) and name != base.BOX.name
            if name not in deepface.MODELS and not own:
                raise ValueError(
                    f"attribute {name!r} is unknown; known: {', '.join(deepface.MODELS)}, and any word in "
                    "`classifiers` "
                    "that has a model there"
                )
        lacking = [name for name in self.attributes if name not in self.classifiers]
        if lacking and not self.model:
            raise ValueError(
                f"{', '.join(lacking)}: name DeepFace's weight folder in `model`, or a classifier each in `classifiers`"
            )


class FaceAttributes(base.CropExtractor):
    """age () years · gender (2), race (6), emotion (7) probabilities, other widths and outputs with other classifiers.

    The detector is the feature `of`.
    """

    VERSION = 1
    options: Options

    def __init__(self, options: Options, files: Mapping[str, ModelFiles]) -> None:
        super().__init__(options, None)
        self.sources = files
        self.margin = Margin(options.margin)
        self.classifiers = {name: Classifier(files[name]) for name in options.attributes if name in options.classifiers}
        self.own = {
            name: deepface.Demography(name, files[name]) for name in options.attributes if name not in self.classifiers
        }
        self.years = {
            name: midpoints(classifier.labels, classifier.files.reference)
            for name, classifier in self.classifiers.items()
            if name == "age"
        }

    @classmethod
    def find(cls, options: Options, base: Path, demo: Path | None, fetch: bool) -> dict[str, ModelFiles]:
        own = {name: options.classifiers[name] for name in options.attributes if name in options.classifiers}
        deep = {name: deepface.find(name, options.model, base, demo) for name in options.attributes if name not in own}
        return deep | {name: model_files.find(reference, base, demo, fetch) for name, reference in own.items()}

    @classmethod
    def references(cls, options: Options) -> list[str]:
        own = [options.classifiers[name] for name in options.attributes if name in options.classifiers]
        return own if len(own) == len(options.attributes) else [deepface.place(options.model), *own]

    def labels(self) -> dict[str, list[str]]:
        return {name: self._labels(name) for name in self.options.attributes if name != "age"}

    def _labels(self, name: str) -> list[str]:
        return self.classifiers[name].labels if name in self.classifiers else list(deepface.MODELS[name][2])

    def possible(self) -> dict[str, Output]:
        shapes = {name: () if name == "age" else (len(self._labels(name)),) for name in self.options.attributes}
        return {name: Output(name, shape, "float32", ragged=True) for name, shape in shapes.items()}

    def preprocessing(self) -> Mapping[str, Any]:
        return {
            "margin": float(self.options.margin),
            "classifiers": {name: classifier.prepare.to_json() for name, classifier in self.classifiers.items()},
        }

    def spec(
        self, memo: Path | None, limits: Mapping[str, int], parents: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """See `Extractor.spec`; each attribute has a model of its own."""
        each = {
            name: {"architecture": files.architecture(), "weights": weights_hash(list(files.weights), memo)}
            for name, files in self.sources.items()
        }
        return super().spec(memo, limits, parents) | {"models": each}

    def cut(self, image: Any, parent: Mapping[str, np.ndarray]) -> list[tuple[int, Any]]:
        return super().cut(image, self.margin.widened(parent))

    def prepare(self, image: Any) -> base.Outputs:
        items = {name: classifier.prepare(image) for name, classifier in self.classifiers.items()}
        if self.own:
            items["deepface"] = deepface.Demography.prepare(image)
        return items

    def load(self, device: str) -> None:
        self.device = device
        for classifier in self.classifiers.values():
            classifier.load(device)
        for model in self.own.values():
            model.load(device)

    def collate(self, items: Any) -> list[dict[str, np.ndarray]]:
        return list(items)

    def _find(self, name: str, crops: np.ndarray) -> np.ndarray:
        if name in self.own:
            return self.own[name](crops)
        probabilities = self.classifiers[name](crops)
        return probabilities @ self.years[name] if name == "age" else probabilities

    def __call__(self, batch: list[dict[str, np.ndarray]]) -> base.Outputs:
        stacked = {name: np.stack([item[name] for item in batch]) for name in batch[0]}
        rows = {}
        for name in self.options.attributes:
            crops = stacked[name] if name in self.classifiers else stacked["deepface"]
            rows[name] = base.rows_or_none(functools.partial(self._find, name), crops)
        failed = [any(rows[name][i] is None for name in rows) for i in range(len(batch))]
        return {
            name: [None if bad else row for row, bad in zip(values, failed, strict=True)]
            for name, values in rows.items()
        }


extractor = FaceAttributes
