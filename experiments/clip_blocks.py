"""Takes a CLIP of open_clip or transformers apart into the tensors that `heads.methods._clip_blocks` runs live."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundation.checksums import SEAL
from foundation.errors import UserError
from foundation.files import write_atomic
from pipeline.models import clip
from pipeline.models.files import ModelFiles


def export(files: ModelFiles, start: Mapping[str, int], out: Path) -> Path:
    """Write the blocks of both towers, from the one that `start` names for each, to `out` (safetensors); returns `out`.

    Raises `UserError` where the checkpoint is refused, or its blocks are not CLIP's.
    """
    from safetensors.torch import save

    from heads.checkpoint import tensors_sha256

    tensors, header = towers(files, start)
    text = json.dumps(header)
    write_atomic(out, save(tensors, {"towers": text, SEAL: tensors_sha256(tensors, text)}))
    return out


def towers(files: ModelFiles, start: Mapping[str, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors by name (`text.blocks.0.ln_1.weight`, …) and, per tower, `{"heads", "activation", "causal", "start"}`."""
    model = clip.load(files, "cpu")
    text, image = _open_clip(model) if files.library == "open_clip" else _transformers(model)
    tensors: dict[str, Any] = {}
    header: dict[str, Any] = {}
    for side, (parts, blocks, heads, activation) in (("text", text), ("image", image)):
        listed = dict(parts)
        for number, block in enumerate(blocks):
            if number >= start[side]:
                listed |= {f"blocks.{number}.{name}": tensor for name, tensor in block.items()}
        tensors |= {f"{side}.{name}": tensor.detach().float().contiguous().clone() for name, tensor in listed.items()}
        header[side] = {"heads": heads, "activation": activation, "causal": side == "text", "start": start[side]}
    return tensors, header


def _named(prefix: str, module: Any) -> dict[str, Any]:
    return {f"{prefix}.weight": module.weight, f"{prefix}.bias": module.bias}


def _activation(module: Any) -> str:
    name = type(module).__name__.lower()
    if name in ("quickgelu", "quickgeluactivation"):
        return "quick_gelu"
    if name in ("gelu", "geluactivation"):
        return "gelu"
    raise UserError(
        f"this CLIP's activation is {type(module).__name__}; prompts are learned over GELU and QuickGELU models alone"
    )


def _open_clip(model: Any) -> list[tuple[dict[str, Any], list[dict[str, Any]], int, str]]:
    """(parts, blocks, heads, activation) of the text and of the image tower."""
    text, visual = getattr(model, "text", model), model.visual
    found = []
    for tower, norm, projection in ((text, text.ln_final, text.text_projection), (visual, visual.ln_post, visual.proj)):
        blocks = list(tower.transformer.resblocks)
        if not hasattr(blocks[0], "attn") or getattr(blocks[0].attn, "in_proj_weight", None) is None:
            raise UserError(
                "this CLIP's transformer blocks are not open_clip's ResidualAttentionBlock; "
                "choose a plain ViT checkpoint"
            )
        parts = {**_named("norm", norm), "projection": getattr(projection, "weight", projection)}
        listed = [
            {
                **_named("ln_1", block.ln_1),
                **_named("ln_2", block.ln_2),
                **_named("attention.out", block.attn.out_proj),
                "attention.in.weight": block.attn.in_proj_weight,
                "attention.in.bias": block.attn.in_proj_bias,
                **_named("mlp.in", block.mlp.c_fc),
                **_named("mlp.out", block.mlp.c_proj),
            }
            for block in blocks
        ]
        found.append((parts, listed, blocks[0].attn.num_heads, _activation(blocks[0].mlp.gelu)))
    found[0][0].update(
        {"token_embedding": text.token_embedding.weight, "positional_embedding": text.positional_embedding}
    )
    return found


def _transformers(model: Any) -> list[tuple[dict[str, Any], list[dict[str, Any]], int, str]]:
    """The same of a transformers `CLIPModel`."""
    import torch

    text, vision = model.text_model, model.vision_model
    found = []
    for tower, norm, projection in (
        (text, text.final_layer_norm, model.text_projection),
        (vision, vision.post_layernorm, model.visual_projection),
    ):
        listed = []
        for block in tower.encoder.layers:
            parts = [block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj]
            listed.append(
                {
                    **_named("ln_1", block.layer_norm1),
                    **_named("ln_2", block.layer_norm2),
                    **_named("attention.out", block.self_attn.out_proj),
                    "attention.in.weight": torch.cat([part.weight for part in parts]),
                    "attention.in.bias": torch.cat([part.bias for part in parts]),
                    **_named("mlp.in", block.mlp.fc1),
                    **_named("mlp.out", block.mlp.fc2),
                }
            )
        first = tower.encoder.layers[0]
        found.append(
            (
                {**_named("norm", norm), "projection": projection.weight.T},
                listed,
                first.self_attn.num_heads,
                _activation(first.mlp.activation_fn),
            )
        )
    found[0][0].update(
        {
            "token_embedding": text.embeddings.token_embedding.weight,
            "positional_embedding": text.embeddings.position_embedding.weight,
        }
    )
    return found
