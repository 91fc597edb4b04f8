"""The contract every extractor keeps: what it reads, what it writes, how it is named, loaded and called."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cache.errors import UserError
from cache.identity import Output, weights_hash
from pipeline import models
from pipeline.models import ModelFiles

Row = np.ndarray  # one row of one output: (*shape) or, ragged, (L, *shape)
BUCKET = 8  # text is padded to the next multiple of this, so a row's padded length depends on the row alone


@dataclasses.dataclass(frozen=True)
class Options:
    """Options every extractor has. model: see `pipeline.models.locate`. outputs: which outputs are written (empty: the usual ones)."""

    model: str
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise ValueError(f"model is {self.model!r}, expected a folder or a hub id")


class Extractor(ABC):
    """One pretrained model behind one feature.

    VERSION is raised by hand when the same weights and options give other numbers. reads: `text` (strings) or `image` (pictures).
    """

    VERSION: ClassVar[int]
    reads: ClassVar[str]
    Options: ClassVar[type[Options]] = Options

    def __init__(self, options: Options, files: ModelFiles) -> None:
        self.options = options
        self.files = files
        self.device = "cpu"

    @classmethod
    def find(cls, options: Any, base: Path, demo: Path | None, fetch: bool) -> ModelFiles:
        """The files of the model that the options name. base: what relative paths start from. An extractor of bare weight files overrides it."""
        return models.find(options.model, base, demo, fetch)

    @classmethod
    def references(cls, options: Any) -> list[str]:
        """Everything in the options that names files; a task's request says of each in which state it is."""
        return [options.model]

    @abstractmethod
    def possible(self) -> dict[str, Output]:
        """Every output this model can give, known from its configuration alone; the usual ones first."""

    def usual(self) -> tuple[str, ...]:
        """Outputs written when the profile does not say."""
        return tuple(self.possible())

    @property
    def writes(self) -> dict[str, Output]:
        """The outputs that are written. Raises `UserError` for a name this model has not."""
        possible = self.possible()
        for name in self.options.outputs:
            if name not in possible:
                raise UserError(f"model {self.options.model!r} has no output {name!r}; it has: {', '.join(possible)}")
        return {name: possible[name] for name in self.options.outputs or self.usual()}

    def preprocessing(self) -> Mapping[str, Any]:
        """What happens to the unit before the model sees it, as JSON; part of the identity."""
        return {}

    def spec(self, memo: Path | None, limits: Mapping[str, int]) -> dict[str, Any]:
        """The feature's identity in clear: everything that decides its numbers, nothing that does not. limits: of picture decoding."""
        spec = {
            "extractor": type(self).__module__.rpartition(".")[2],
            "version": self.VERSION,
            "architecture": self.files.architecture(),
            "weights": weights_hash(list(self.files.weights), memo),
            "preprocessing": dict(self.preprocessing()),
            "outputs": [output.to_json() for output in self.writes.values()],
        }
        if self.reads == "text" and self.files.tokenizer:
            spec["tokenizer"] = weights_hash(list(self.files.tokenizer), memo)
        if self.reads == "image":
            spec["limits"] = dict(limits)
        return spec

    @abstractmethod
    def load(self, device: str) -> None:
        """Load the weights onto `device`. Raises `UserError` where the files are refused."""

    @abstractmethod
    def __call__(self, batch: Any) -> dict[str, Sequence[Row] | np.ndarray]:
        """Rows of each written output for a batch: a list of strings, or (b, H, W, 3) uint8 pictures as `prepare` gives them."""


class TextExtractor(Extractor):
    """Reads strings. The view has cut them to `max_tokens`; what does not fit is refused, never truncated."""

    reads = "text"

    @property
    @abstractmethod
    def limit(self) -> int:
        """The most tokens, special ones included, that a string may have."""

    @abstractmethod
    def count(self, strings: Sequence[str]) -> list[int]:
        """Tokens of each string, special ones included. Needs no weights."""

    def refuse_long(self, strings: Sequence[str], lengths: Sequence[int]) -> None:
        """Raises `UserError` for the first string that does not fit."""
        for string, length in zip(strings, lengths, strict=True):
            if length > self.limit:
                raise UserError(f"text of {length} tokens for {self.options.model!r}, at most {self.limit} fit: {string[:60]!r}…; its view must cut it")


class ImageExtractor(Extractor):
    """Reads pictures, decoded once for all image extractors of a run."""

    reads = "image"

    @abstractmethod
    def prepare(self, image: Any) -> np.ndarray:
        """Resize and crop an RGB `PIL.Image` to this model's (H, W, 3) uint8. Runs in worker threads."""

    def normalised(self, batch: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Any:
        """(b, H, W, 3) uint8 → (b, 3, H, W) float32 tensor on the device, `(x / 255 − mean) / std`."""
        import torch

        pixels = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2).float().div_(255)
        shape = (1, 3, 1, 1)
        return pixels.sub_(torch.tensor(mean, device=self.device).view(shape)).div_(torch.tensor(std, device=self.device).view(shape))


def padded_length(length: int, limit: int) -> int:
    """The length a row of `length` tokens is padded to: the next multiple of `BUCKET`, at most `limit`."""
    return min(limit, -(-length // BUCKET) * BUCKET)


def to_rows(states: Any, lengths: Sequence[int]) -> list[Row]:
    """(b, L, d) tensor → one (length, d) float32 array per row, padding left out."""
    states = states.float().cpu().numpy()
    return [states[i, :length] for i, length in enumerate(lengths)]


def to_array(tensor: Any) -> np.ndarray:
    """Tensor on any device and precision → float32 array."""
    return tensor.float().cpu().numpy()
