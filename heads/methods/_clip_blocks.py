"""A frozen CLIP's transformer blocks, run live over cached states with learned prompts put in front (deep prompts, eq.
6 to 8 of DSMIP)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from foundation.checksums import SEAL
from foundation.errors import UserError
from heads.checkpoint import tensors_sha256

Activation = {"gelu": F.gelu, "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x)}


class Tower(nn.Module):
    """One tower from block `start` on. Its tensors are buffers that no checkpoint keeps and no optimiser sees.

    Names per block: ln_1, attention.in (3d, d), attention.out, ln_2, mlp.in, mlp.out, each with weight and bias; then
    norm.weight, norm.bias and projection (d, d_z). The text tower also has token_embedding (V, d) and
    positional_embedding (L, d).
    """

    def __init__(self, tensors: Mapping[str, Tensor], heads: int, activation: str, causal: bool, start: int) -> None:
        super().__init__()
        self.heads, self.activation, self.causal, self.start = heads, Activation[activation], causal, start
        self.blocks = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
        self._place = {}
        for name, tensor in tensors.items():
            self._place[name] = name.replace(".", "_")
            self.register_buffer(self._place[name], tensor, persistent=False)
        self.width, self.projected = self["projection"].shape

    def __getitem__(self, name: str) -> Tensor:
        return getattr(self, self._place[name])

    def forward(self, states: Tensor, prompts: Sequence[Tensor]) -> Tensor:
        """(n, L, d) states entering block `start` → (n, r + L, d) leaving the last; prompts: (r, d) for each of the
        first blocks.

        `[_, T^(i)] = TL_i([P^(i-1), T^(i-1)])` while there are prompts, then `[P^(i), T^(i)] = TL_i([P^(i-1),
        T^(i-1)])`, eq. 7 and 8.
        """
        length = states.shape[1]
        for number in range(self.start, self.blocks):
            if number - self.start < len(prompts):
                states = torch.cat([prompts[number - self.start].expand(len(states), -1, -1), states[:, -length:]], 1)
            states = self._block(states, f"blocks.{number}.")
        return states

    def _block(self, states: Tensor, name: str) -> Tensor:
        n, length, width = states.shape
        query, key, value = (
            self._linear(self._norm(states, f"{name}ln_1"), f"{name}attention.in")
            .view(n, length, 3, self.heads, -1)
            .permute(2, 0, 3, 1, 4)
        )
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        states = states + self._linear(attended.transpose(1, 2).reshape(n, length, width), f"{name}attention.out")
        return states + self._linear(
            self.activation(self._linear(self._norm(states, f"{name}ln_2"), f"{name}mlp.in")), f"{name}mlp.out"
        )

    def finish(self, states: Tensor) -> Tensor:
        """The last LayerNorm, (…, d)."""
        return self._norm(states, "norm")

    def project(self, vectors: Tensor) -> Tensor:
        """Normed vectors (n, d) → (n, d_z)."""
        return vectors @ self["projection"]

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (n, L) → states entering block 0, (n, L, d)."""
        return self["token_embedding"][ids] + self["positional_embedding"][: ids.shape[1]]

    def _norm(self, states: Tensor, name: str) -> Tensor:
        return F.layer_norm(states, (self.width,), self[f"{name}.weight"], self[f"{name}.bias"])

    def _linear(self, states: Tensor, name: str) -> Tensor:
        return F.linear(states, self[f"{name}.weight"], self[f"{name}.bias"])


def read_towers(path: Path) -> dict[str, Tower]:
    """`{"text", "image"}` from the file that `experiments.clip_blocks.export` writes. Raises `UserError` for a file of
    another kind."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        header: dict[str, Any] = json.loads(metadata["towers"])
        if metadata.get(SEAL, "") not in ("", tensors_sha256(tensors, metadata["towers"])):
            raise ValueError("a checksum differs")
        return {
            side: tower(
                {name.removeprefix(f"{side}."): t for name, t in tensors.items() if name.startswith(f"{side}.")},
                header[side],
            )
            for side in header
        }
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{path}: not the blocks of a CLIP as this project writes them ({error}); delete it and run the same "
            "command again"
        ) from error


def tower(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Tower:
    """A tower from its tensors and `{"heads", "activation", "causal", "start"}`."""
    return Tower(tensors, int(header["heads"]), header["activation"], bool(header["causal"]), int(header["start"]))
