"""Image backbones of torchvision and of transformers: built, loaded, and their inner states taken."""

from typing import Any

from foundation.errors import UserError
from pipeline.models import preprocess
from pipeline.models.files import ModelFiles, load_state_dict, load_transformers

VERSION = 1  # raised by hand when the same weights give other numbers


def torchvision_model(files: ModelFiles) -> Any:
    """The architecture named in `torchvision.json`, without weights.

    `architecture` is a builder's name (`resnet152`, `vit_b_16`) or a class (`ResNet`, `VisionTransformer`) with its
    keyword arguments in `kwargs`; a ResNet's `block` is `BasicBlock` or `Bottleneck`. Raises `UserError` for anything
    else.
    """
    import torchvision.models as builders
    from torchvision.models.resnet import BasicBlock, Bottleneck

    name, kwargs = files.config.get("architecture"), dict(files.config.get("kwargs", {}))
    try:
        if name == "ResNet":
            block = {"BasicBlock": BasicBlock, "Bottleneck": Bottleneck}[kwargs["block"]]
            return builders.ResNet(**{**kwargs, "block": block})
        if name == "VisionTransformer":
            return builders.VisionTransformer(**kwargs)
        if name not in builders.list_models(module=builders):  # builders of detectors fetch a backbone unasked
            raise ValueError("no backbone of that name")
        return builders.get_model(name, weights=None, **kwargs)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"model {files.reference!r}: torchvision.json describes no torchvision model: {name!r} {kwargs!r} ({error})"
        ) from None


def load(files: ModelFiles, device: str) -> Any:
    """The backbone with its weights, in evaluation mode on `device`.

    Raises `UserError` where the files are refused or do not fit.
    """
    if files.library != "torchvision":
        return load_transformers(files, "AutoModel", device)
    model = torchvision_model(files)
    try:
        model.load_state_dict(load_state_dict(files.weights[0], files.reference))
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()[:160]
        raise UserError(
            f"model {files.reference!r}: {files.weights[0].name} does not fit torchvision.json: {reason}"
        ) from None
    return model.eval().to(device)


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
