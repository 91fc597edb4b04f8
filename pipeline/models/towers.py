"""Encoders cut between their blocks: which can be, where their blocks lie, and the states that enter one."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from cache.identity import Output
from foundation.errors import UserError
from pipeline.models.files import ModelFiles, completed

TEXTS = ("bert", "roberta", "xlm-roberta", "camembert", "mpnet", "electra", "distilbert", "modernbert")
"""Families of transformers whose texts can be cut."""
PICTURES = (
    *("vit", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "clip_vision_model", "siglip_vision_model"),
    *("clip", "siglip"),
)
"""Families of transformers whose pictures can be cut."""
PAIRS = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert")
"""Families of transformers that can read two texts together from a block on: every state sees every other, and places
in a text are added in the embedding."""
_PLACES = (
    *("encoder.layer", "encoder.layers", "transformer.layer", "transformer.resblocks", "model.layer", "layers"),
    *("layer", "blocks"),
)


class Encoder(Protocol):
    """An extractor whose model can be cut: `text_tokens`, `clip_text`, `image_patches`, `clip_image`."""

    model: Any
    device: str

    @property
    def files(self) -> ModelFiles:
        """Of the model."""

    @property
    def tower(self) -> Any:
        """The part of `model` that has the blocks. Raises `UserError` where it cannot be cut."""

    def possible(self) -> dict[str, Output]:
        """The outputs; `tokens` among them."""

    def load(self, device: str) -> None:
        """Load the model onto a device."""

    def inputs(self, batch: Any) -> tuple[Mapping[str, Any], list[int]]:
        """What `read` takes for a batch, and the states that each row has; none where all rows have as many."""

    def blank(self, states: Any, lengths: Sequence[int]) -> Mapping[str, Any]:
        """What `read` takes for rows of `lengths` among `states` (b, L, d), without their content."""

    def read(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """tokens (b, L, width) and pooled (b, …)."""


def blocks(encoder: Encoder) -> Any:
    """The blocks of a loaded encoder, first to last: an `nn.ModuleList` or `nn.Sequential`.

    Raises `UserError` where they are not where its family has them.
    """
    from torch import nn

    for place in _PLACES:
        found: Any = encoder.tower
        for name in place.split("."):
            found = getattr(found, name, None)
        if isinstance(found, nn.ModuleList | nn.Sequential):
            return found
    raise UserError(f"model {encoder.files.reference!r}: its blocks were not found; no cut of it can be made")


def check(encoder: Encoder, block: int) -> int:
    """The number of blocks. Raises `UserError` unless `block` is 0 to that number."""
    count = len(blocks(encoder))
    if not 0 <= block <= count:
        raise UserError(
            f"model {encoder.files.reference!r}: block is {block}, expected 0 (what enters its first block) to {count} "
            "(what leaves its last)"
        )
    return count


def check_pairs(files: ModelFiles) -> None:
    """Raises `UserError` for an encoder whose blocks cannot read two texts, each encoded alone below, together."""
    family, config = files.config.get("model_type"), files.config
    why = None
    if config.get("is_decoder"):
        why = "its states see only what stands before them"
    elif family in ("mpnet", "modernbert") or config.get("position_embedding_type", "absolute") != "absolute":
        why = "its blocks count places themselves, so the second text would start where the first does"
    elif family not in PAIRS:
        why = f"it is a {family or files.library}"
    if why:
        raise UserError(
            f"model {files.reference!r}: {why}; joint reads two texts through encoders of the families "
            f"{', '.join(PAIRS)}"
        )


def depth(files: ModelFiles, side: str) -> int:
    """The number of blocks by the model's configuration, nothing loaded. side: `text` or `image`.

    Raises `UserError` where the configuration does not say it.
    """
    config: Mapping[str, Any]
    if files.library == "open_clip":
        config = files.config["model_cfg"].get({"text": "text_cfg", "image": "vision_cfg"}[side], {})
        count = config.get("layers", 12) if "timm_model_name" not in config else None
    elif files.library == "torchvision":
        count = 12 if "vit_b" in str(files.config.get("architecture")) else None
    else:
        whole = completed(files)
        config = whole.get({"text": "text_config", "image": "vision_config"}[side]) or whole
        count = config.get("num_hidden_layers", config.get("n_layers"))
    if not isinstance(count, int):
        raise UserError(f"model {files.reference!r}: its configuration does not say how many blocks it has")
    return count


class _Reached(Exception):
    """The states that were waited for."""


def entering(encoder: Encoder, block: int, inputs: Mapping[str, Any]) -> Any:
    """(b, L, d): the states that enter block `block` for what `Encoder.inputs` gave; those that leave the last one
    where `block` is the number of blocks. No block from there on is computed."""
    found = blocks(encoder)

    def before(module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        raise _Reached(args[0] if args else named["hidden_states"])

    def after(module: Any, args: tuple[Any, ...], output: Any) -> None:
        raise _Reached(output[0] if isinstance(output, tuple) else output)

    if check(encoder, block) == block:
        handle = found[block - 1].register_forward_hook(after)
    else:
        handle = found[block].register_forward_pre_hook(before, with_kwargs=True)
    try:
        encoder.read(inputs)
    except _Reached as reached:
        return reached.args[0].transpose(0, 1) if sequence_first(encoder) else reached.args[0]
    finally:
        handle.remove()
    raise RuntimeError("the block was never reached")


def sequence_first(encoder: Encoder) -> bool:
    """Whether the blocks take (L, b, d), as those of older open_clip models do."""
    return not getattr(getattr(encoder.tower, "transformer", None), "batch_first", True)


def refused(files: ModelFiles, why: str) -> UserError:
    """The error for a model that cannot be cut."""
    return UserError(
        f"model {files.reference!r}: {why}; it cannot be cut between its blocks (docs/models.md lists what can)"
    )
