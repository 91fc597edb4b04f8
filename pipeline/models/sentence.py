"""How token states become one vector: as a sentence-transformers folder says, as the profile does, or as its family
is usually read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from foundation.errors import UserError
from foundation.files import inside, read_json
from pipeline.models.files import MODULES, ModelFiles, load_state_dict

VERSION = 1  # raised by hand when the same folder, weights and options give other numbers
Pooling = Literal["cls", "mean", "max", "last", "weighted_mean", "mean_sqrt_length"]
POOLINGS: tuple[str, ...] = get_args(Pooling)
_PROMPTS = "config_sentence_transformers.json"
# The names that sentence-transformers writes: of its present configuration, and of the switches of older ones in the
# order in which their vectors are joined.
_OWN_NAMES = {"lasttoken": "last", "weightedmean": "weighted_mean", "mean_sqrt_len_tokens": "mean_sqrt_length"}
_SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_length",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last",
}
_ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")
_STATES = "token_embeddings"
_SIZES = {"Dense": ("in_features", "out_features"), "LayerNorm": ("dimension",)}


@dataclass(frozen=True)
class Layer:
    """A module after the pooling. kind: `dense`, `layer_norm` or `normalise` (length 1). width: of its output, None: as
    its input. options: what of its configuration decides its numbers. weights: its file, None without one."""

    kind: Literal["dense", "layer_norm", "normalise"]
    width: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Path | None = None

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.options}


@dataclass(frozen=True)
class Reading:
    """What is done with a text and its token states.

    pooling: one mode, or several whose vectors are joined. layers: what the pooled vector runs through. prompts: side
    -> the text put before the side's texts. whole_prompt: whether its tokens are pooled too. lower_case: whether texts
    are lower-cased. max_tokens: the longest text the authors give the model, None where they do not say.
    """

    pooling: tuple[str, ...]
    layers: tuple[Layer, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    whole_prompt: bool = True
    lower_case: bool = False
    max_tokens: int | None = None

    def width(self, states: int) -> int:
        """Numbers of the vector that is made of states of this width."""
        width = states * len(self.pooling)
        for layer in self.layers:
            width = layer.width or width
        return width

    def to_json(self) -> dict[str, Any]:
        """What of it belongs to the feature's identity; what is not done is left out."""
        layers = [layer.to_json() for layer in self.layers]
        prompts = {side: prompt for side, prompt in self.prompts.items() if prompt}
        return {
            "pooling": self.pooling[0] if len(self.pooling) == 1 else list(self.pooling),
            **({"layers": layers} if layers else {}),
            **({"prompts": prompts} if prompts else {}),
            **({"lower_case": True} if self.lower_case else {}),
        }


def folder_reading(files: ModelFiles) -> Reading | None:
    """What a sentence-transformers folder says; None where it is no such folder.

    Raises `UserError` for a module or an option that is not served.
    """
    root = files.root
    if root is None:
        return None
    pooling: tuple[str, ...] = ()
    whole_prompt, layers = True, list[Layer]()
    for module in modules(files, root)[1:]:
        kind, folder = module["type"].rpartition(".")[2], inside(root, str(module.get("path", "")))
        stated = _config(folder / "config.json")
        if lacking := [key for key in _SIZES.get(kind, ()) if not isinstance(stated.get(key), int)]:
            raise _not_served(files, f"{folder / 'config.json'} lacks {' and '.join(lacking)}")
        if kind in ("Dense", "Normalize") and (
            _STATES in (stated.get("module_input_name"), stated.get("module_output_name")) or stated.get("use_residual")
        ):
            raise _not_served(files, f"its module {kind} works on token states or has a residual connection")
        if kind == "Pooling" and not pooling:
            pooling, whole_prompt = _modes(files, stated), stated.get("include_prompt") is not False
        elif kind == "Dense" and pooling:
            layers.append(_dense(files, folder, stated))
        elif kind == "LayerNorm" and pooling:
            layers.append(Layer("layer_norm", None, {"dimension": stated["dimension"]}, _weights(files, folder)))
        elif kind == "Normalize" and pooling:
            layers.append(Layer("normalise"))
        elif kind != "Dropout":
            raise _not_served(files, f"its modules include {module['type']}")
    if not pooling:
        raise _not_served(files, "its modules include no Pooling")
    own = next((_config(path) for path in sorted(files.folder.glob("sentence_*_config.json"))), {})
    task = own.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise _not_served(files, f"its transformer is read for {task}")
    longest = own.get("max_seq_length") or _config(files.folder / "tokenizer_config.json").get("model_max_length")
    return Reading(
        pooling,
        tuple(layers),
        _prompts(_config(root / _PROMPTS)),
        whole_prompt,
        own.get("do_lower_case") is True,
        int(longest) if isinstance(longest, int | float) and 0 < longest < 1 << 31 else None,
    )


def modules(files: ModelFiles, root: Path) -> list[dict[str, Any]]:
    """The entries of modules.json, the first of which is the transformer."""
    listed = read_json(root / MODULES)
    if (
        not isinstance(listed, list)
        or not listed
        or not all(isinstance(module, dict) and isinstance(module.get("type"), str) for module in listed)
    ):
        raise _not_served(files, f"{MODULES} is no list of modules")
    if listed[0]["type"].rpartition(".")[2] != "Transformer":
        raise _not_served(files, f"its first module is {listed[0]['type']}, expected a Transformer")
    return listed


def _config(path: Path) -> dict[str, Any]:
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object; save the model again with sentence-transformers")
    return content


def _not_served(files: ModelFiles, reason: str) -> UserError:
    return UserError(
        f"model {files.reference!r}: {files.root} is a sentence-transformers folder, and {reason}, which is not "
        f"served; `pooling:` in the profile ({', '.join(POOLINGS)}) reads its transformer alone"
    )


def _modes(files: ModelFiles, stated: Mapping[str, Any]) -> tuple[str, ...]:
    """The pooling modes of a Pooling module's configuration, of today or of an older one."""
    listed = stated.get("pooling_mode")
    if listed is None:
        return tuple(mode for switch, mode in _SWITCHES.items() if stated.get(switch)) or ("mean",)
    names = [listed] if isinstance(listed, str) else listed
    modes = tuple(_OWN_NAMES.get(name, name) for name in names)
    if not modes or not set(modes) <= set(POOLINGS):
        raise _not_served(files, f"its pooling is {listed!r}")
    return modes


def _weights(files: ModelFiles, folder: Path) -> Path:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"model {files.reference!r}: no weights in {folder}; download or save the model again")


def _dense(files: ModelFiles, folder: Path, stated: Mapping[str, Any]) -> Layer:
    activation = str(stated.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        raise _not_served(files, f"a Dense module's activation is {stated['activation_function']!r}")
    options = {
        "in": stated["in_features"],
        "out": stated["out_features"],
        "bias": stated.get("bias", True),
        "activation": activation,
    }
    return Layer("dense", int(stated["out_features"]), options, _weights(files, folder))


def _prompts(stated: Mapping[str, Any]) -> dict[str, str]:
    """Side → prompt: mentions are queries, entities are documents; where the folder names neither, both take its
    default prompt."""
    prompts = {name: prompt for name, prompt in (stated.get("prompts") or {}).items() if isinstance(prompt, str)}
    documents = [prompts[name] for name in ("document", "passage", "corpus") if name in prompts]
    usual = prompts.get(str(stated.get("default_prompt_name")), "") if not documents and "query" not in prompts else ""
    return {
        "mention": prompts.get("query", usual),
        "entity": next((prompt for prompt in documents if prompt), usual),
    }


def is_decoder(files: ModelFiles) -> bool:
    """Whether the configuration is that of a decoder, where a token's state sees what stands before it alone."""
    config = files.config
    if config.get("is_encoder_decoder") or config.get("use_bidirectional_attention"):
        return False
    if config.get("is_decoder"):
        return True
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    family = config.get("model_type")
    return (
        family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and family not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        and family != "bert-generation"  # an encoder, unless its configuration says is_decoder
    )


def load_layers(reading: Reading, files: ModelFiles, device: str) -> Any:
    """The layers after the pooling as one module, in evaluation mode on `device`.

    Raises `UserError` where weights are refused or do not fit.
    """
    from torch import nn

    class Normalise(nn.Module):
        def forward(self, vectors):
            return nn.functional.normalize(vectors, dim=-1)

    modules = nn.Sequential()
    for layer in reading.layers:
        if layer.kind == "normalise":
            modules.append(Normalise())
            continue
        options = layer.options
        prefix = "linear." if layer.kind == "dense" else "norm."
        made = (
            nn.Linear(options["in"], options["out"], options["bias"])
            if layer.kind == "dense"
            else nn.LayerNorm(options["dimension"])
        )
        assert layer.weights is not None
        state = load_state_dict(layer.weights, files.reference)
        try:
            made.load_state_dict({name.removeprefix(prefix): value.float() for name, value in state.items()})
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(
                f"model {files.reference!r}: {layer.weights} does not fit its config.json: {reason}"
            ) from None
        modules.append(made)
        if layer.kind == "dense" and options["activation"] != "Identity":
            modules.append(getattr(nn, options["activation"])())
    return modules.eval().to(device)


def pool(states: Any, mask: Any, modes: Sequence[str]) -> Any:
    """(b, L, d) states and (b, L) mask of real tokens, which stand first → (b, d · modes) float32, as
    sentence-transformers pools; zeros for a text without tokens."""
    import torch

    states, real, lengths = states.float(), mask.unsqueeze(-1).float(), mask.sum(1)
    vectors = []
    for mode in modes:
        if mode == "cls":
            vectors.append(states[:, 0])
        elif mode == "last":
            vectors.append(states[torch.arange(len(states), device=states.device), lengths - 1])
        elif mode == "max":
            vectors.append(states.masked_fill(real == 0, float("-inf")).max(1).values)
        else:
            place = torch.arange(1, states.shape[1] + 1, device=states.device).view(1, -1, 1)
            weights = real * place if mode == "weighted_mean" else real
            total = weights.sum(1).clamp(min=1)
            vectors.append((states * weights).sum(1) / (total.sqrt() if mode == "mean_sqrt_length" else total))
    return torch.cat(vectors, -1).masked_fill(lengths[:, None] == 0, 0)
