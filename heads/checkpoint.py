"""Tensors and state of an unfinished run in one safetensors file, which is written completely or not at all."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from foundation.errors import UserError
from foundation.files import write_atomic


def write_tensors(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Replace `path` by the tensors, `state` (JSON) in its metadata."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(kept, {"state": json.dumps(state)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the state that `write_tensors` wrote. Raises `UserError` for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["state"])  # noqa: SIM118 - not a mapping
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a checkpoint of this project ({error}); delete it and train again") from error


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """The optimizer's state by parameter name: `optimizer.<key>.<parameter>`."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{key}.{names[place]}": value for place, entry in state.items() for key, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, names: list[str], tensors: dict[str, Tensor]) -> None:
    """Restore the state that `optimizer_tensors` returned."""
    place = {name: position for position, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in part(tensors, "optimizer.").items():
        key, parameter = name.split(".", 1)
        state.setdefault(place[parameter], {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
