"""Tensors and state of an unfinished run in one safetensors file, which is written completely or not at all."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from foundation.checksums import OTHER_BYTES, SEAL
from foundation.errors import NotAsWritten
from foundation.files import write_atomic
from foundation.remedies import remedy


def write_tensors(path: Path, tensors: dict[str, Tensor], state: dict[str, Any], seal: bool = False) -> None:
    """Replace `path` by the tensors, `state` (JSON) in its metadata.

    seal: keep their checksum there too, for a file that no other file holds the checksum of.
    """
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(state)
    write_atomic(path, save(kept, {"state": text, **({SEAL: tensors_sha256(kept, text)} if seal else {})}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the state that `write_tensors` wrote. Raises `UserError` for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = file.metadata()
            if metadata.get(SEAL, "") not in ("", tensors_sha256(tensors, metadata["state"])):
                raise NotAsWritten(f"{path} {OTHER_BYTES}; {remedy(path)}")
            return tensors, json.loads(metadata["state"])
    except (SafetensorError, OSError, AttributeError, TypeError, KeyError, ValueError) as error:
        raise NotAsWritten(f"{path}: not a checkpoint of this project ({error}); {remedy(path)}") from error


def tensors_sha256(tensors: dict[str, Tensor], text: str) -> str:
    """SHA-256 (hex) of tensors, with names, shapes and dtypes, and of a text."""
    hashed = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        hashed.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


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
