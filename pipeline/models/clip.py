"""Loading CLIP and SigLIP checkpoints of open_clip and of transformers: one model behind the text and the image
feature."""

from collections.abc import Callable, Mapping
from typing import Any

from foundation.errors import UserError
from foundation.files import read_json
from pipeline.models.files import ModelFiles, completed, load_transformers, refused

VERSION = 1  # raised by hand when the same weights give other numbers


_CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel", "siglip2": "Siglip2Model"}  # of transformers, by model_type
# What of open_clip's text configuration makes another tower than CLIP's own: causal, pooled at the end token.
_USUAL_TEXT = {
    "no_causal_mask": False,
    "use_pad_mask": False,
    "embed_cls": False,
    "pool_type": "argmax",
    "hf_tokenizer_name": None,
}


def check(files: ModelFiles) -> None:
    """Raises `UserError` unless the folder holds a CLIP or SigLIP model of one of the two libraries."""
    if files.library == "open_clip" and isinstance(files.config.get("model_cfg"), dict):
        return
    if files.library == "transformers" and files.config.get("model_type") in _CLASSES:
        return
    raise UserError(
        f"model {files.reference!r}: {files.folder} holds no CLIP model; an open_clip folder or a transformers "
        "`clip`, `siglip` or `siglip2` model is expected"
    )


def load(files: ModelFiles, device: str) -> Any:
    """The whole model in evaluation mode on `device`. Raises `UserError` where the files are refused."""
    if files.library == "transformers":
        return load_transformers(files, _CLASSES[files.config["model_type"]], device)
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


def is_siglip(files: ModelFiles) -> bool:
    """Whether it is a SigLIP or SigLIP 2 of transformers."""
    return files.library == "transformers" and files.config.get("model_type") in ("siglip", "siglip2")


def takes_any_shape(files: ModelFiles) -> bool:
    """Whether it is a SigLIP 2 that keeps a picture's own shape (NaFlex)."""
    return files.library == "transformers" and files.config.get("model_type") == "siglip2"


def is_timm(files: ModelFiles) -> bool:
    """Whether open_clip takes the image tower from timm (EVA, SigLIP, ConvNeXt, …)."""
    return files.library == "open_clip" and "timm_model_name" in files.config["model_cfg"].get("vision_cfg", {})


def reads_whole_context(files: ModelFiles) -> bool:
    """Whether a text's vector depends on its padding, so that the tower must run over its whole context as it was
    trained: all but CLIP's own text tower."""
    if files.library != "open_clip":
        return is_siglip(files)
    return has_another_text_tower(files.config) and not _pools_at_end(files)


def pools_last(files: ModelFiles) -> bool:
    """Whether a text's vector is the tower's last position and depends on its token ids in no other way (SigLIP)."""
    if files.library != "open_clip":
        return is_siglip(files)
    text = files.config["model_cfg"]["text_cfg"]
    return text.get("pool_type") == "last" and not text.get("use_pad_mask") and not text.get("embed_cls")


def _pools_at_end(files: ModelFiles) -> bool:
    """Whether the text tower is CLIP's own but for its tokenizer, and pools at that one's end token: CLIP's own tower
    pools at the highest token id of a text."""
    text = dict(files.config["model_cfg"]["text_cfg"])
    text.pop("hf_tokenizer_name", None)
    if has_another_text_tower({"model_cfg": {"text_cfg": text}}):
        return False
    try:
        tokenizer, settings = (read_json(files.folder / name) for name in ("tokenizer.json", "tokenizer_config.json"))
        end = settings["eos_token"]
        ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
        own = tokenizer["model"]["vocab"]
    except (UserError, OSError, KeyError, TypeError):
        return False
    highest = max(*ids.values(), *(own.values() if isinstance(own, dict) else [len(own) - 1]), 0)
    return ids.get(end["content"] if isinstance(end, dict) else end) == highest


def has_another_text_tower(config: Mapping[str, Any]) -> bool:
    """Whether an open_clip configuration has a text tower other than CLIP's own."""
    text = config.get("model_cfg", {}).get("text_cfg", {})
    return any(text.get(key, usual) != usual for key, usual in _USUAL_TEXT.items())


def widths(files: ModelFiles) -> dict[str, int]:
    """text, vision: widths of the towers; projection: of the shared space; context: tokens; patches: of a picture;
    image_size: its pixels. Of towers by timm or of any shape, see `image_positions` for vision and patches."""
    config = files.config
    if files.library == "open_clip":
        model = config["model_cfg"]
        text, vision = model.get("text_cfg", {}), model.get("vision_cfg", {})
        size, patch = vision.get("image_size", 224), vision.get("patch_size", 16)
        if not isinstance(vision.get("layers", 12), int):
            raise UserError(
                f"model {files.reference!r}: its image tower is a ResNet of open_clip; choose a ViT or timm checkpoint"
            )
        if "hf_model_name" in text or text.get("tokenizer_mode"):
            raise UserError(
                f"model {files.reference!r}: its text tower is not open_clip's own; choose a checkpoint with one"
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
    if is_siglip(files):
        whole = completed(files)
        text, vision = whole["text_config"], whole["vision_config"]
        return {
            "text": text["hidden_size"],
            "vision": vision["hidden_size"],
            "projection": vision["hidden_size"],
            "context": text["max_position_embeddings"],
            "patches": (vision["image_size"] // vision["patch_size"]) ** 2 if "image_size" in vision else 0,
            "image_size": vision.get("image_size", 0),
        }
    size, patch = vision.get("image_size", 224), vision.get("patch_size", 32)
    return {
        "text": text.get("hidden_size", 512),
        "vision": vision.get("hidden_size", 768),
        "projection": config.get("projection_dim", 512),
        "context": text.get("max_position_embeddings", 77),
        "patches": (size // patch) ** 2,
        "image_size": size,
    }


def image_positions(
    files: ModelFiles, known: Mapping[str, int], size: tuple[int, int]
) -> tuple[int, int, tuple[str, ...]]:
    """Number and width of the states of a picture of `size` (height, width), and the names of those before the patches'
    (`class`, `register`). known: the model's `widths`.

    Raises `UserError` for a tower that timm does not build.
    """
    if is_siglip(files):
        return known["patches"], known["vision"], ()
    if not is_timm(files):
        return known["patches"] + 1, known["vision"], ("class",)
    import torch
    from open_clip.timm_model import TimmModel

    vision = files.config["model_cfg"]["vision_cfg"]
    try:
        with torch.device("meta"):
            tower = TimmModel(
                vision["timm_model_name"],
                known["projection"],
                size,
                pool=vision.get("timm_pool", "avg"),
                proj=vision.get("timm_proj", "linear"),
            )
            states = timm_states(tower.trunk, torch.empty(1, 3, *size))
    except Exception as error:
        raise refused(files, error) from error
    prefix = getattr(tower.trunk, "num_prefix_tokens", 0)
    named = ("class",) * (getattr(tower.trunk, "cls_token", None) is not None)
    return states.shape[1], states.shape[2], named + ("register",) * (prefix - len(named))


def timm_states(trunk: Any, pixels: Any) -> Any:
    """(b, P, width): what a timm trunk pools, after its last norm; a grid row by row."""
    return rows_of_grid(trunk, trunk.forward_features(pixels))


def rows_of_grid(trunk: Any, states: Any) -> Any:
    """(b, P, width) from what a timm trunk's `forward_features` gives: states already, or a grid."""
    if states.ndim == 3:
        return states
    first = getattr(trunk, "output_fmt", "NCHW") == "NHWC"
    return states.flatten(1, 2) if first else states.flatten(2).transpose(1, 2)


def check_block(files: ModelFiles, tower: str, block: int) -> None:
    """Raises `UserError` unless both towers are CLIP's own, and `tower` (`text` or `vision`) has a transformer block of
    that number."""
    if reads_whole_context(files) or is_timm(files):
        raise UserError(
            f"model {files.reference!r}: states between blocks are read of CLIP's own towers alone (a ViT with a class "
            "token, a causal text tower); choose a CLIP checkpoint"
        )
    if files.library == "open_clip":
        layers = files.config["model_cfg"].get(f"{tower}_cfg", {}).get("layers", 12)
    else:
        layers = files.config.get(f"{tower}_config", {}).get("num_hidden_layers", 12)
    if type(block) is not int or not 0 <= block < layers:
        raise UserError(
            f"model {files.reference!r}: block is {block!r}, expected a whole number from 0 to {layers - 1} (its "
            f"{tower} tower's blocks)"
        )


def text_states(model: Any, tokens: Any) -> tuple[Any, Any]:
    """(b, L, width) last states and (b, d) projected vectors, not normalised, of an open_clip model's own forward.

    States are those after the final LayerNorm, or before it where only the pooled vector has one (CoCa, whose class
    position at the end is left out).
    """
    tower, kept = getattr(model, "text", model), {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: kept.update({name: output})

    handles = [getattr(tower, name).register_forward_hook(keep(name)) for name in ("transformer", "ln_final")]
    try:
        pooled = model.encode_text(tokens, normalize=False)
    finally:
        for handle in handles:
            handle.remove()
    states = kept["ln_final"]
    return (states if states.ndim == 3 else kept["transformer"][:, : tokens.shape[1]]), pooled
