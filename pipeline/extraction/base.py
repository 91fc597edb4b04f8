"""The contract every extractor keeps: what it reads, what it writes, how it is named, loaded and called."""

import dataclasses
import functools
import math
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from cache.identity import Output, weights_hash
from foundation import plugins
from foundation.contracts import contract
from foundation.errors import UserError
from pipeline.datasets import contracts
from pipeline.extraction import parts
from pipeline.models import files as model_files
from pipeline.models.files import ModelFiles

OutputRow = np.ndarray  # one row of one output: (*shape) or, ragged, (L, *shape)
Outputs = Mapping[str, Sequence[OutputRow | None] | np.ndarray]
"""Rows of a batch by output: (b, *shape) or a row each. None: this crop has no row."""
BOX = Output("box", (), "int32", ragged=True)
BUCKET = 8  # text is padded to the next multiple of this, so a row's padded length depends on the row alone
COUNTED = 1024
"""Texts that are tokenised at a time to count their tokens."""

Name = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Margin = Annotated[float, Field(ge=0, le=4)]
"""Share of its size by which a box is widened on each side before it is cut."""


@contract
class Options:
    """Options every extractor has.

    model: see `pipeline.models.files.locate`. outputs: which outputs are written (empty: the usual ones).
    """

    model: Name
    outputs: tuple[str, ...] = ()


@contract
class DerivedOptions(Options):
    """Options of extractors that read another feature.

    of: its name in the profile. model: "" where there is none to load.
    """

    model: str = ""
    of: Name


class Extractor(ABC):
    """One pretrained model behind one feature.

    VERSION is raised by hand when the same weights and options give other numbers; that of a class that others derive
    from, or hold, is one of their parts (see `pipeline.extraction.parts`). options: annotated in a subclass with the
    class of its own options, a contract. reads: `text` (strings), `image` (pictures), `crops` (boxes of
    another feature, cut from the picture), `rows` (rows of another feature alone) or `imported` (nothing: see
    `pipeline.imported`). probed: whether a fixed input's
    output is kept beside the store, to notice a library whose numbers have changed. loads_first: whether the model must
    be there before units are read; false where `prepare` needs none, so that pictures are decoded while it is loaded.
    needs_kb: see `RowsExtractor.bind`.
    """

    VERSION: ClassVar[int]
    reads: ClassVar[Literal["text", "image", "crops", "rows", "imported"]]
    probed: ClassVar[bool] = True
    loads_first: ClassVar[bool] = True
    needs_kb: ClassVar[bool] = False
    options: Options
    device: str = "cpu"
    model: Any  # set by `load`

    @classmethod
    @functools.cache
    def options_class(cls) -> type[Options]:
        """The class that `options` is annotated with."""
        return typing.get_type_hints(cls)["options"]

    @classmethod
    def kind(cls, options: Any) -> "type[Extractor]":
        """The class that these options ask for: where one feature has several backends, each is a subclass."""
        return cls

    def __init__(self, options: Any, files: Any) -> None:
        """files: what `find` returned."""
        self.options, self._files = options, files

    @property
    def files(self) -> ModelFiles:
        """The model's files, of an extractor whose `find` returns some."""
        return self._files

    @classmethod
    def find(cls, options: Any, base: Path, demo: Path | None, fetch: bool) -> Any:
        """The files of the model that the options name, None without a model. base: what relative paths start from.

        An extractor of bare weight files overrides it.
        """
        return model_files.find(options.model, base, demo, fetch) if options.model else None

    @classmethod
    def references(cls, options: Any) -> list[str]:
        """Everything in the options that names files. A task's request contains the state of each."""
        return [options.model] if options.model else []

    @classmethod
    def revised(cls, options: Any, config: Mapping[str, Any]) -> bool:
        """Whether a model of this configuration is read otherwise than by earlier releases, without the options saying
        so: finished tasks are then checked again."""
        return False

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

    def labels(self) -> Mapping[str, Sequence[str]]:
        """Output -> names of its classes, in the order of its numbers; kept with the store."""
        return {}

    def parts(self) -> dict[str, int]:
        """Name → version of the parts it is made of; those whose version was ever raised belong to the identity."""
        return parts.versions(self) | self.parts_of_runner()

    @classmethod
    def parts_of_runner(cls) -> dict[str, int]:
        """Name → version of the parts that the runner applies before an extractor of this class."""
        return {}

    def spec(
        self, memo: Path | None, limits: Mapping[str, int], parents: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The feature's identity in clear: everything that decides its numbers, nothing that does not.

        limits: of picture decoding. parents: identities of the features it reads, by name.
        """
        plugin = plugins.digest_of(type(self))
        spec: dict[str, Any] = {
            "extractor": type(self).__module__.rpartition(".")[2],
            "version": self.VERSION,
            **({"plugin": plugin} if plugin else {}),
            "preprocessing": dict(self.preprocessing()),
            "outputs": [output.to_json() for output in self.writes.values()],
        }
        if isinstance(self._files, ModelFiles):
            spec |= {"architecture": self.files.architecture(), "weights": weights_hash(list(self.files.weights), memo)}
            if self.reads == "text" and self.files.tokenizer:
                spec["tokenizer"] = weights_hash(list(self.files.tokenizer), memo)
        if self.reads in ("image", "crops"):
            spec["limits"] = dict(limits)
        if raised := parts.raised(self.parts()):
            spec["parts"] = raised
        if self.labels():
            spec["labels"] = {output: list(names) for output, names in self.labels().items()}
        if parents:
            spec["reads"] = sorted(parents.values())  # by what they are: names are the profile's
        return spec

    @abstractmethod
    def load(self, device: str) -> None:
        """Load the weights onto `device`. Raises `UserError` where the files are refused."""

    def collate(self, items: Sequence[Any]) -> Any:
        """The items of a batch as `__call__` takes them."""
        return items

    @abstractmethod
    def __call__(self, batch: Any) -> Outputs:
        """Rows of each written output for a batch: a list of strings, or collated pictures as `prepare` gives them."""

    def probe(self, batch: Any) -> Outputs:
        """What is kept of the fixed input's output, see `pipeline.extraction.probe`.

        An extractor that may find nothing there gives numbers from inside its model.
        """
        return self(batch)


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

    def prompt(self, side: str) -> str:
        """What is put before every text of this side, `mention` or `entity`; part of the string and of its tokens."""
        return ""

    def refuse_long(self, strings: Sequence[str], lengths: Sequence[int]) -> None:
        """Raises `UserError` for the first string that does not fit."""
        for string, length in zip(strings, lengths, strict=True):
            if length > self.limit:
                raise UserError(
                    f"text of {length} tokens for {self.options.model!r}, at most {self.limit} fit: "
                    f"{string[:60]!r}…; its view must cut it"
                )


def token_counts(extractor: TextExtractor, strings: Sequence[str]) -> np.ndarray:
    """(n,) int32 of `TextExtractor.count`, in pieces: a tokenizer's answer for a text takes kilobytes."""
    starts = range(0, len(strings), COUNTED)
    parts = [extractor.count(strings[start : start + COUNTED]) for start in starts]
    return np.array([tokens for part in parts for tokens in part], np.int32)


class PictureExtractor(Extractor):
    """Reads pictures or parts of them.

    VERSION: of `normalised`; decoding has its own, `pipeline.datasets.contracts.DECODER_VERSION`.
    """

    VERSION = 1

    @classmethod
    def parts_of_runner(cls) -> dict[str, int]:
        """See `Extractor.parts_of_runner`; the runner decodes the pictures."""
        return {"decoder": contracts.DECODER_VERSION}

    @classmethod
    def revised(cls, options: Any, config: Mapping[str, Any]) -> bool:
        """See `Extractor.revised`: pictures for models of transformers, whose centre crop earlier releases began up to
        a pixel beside the library's."""
        return "model_type" in config

    @abstractmethod
    def prepare(self, image: Any) -> Any:
        """What this model sees of an upright RGB `PIL.Image` of any size: usually (H, W, 3) uint8.

        Runs in worker threads, or in other processes.
        """

    def fresh(self) -> Self:
        """The same extractor without its model."""
        return type(self)(self.options, self._files)

    def collate(self, items: Sequence[Any]) -> Any:
        """(b, H, W, 3) uint8 from pictures of one size."""
        return np.stack(items)

    def normalised(self, batch: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Any:
        """(b, H, W, 3) uint8 → (b, 3, H, W) float32 tensor on the device, `(x / 255 − mean) / std`."""
        import torch

        pixels = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2).float().div_(255)
        shape = (1, 3, 1, 1)
        return pixels.sub_(torch.tensor(mean, device=self.device).view(shape)).div_(
            torch.tensor(std, device=self.device).view(shape)
        )


class ImageExtractor(PictureExtractor):
    """Reads pictures, decoded once for all image extractors of a run. Ragged outputs are lists of (L, *shape) rows."""

    reads = "image"


class CropExtractor(PictureExtractor):
    """Reads the boxes of the feature `of`, cut from the original picture; the crops of many pictures share a
    batch.

    Its outputs are ragged, a row per crop, `__call__` gives one each. A row may be None: that crop is left out, and
    counted. The runner adds the output `box` () int32: the position of each row's box among the boxes of `of`, -1 for
    the whole picture. whole_if_none: a picture without boxes gives the whole picture as its one crop. VERSION: of
    cutting, and of leaving crops out (`rows_or_none`).
    """

    VERSION = 1
    reads = "crops"
    whole_if_none: ClassVar[bool] = False
    options: DerivedOptions

    @property
    def writes(self) -> dict[str, Output]:
        """See `Extractor.writes`; always ragged, and with `box`."""
        return {name: dataclasses.replace(output, ragged=True) for name, output in super().writes.items()} | {
            BOX.name: BOX
        }

    def cut(self, image: Any, parent: Mapping[str, np.ndarray]) -> list[tuple[int, Any]]:
        """(position of the box, prepared crop) of every box that has an area inside the picture.

        parent: the row of `of`, `boxes` (L, 4) in pixels.
        """
        crops = []
        for number, box in enumerate(parent["boxes"]):
            left, top, right, bottom = clipped(box, image.size)
            if right > left and bottom > top:
                crops.append((number, self.prepare(image.crop((left, top, right, bottom)))))
        if not len(parent["boxes"]) and self.whole_if_none:
            crops.append((-1, self.prepare(image)))
        return crops


class RowsExtractor(Extractor):
    """Computed from the rows of the feature `of` alone: `__call__` takes a list of `{output: row}` and gives a row
    each."""

    reads = "rows"
    probed = False
    options: DerivedOptions

    def bind(self, kb: Any) -> None:
        """Take what of the knowledge base the numbers depend on (`needs_kb`); called before `spec`, which must then
        include it.

        kb: `ids` and `names` of the N entities, `rows(output)`: a list of N (L, *shape) arrays of `of`, of length 0
        where an entity has none.
        """


def rows_or_none(model: Callable[[Any], np.ndarray], crops: Any) -> list[np.ndarray | None]:
    """The rows of `model(crops)`; None for a crop that it fails on, or for which it gives a number that is not finite.

    A batch that fails is computed crop by crop. Raises errors that are not about a crop: memory, `UserError`.
    """
    try:
        rows: Sequence[Any] = list(model(crops))
    except Exception as error:
        import torch

        if isinstance(error, torch.OutOfMemoryError | MemoryError | UserError):
            raise
        if len(crops) == 1:
            return [None]
        rows = [rows_or_none(model, crops[i : i + 1])[0] for i in range(len(crops))]
    return [row if row is not None and np.isfinite(row).all() else None for row in rows]


def clipped(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box (left, top, right, bottom) in pixels, widened to whole ones and clipped to a picture of `size` (width,
    height)."""
    left, top, right, bottom = (float(side) for side in box)
    inside = (math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))
    width, height = size
    return max(0, inside[0]), max(0, inside[1]), min(width, inside[2]), min(height, inside[3])


def padded_length(length: int, limit: int) -> int:
    """The length a row of `length` tokens is padded to: the next multiple of `BUCKET`, at most `limit`."""
    return min(limit, -(-length // BUCKET) * BUCKET)


def to_rows(states: Any, lengths: Sequence[int]) -> list[OutputRow]:
    """(b, L, d) tensor → one (length, d) float32 array per row, padding left out."""
    states = states.float().cpu().numpy()
    return [states[i, :length] for i, length in enumerate(lengths)]


def to_array(tensor: Any) -> np.ndarray:
    """Tensor on any device and precision → float32 array."""
    return tensor.float().cpu().numpy()
