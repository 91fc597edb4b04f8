"""Loading CLIP checkpoints of open_clip and of transformers: one model behind the text and the image feature."""

from collections.abc import Callable, Mapping
from typing import Any

from foundation.errors import UserError
from pipeline.models.files import ModelFiles, load_transformers, refused

VERSION = 1  # raised by hand when the same weights give other numbers


def check(files: ModelFiles) -> None:
    """Raises `UserError` unless the folder holds a CLIP model of one of the two libraries."""
    if files.library == "open_clip" and isinstance(files.config.get("model_cfg"), dict):
        return
    if files.library == "transformers" and files.config.get("model_type") == "clip":
        return
    raise UserError(
        f"model {files.reference!r}: {files.folder} holds no CLIP model; an open_clip folder or a transformers "
        "`clip` model is expected"
    )


def load(files: ModelFiles, device: str) -> Any:
    """The whole model in evaluation mode on `device`. Raises `UserError` where the files are refused."""
    if files.library == "transformers":
        return load_transformers(files, "CLIPModel", device)
    import open_clip

    try:
        return (
            open_clip.create_model(
                f"local-dir:{files.folder}", device="cpu", weights_only=True, require_pretrained=True
            )
            .eval()
            .to(device)
        )
    except Exception as error:
        raise refused(files, error) from error


def parameters(architecture: Mapping[str, Any]) -> int:
    """How many parameters the whole model has, both towers, projections and temperature: those of the model that its
    library builds, without weights, of what `ModelFiles.architecture` gives."""
    import torch

    config = dict(architecture["config"])
    with torch.device("meta"):
        if architecture["library"] == "transformers":
            from transformers import CLIPConfig, CLIPModel

            model: Any = CLIPModel(CLIPConfig(**config))
        else:
            import open_clip

            cfg = dict(config["model_cfg"])
            custom = cfg.pop("custom_text", False)
            model = (open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP)(**cfg)
    return sum(parameter.numel() for parameter in model.parameters())


def widths(files: ModelFiles) -> dict[str, int]:
    """text, vision: widths of the towers; projection: of the shared space; context: tokens; patches: of a picture;
    image_size: its pixels."""
    config = files.config
    if files.library == "open_clip":
        model = config["model_cfg"]
        text, vision = model.get("text_cfg", {}), model.get("vision_cfg", {})
        size, patch = vision.get("image_size", 224), vision.get("patch_size", 16)
        if "timm_model_name" in vision or not isinstance(vision.get("layers", 12), int):
            raise UserError(
                f"model {files.reference!r}: its image tower is not open_clip's VisionTransformer; choose a ViT "
                "checkpoint"
            )
        if "hf_model_name" in text or text.get("no_causal_mask") or text.get("pool_type", "argmax") != "argmax":
            raise UserError(
                f"model {files.reference!r}: its text tower is not CLIP's (causal, end-of-text pooled); choose a "
                "CLIP checkpoint"
            )
        size = size if isinstance(size, int) else size[0]
        return {
            "text": text.get("width", 512),
            "vision": vision.get("width", 768),
            "projection": model["embed_dim"],
            "context": text.get("context_length", 77),
            "patches": (size // patch) ** 2,
            "image_size": size,
        }
    text, vision = {**config.get("text_config", {})}, {**config.get("vision_config", {})}
    size, patch = vision.get("image_size", 224), vision.get("patch_size", 32)
    return {
        "text": text.get("hidden_size", 512),
        "vision": vision.get("hidden_size", 768),
        "projection": config.get("projection_dim", 512),
        "context": text.get("max_position_embeddings", 77),
        "patches": (size // patch) ** 2,
        "image_size": size,
    }


def check_block(files: ModelFiles, tower: str, block: int) -> None:
    """Raises `UserError` unless `tower` (`text` or `vision`) has a transformer block of that number."""
    if files.library == "open_clip":
        layers = files.config["model_cfg"].get(f"{tower}_cfg", {}).get("layers", 12)
    else:
        layers = files.config.get(f"{tower}_config", {}).get("num_hidden_layers", 12)
    if type(block) is not int or not 0 <= block < layers:
        raise UserError(
            f"model {files.reference!r}: block is {block!r}, expected a whole number from 0 to {layers - 1} (its "
            f"{tower} tower's blocks)"
        )


class _Reached(Exception):
    """The states that were waited for."""


def entering(block: Any, run: Callable[[], Any]) -> Any:
    """The states that enter the module `block` while `run` runs, which goes no further."""

    def stop(module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        raise _Reached(inputs[0] if inputs else named["hidden_states"])

    handle = block.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        run()
    except _Reached as reached:
        return reached.args[0]
    finally:
        handle.remove()
    raise RuntimeError("the block was never reached")
