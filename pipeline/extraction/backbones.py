"""What extractors around image backbones of torchvision and of transformers share."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from foundation.errors import UserError
from pipeline.extraction import base
from pipeline.models import preprocess
from pipeline.models.references import ModelFiles, load_state_dict, load_transformers


class Backbone(base.ImageExtractor):
    """An extractor that runs the backbone on the whole picture, preprocessed as the model's folder states."""

    loads_first = False

    def __init__(self, options: Any, files: ModelFiles) -> None:
        super().__init__(options, files)
        self.preprocess = preprocessing(files)

    def preprocessing(self) -> Mapping[str, Any]:
        return self.preprocess.to_json()

    def prepare(self, image: Image.Image) -> np.ndarray:
        return self.preprocess(image)

    def load(self, device: str) -> None:
        self.model, self.device = load(self.files, device), device


def torchvision_model(files: ModelFiles) -> Any:
    """The architecture named in `torchvision.json`, without weights.

    `architecture` is a builder's name (`resnet152`, `vit_b_16`) or a class (`ResNet`, `VisionTransformer`) with its keyword arguments in
    `kwargs`; a ResNet's `block` is `BasicBlock` or `Bottleneck`. Raises `UserError` for anything else.
    """
    import torchvision.models as zoo
    from torchvision.models.resnet import BasicBlock, Bottleneck

    name, kwargs = files.config.get("architecture"), dict(files.config.get("kwargs", {}))
    try:
        if name == "ResNet":
            return zoo.ResNet(
                **{**kwargs, "block": {"BasicBlock": BasicBlock, "Bottleneck": Bottleneck}[kwargs["block"]]}
            )
        if name == "VisionTransformer":
            return zoo.VisionTransformer(**kwargs)
        if name not in zoo.list_models(module=zoo):  # detectors and their like, whose builders fetch a backbone unasked
            raise ValueError("no backbone of that name")
        return zoo.get_model(name, weights=None, **kwargs)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"model {files.reference!r}: torchvision.json describes no torchvision model: {name!r} {kwargs!r} ({error})"
        ) from None


def load(files: ModelFiles, device: str) -> Any:
    """The backbone with its weights, in evaluation mode on `device`. Raises `UserError` where the files are refused or do not fit."""
    if files.library == "torchvision":
        model = torchvision_model(files)
        try:
            model.load_state_dict(load_state_dict(files.weights[0], files.reference))
        except RuntimeError as error:
            raise UserError(
                f"model {files.reference!r}: {files.weights[0].name} does not fit torchvision.json: {str(error).splitlines()[1].strip()[:160]}"
            ) from None
        return model.eval().to(device)
    return load_transformers(files, "AutoModel", device)


def preprocessing(files: ModelFiles) -> preprocess.Preprocess:
    """The picture preprocessing that the model's folder states."""
    where = f"model {files.reference!r}"
    if files.library == "torchvision":
        return preprocess.from_torchvision(files.config.get("preprocess", {}), where)
    return preprocess.from_transformers(files.preprocessor(), where)


def capture(model: Any, module: Any, pixels: Any) -> Any:
    """What `module` inside `model` gives for `pixels`."""
    kept: list[Any] = []
    handle = module.register_forward_hook(lambda owner, inputs, output: kept.append(output))
    try:
        model(pixels)
    finally:
        handle.remove()
    return kept[0]
