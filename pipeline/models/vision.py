"""Image backbones of torchvision and of transformers: built, loaded, and their inner states taken."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from foundation.errors import UserError
from pipeline.models import preprocess
from pipeline.models.files import ModelFiles, completed, load_state_dict, load_transformers

VERSION = 1  # raised by hand when the same weights give other numbers


_WITH_VISION_TOWER = ("clip", "siglip", "siglip2")  # models of texts and pictures, whose image tower is read
_ATTENTION_POOLED = ("siglip_vision_model", "siglip2_vision_model", "aimv2_vision_model")


@dataclass(frozen=True)
class StateLayout:
    """How a Vision Transformer's last states lie and what stands for the picture.

    prefix: names of the states before the patches'. pooled: `class` (the first state), `head` (the model's own pooling
    head) or `mean` (over the patches). any_shape: whether pictures keep their own shape (SigLIP 2, NaFlex).
    """

    patch: int
    width: int
    prefix: tuple[str, ...] = ("class",)
    pooled: Literal["class", "head", "mean"] = "class"
    any_shape: bool = False

    def positions(self, size: tuple[int, int]) -> int:
        """States of a picture of `size` (height, width)."""
        return (size[0] // self.patch) * (size[1] // self.patch) + len(self.prefix)

    def to_json(self) -> dict[str, Any]:
        """What of it belongs to the identity: nothing where one class token stands first and for the picture."""
        usual = self.prefix == ("class",) and self.pooled == "class"
        return {} if usual else {"prefix": list(self.prefix), "pooled": self.pooled}


def tower(files: ModelFiles) -> StateLayout | None:
    """The layout of a transformers Vision Transformer; None where its configuration is of another kind.

    A family that is not known here is taken to have one class token, which `check_states` verifies.
    """
    config = files.config
    if config.get("model_type") in _WITH_VISION_TOWER:
        config = completed(files)["vision_config"]
    elif "vision" in str(config.get("model_type")):
        config = completed(files)
    patch, width, family = config.get("patch_size"), config.get("hidden_size"), str(config.get("model_type"))
    if not isinstance(patch, int) or not isinstance(width, int):
        return None
    if family in _ATTENTION_POOLED:
        head = config.get("vision_use_head", config.get("use_head", True))
        return StateLayout(patch, width, (), "head" if head else "mean", family == "siglip2_vision_model")
    if family == "clip_vision_model":
        return StateLayout(patch, width, ("class",), "head")
    if family == "ijepa":
        return StateLayout(patch, width, (), "mean")
    registers = int(config.get("num_register_tokens") or 0) if family.startswith("dino") else 0
    distilled = ("distillation",) if family == "deit" else ()
    return StateLayout(patch, width, ("class", *distilled, *("register",) * registers))


def image_tower(model: Any) -> Any:
    """The part of a transformers model that reads pictures."""
    return getattr(model, "vision_model", model)


def states(model: Any, layout: StateLayout, inputs: Mapping[str, Any]) -> tuple[Any, Any]:
    """(b, P, width) last states and (b, width) the vector of the picture, as the layout says.

    Of ViT-MAE all patches, in their order: neither masked nor shuffled.
    """
    extra = {}
    if model.config.model_type == "vit_mae":
        import torch

        pixels, patch = inputs["pixel_values"], layout.patch
        count = (pixels.shape[-2] // patch) * (pixels.shape[-1] // patch)
        model.config.mask_ratio = 0.0
        extra["noise"] = torch.arange(count, device=pixels.device).float().expand(len(pixels), -1)
    output = image_tower(model)(**inputs, **extra)
    last = output.last_hidden_state
    if layout.pooled == "head":
        return last, output.pooler_output
    if layout.pooled == "class":
        return last, last[:, 0]
    mask = inputs.get("pixel_attention_mask")
    real = last.new_ones(last.shape[:2]) if mask is None else mask.to(last.dtype)
    real[:, : len(layout.prefix)] = 0
    return last, (last * real[:, :, None]).sum(1) / real.sum(1, keepdim=True)


def check_states(files: ModelFiles, model: Any, layout: StateLayout, inputs: Mapping[str, Any], expected: int) -> None:
    """Raises `UserError` unless the model gives `expected` states of the declared width for the inputs."""
    import torch

    try:
        with torch.inference_mode():
            found = tuple(states(model, layout, inputs)[0].shape[1:])
    except Exception as error:
        raise UserError(
            f"model {files.reference!r}: a {files.config.get('model_type')} that cannot be read as a Vision "
            f"Transformer: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
        ) from None
    if found != (expected, layout.width):
        raise UserError(
            f"model {files.reference!r}: a {files.config.get('model_type')} gives states {found} for a picture, "
            f"expected {(expected, layout.width)} ({len(layout.prefix)} before the patches); this family is not served"
        )


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
    except MemoryError:
        raise
    except Exception as error:  # a builder takes what it is given as it comes
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
