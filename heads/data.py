"""A head's inputs: mentions, entities, candidate lists and cached features, resident on the device where they fit."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from cache import inputs as cache_inputs
from cache.keys import KeyColumn
from cache.store import Store
from foundation import parquet
from foundation.arrays import NUMBERS, Expected, read_npz
from foundation.errors import UserError
from foundation.progress import Bar
from heads.base import Batch, PerPicture, Rows
from heads.columns import FeatureColumn, PictureRows, Several
from heads.config import stored_config
from heads.config.base import EntityPictures
from heads.contracts import HeadInput, TrainingJob
from heads.metrics import dev_half
from heads.pictures import Masks, Pictured, masked_rows

CPU = torch.device("cpu")
_MENTIONS: Mapping[str, parquet.Kind] = {"id": "string", "split": "string", "gold": "integer", "gold_id": "string"}


@dataclass
class Side:
    """The mentions or the entities: `count` rows. columns: `<role>.<output>`; by role, ok: which rows have it, spans:
    the phrase's characters. pictured: roles whose rows are made from pictures. masked: whether they read as if no
    record had a picture. entity_pictures: how several pictures of a record are read (see `HeadConfig`), each of the
    `per_picture` roles having a row for each of them; listed: (count,) how many there are of each record, keys (L + 1,
    16): of them all and of none."""

    count: int
    device: torch.device
    columns: dict[str, FeatureColumn | Several] = field(default_factory=dict)
    ok: dict[str, np.ndarray] = field(default_factory=dict)
    spans: dict[str, np.ndarray] = field(default_factory=dict)
    pictured: set[str] = field(default_factory=set)
    masked: bool = False
    entity_pictures: EntityPictures = "first"
    per_picture: set[str] = field(default_factory=set)
    listed: np.ndarray | None = None
    keys: np.ndarray | None = None

    def add(self, one: HeadInput, store: Store, keys: KeyColumn) -> None:
        """Take the outputs of an input as columns `<role>.<output>`.

        Raises `UserError` where two inputs are not of the same pictures.
        """
        role, several = one.role, keys.counts
        if one.from_picture:
            self.pictured.add(role)
        if several is None:
            self.spans[role] = keys.span.astype(np.int64)
        elif one.view == cache_inputs.IMAGES and self.entity_pictures != "first":
            keys = with_absent(keys)
            if self.listed is None:
                self.listed, self.keys = several, keys.keys
            if self.listed is not None and not np.array_equal(self.listed, several):
                raise UserError(
                    f"{one.keys}: other pictures than those of the head's other inputs; run ExtractFeatures again"
                )
            self.per_picture.add(role)
            several = None
        for output in one.outputs:
            rows = FeatureColumn(keys.table(store, output), keys.keys)
            column = rows if several is None else Several(rows, several)
            self.columns[f"{role}.{output}"] = column
            self.ok[role] = column.ok & self.ok.get(role, True)

    @cached_property
    def pictures(self) -> PictureRows:
        """The usable pictures of each record, once all columns are there."""
        assert self.keys is not None and self.listed is not None
        ok = [self.ok[role] for role in sorted(self.per_picture)]
        return PictureRows.of(self.keys, self.listed, ok, by_key=self.entity_pictures in ("best", "mean"))

    def rows(self, index: np.ndarray, random: np.random.Generator | None = None) -> Rows:
        """The features of the rows at `index` (m,) on the device, with `<role>.ok` and `<role>.span`; `PerPicture`
        where a head reads all pictures of a record. random: picks the picture of each record where a head reads one of
        several, None: the first."""
        index = np.asarray(index, dtype=np.int64)
        rows = self._read(index, set(self.ok) - self.per_picture)
        if not self.per_picture:
            return self._masked(rows)
        if self.entity_pictures == "random":
            return self._masked(Rows(rows | self._read(self.pictures.one(index, random), self.per_picture)))
        places, counts = self.pictures.all(index)
        of_record = rows.take(torch.from_numpy(np.repeat(np.arange(len(index)), counts)))
        return PerPicture(
            self._masked(Rows(of_record | self._read(places, self.per_picture))), torch.from_numpy(counts)
        )

    def _read(self, index: np.ndarray, roles: Collection[str]) -> Rows:
        """The columns of some roles at `index` (m,)."""
        rows = Rows(
            {f"{role}.ok": torch.from_numpy(self.ok[role][index]).to(self.device) for role in self.ok if role in roles}
        )
        rows |= {
            f"{role}.span": torch.from_numpy(spans[index]).to(self.device)
            for role, spans in self.spans.items()
            if role in roles
        }
        rows |= {
            name: column.take(index, self.device)
            for name, column in self.columns.items()
            if name.rpartition(".")[0] in roles
        }
        return rows

    def _masked(self, rows: Rows) -> Rows:
        hidden = self.masked and self.pictured  # a head over pair features reads no columns
        return masked_rows(rows, self.pictured, torch.ones(len(rows), dtype=torch.bool)) if hidden else rows


def with_absent(keys: KeyColumn) -> KeyColumn:
    """A key column with one more key, of nothing, after all others."""
    return KeyColumn(
        np.concatenate([keys.keys, np.zeros((1, keys.keys.shape[1]), keys.keys.dtype)]),
        np.append(keys.present, False),
        np.concatenate([keys.span, np.full((1, 2), -1, keys.span.dtype)]),
        keys.counts,
    )


@dataclass(frozen=True)
class ReadOptions:
    """How features are read: on which device, and which pictures of an entity (see `HeadConfig`)."""

    device: torch.device = CPU
    entity_pictures: EntityPictures = "first"


@dataclass
class Bundle:
    """Everything a run reads.

    table: columns of mentions.parquet (M) as numpy arrays. gold: (M,) entity row, -1 NIL, -2 outside the KB.
    entity_ids, entity_image: (N,). candidates: (M, k) entity rows, -1 where a list ends. retrieval_rank: (M,) the
    gold's rank in the whole retrieval order from 1, -1 unknown. shapes: of one row (one position where ragged) of each
    column, the same on both sides; `pairs.<name>` of a pair feature. pairs: (M, k, ...) float32 beside `candidates`,
    NaN where a pair has none. pictured: name of a pair feature -> the sides whose pictures it is computed from.
    unpictured: (M, k, 3) float32, what some pair features are without the mention's picture, without the entity's and
    without both; the others are NaN then.
    forced: splits whose lists came with the data and always hold the gold. classless: columns whose first state is no
    class token's.
    left_out: label of a run -> (M, 2) float32, for each training mention the loss (nats) of a head that was trained
    like that run without the mention's fold: with the mention's picture, and without it. NaN for other mentions.
    teacher: (M, k + 1) float32 scores of each training mention's candidates, and of its gold, by a teacher that was
    trained without the mention's fold; NaN where it has none, and for other mentions. None: there is no teacher.
    """

    mentions: Side
    entities: Side
    table: dict[str, np.ndarray]
    gold: np.ndarray
    entity_ids: np.ndarray
    entity_image: np.ndarray
    candidates: np.ndarray
    retrieval_rank: np.ndarray
    shapes: dict[str, tuple[int, ...]]
    pairs: dict[str, np.ndarray] = field(default_factory=dict)
    pictured: Mapping[str, tuple[cache_inputs.Side, ...]] = field(default_factory=dict)
    unpictured: dict[str, np.ndarray] = field(default_factory=dict)
    forced: tuple[str, ...] = ()
    classless: frozenset[str] = frozenset()
    left_out: Mapping[str, np.ndarray] = field(default_factory=dict)
    teacher: np.ndarray | None = None

    @classmethod
    def load(cls, job: TrainingJob, device: torch.device) -> "Bundle":
        """All that a job names. Raises `UserError` where its files do not fit each other."""
        how = stored_config(job.method, job.config).entity_pictures
        bundle = cls.read(job.dataset, job.candidates, job.inputs, job.pairs, ReadOptions(device, how))
        unpictured = {name: values for name, path in job.pairs.items() if (values := _unpictured(path)) is not None}
        return replace(bundle, pictured=job.pictured, unpictured=unpictured)

    @classmethod
    def read(
        cls,
        folder: Path,
        candidates_file: Path,
        inputs: Sequence[HeadInput] = (),
        pairs: Mapping[str, Path] = MappingProxyType({}),
        reading: ReadOptions = ReadOptions(),
    ) -> "Bundle":
        """A prepared dataset with its candidate lists, features and pair features; small columns are moved to the
        device.

        Raises `UserError` where the files do not fit each other.
        """
        mentions, entities = (
            parquet.read(folder / "mentions.parquet", needs=_MENTIONS),
            parquet.read(folder / "entities.parquet", ["id", "image_status"]),
        )
        table = {
            name: np.asarray(mentions[name].to_numpy(zero_copy_only=False))
            for name in mentions.column_names
            if name not in _LONG
        }
        counts = {"mention": len(mentions), "entity": len(entities)}
        device, how = reading.device, reading.entity_pictures
        sides = {side: Side(count, device, entity_pictures=how) for side, count in counts.items()}
        classless = set[str]()
        for one in inputs:
            side, keys = one.side, KeyColumn.load(one.keys)
            if keys.records != counts[side] or keys.keys.shape != (
                keys.records if keys.counts is None else int(keys.counts.sum()),
                16,
            ):
                raise UserError(
                    f"{one.keys}: {keys.records} keys for {counts[side]} {side}s of {folder}; run ExtractFeatures again"
                )
            store = Store.open(one.store)
            sides[side].add(one, store, keys)
            if store.spec.get("preprocessing", {}).get("prefix", ["class"])[:1] != ["class"]:
                classless |= {f"{one.role}.{output}" for output in one.outputs}
        shapes = {name: column.shape for name, column in sides["entity"].columns.items()}
        for name, column in sides["mention"].columns.items():
            if shapes.setdefault(name, column.shape) != column.shape:
                raise UserError(
                    f"{name}: rows of shape {column.shape} for mentions and {shapes[name]} for entities; both sides "
                    "need the same feature"
                )
        saved = read_npz(candidates_file, _LISTS)
        candidates = saved["ids"].astype(np.int64)
        rank = saved.get("gold_rank", np.full(len(candidates), -1)).astype(np.int64)
        forced = tuple(saved["forced"].tolist()) if "forced" in saved else ()
        fitting = len(candidates) == len(rank) == counts["mention"]
        if not fitting or not -1 <= candidates.min(initial=-1) <= candidates.max(initial=-1) < counts["entity"]:
            raise UserError(
                f"{candidates_file}: lists do not fit the {counts['mention']} mentions and {counts['entity']} entities "
                f"of {folder}; build them again"
            )
        beside = {name: _pair_feature(path, candidates) for name, path in sorted(pairs.items())}
        shapes |= {f"pairs.{name}": values.shape[2:] for name, values in beside.items()}
        settle([*sides["mention"].columns.values(), *sides["entity"].columns.values()], device, _budget(device))
        image = np.asarray(entities["image_status"].to_numpy(zero_copy_only=False)) == "ok"
        names = np.asarray(entities["id"].to_numpy(zero_copy_only=False))
        return cls(
            sides["mention"],
            sides["entity"],
            table,
            table["gold"].astype(np.int64),
            names,
            image,
            candidates,
            rank,
            shapes,
            beside,
            forced=forced,
            classless=frozenset(classless),
        )

    @property
    def device(self) -> torch.device:
        """Where rows are given."""
        return self.mentions.device

    def half_of_dev(self, half: str) -> np.ndarray:
        """(M,) bool of the mentions of dev in one half, "choose" or "calibrate", whose gold is in the KB."""
        dev = (self.table["split"] == "dev") & (self.gold >= 0)
        halves = [
            bool(here) and dev_half(str(name)) == half for here, name in zip(dev, self.table["gold_id"], strict=True)
        ]
        return np.array(halves)

    def training_mentions(self, fraction: float = 1.0, part: str = "train") -> tuple[np.ndarray, dict[str, int]]:
        """Rows of the mentions that a head learns from, and counts.

        Those of train (or of a half of dev) whose gold is in the KB; of these the `fraction` with the lowest hash, so
        that 10 % are part of 20 %. Raises `UserError` where there is none.
        """
        if not 0 < fraction <= 1:
            raise UserError(f"train_fraction = {fraction}: expected more than 0, at most 1")
        here = self.table["split"] == "train" if part == "train" else self.half_of_dev(part)
        usable = np.flatnonzero(here & (self.gold >= 0))
        counts = {
            part: len(usable),
            "NIL": int((here & (self.gold == -1)).sum()),
            "outside the KB": int((here & (self.gold == -2)).sum()),
        }
        if not len(usable):
            raise UserError(
                f"no training mention has its gold in the KB ({int(here.sum())} mentions in {part}); "
                "the account of the dataset says why"
            )
        if fraction < 1:
            names = self.table["id"]
            order = sorted(usable.tolist(), key=lambda row: blake2b(str(names[row]).encode(), digest_size=8).digest())
            usable = np.array(sorted(order[: max(1, round(fraction * len(order)))]))
        return usable, counts | {"trained on": len(usable)}

    def hide(self, split: str) -> None:
        """Take the golds and candidates of a split's mentions away: nothing that is chosen from now on can depend on
        them."""
        rows = self.table["split"] == split
        self.gold, self.candidates, self.table = (
            self.gold.copy(),
            self.candidates.copy(),
            {**self.table, "gold_id": self.table["gold_id"].copy()},
        )
        self.gold[rows], self.candidates[rows], self.table["gold_id"][rows] = -2, -1, None

    def batch(
        self,
        index: np.ndarray,
        with_candidates: bool,
        drawn: np.ndarray | None = None,
        random: np.random.Generator | None = None,
    ) -> Batch:
        """The training step of the mentions at `index` (B,), whose golds are in the KB; `drawn`: (B, h) further
        entities, or -1; random: picks entities' pictures, see `Side.rows`."""
        gold = self.gold[index]
        lists = self.candidates[index] if with_candidates else np.empty((len(index), 0), np.int64)
        more = lists[lists >= 0]
        rest = drawn[drawn >= 0] if drawn is not None else more[:0]
        distinct, row = np.unique(np.concatenate([gold, more, rest]), return_inverse=True)
        columns = np.full(lists.shape, -1)
        columns[lists >= 0] = row[len(gold) : len(gold) + len(more)]
        device = self.mentions.device
        also = None
        if drawn is not None:
            placed = np.full(drawn.shape, -1)
            placed[drawn >= 0] = row[len(gold) + len(more) :]
            also = torch.from_numpy(placed).to(device)
        candidates = torch.from_numpy(columns).to(device) if with_candidates else None
        pairs = (
            {name: torch.from_numpy(values).to(device) for name, values in self.pairs_of(index).items()}
            if with_candidates
            else {}
        )
        return Batch(
            self.mentions.rows(index),
            self.entities.rows(distinct, random),
            torch.from_numpy(row[: len(gold)]).to(device),
            candidates,
            pairs,
            also,
            {name: torch.from_numpy(values[index]).to(device) for name, values in self.left_out.items()},
            self._of_teacher(index, drawn),
        )

    def _of_teacher(self, index: np.ndarray, drawn: np.ndarray | None) -> Tensor | None:
        """See `Batch.teacher`. drawn: (B, h) entities, or -1."""
        if self.teacher is None or drawn is None:
            return None
        lists, scores = self.candidates[index], self.teacher[index]
        place = (lists[:, None, :] == drawn[:, :, None]).argmax(2)  # what is drawn comes from the list
        of_drawn = np.take_along_axis(scores, place, 1)
        of_drawn[(drawn < 0) | (drawn == self.gold[index][:, None])] = np.nan
        return torch.from_numpy(np.concatenate([scores[:, -1:], of_drawn], 1)).to(self.device)

    def without_pictures(self, sides: Collection[cache_inputs.Side]) -> "Bundle":
        """The same as if no record of these sides had a picture: all that is made from one is absent."""
        pairs = {
            name: np.full_like(values, np.nan) if set(sides) & set(self.made_from.sides(name)) else values
            for name, values in self.pairs.items()
        }
        return replace(
            self,
            mentions=replace(self.mentions, masked="mention" in sides),
            entities=replace(self.entities, masked="entity" in sides),
            pairs=pairs,
        )

    @property
    def made_from(self) -> Pictured:
        """What of it is made from pictures."""
        return Pictured({"mention": self.mentions.pictured, "entity": self.entities.pictured}, self.pictured)

    def masked(self, batch: Batch, index: np.ndarray, chance: float, random: np.random.Generator) -> Batch:
        """The batch of the mentions at `index` (B,) in which each mention's and each entity's picture is masked with
        this chance."""
        unpictured = {name: torch.from_numpy(values[index]).to(self.device) for name, values in self.unpictured.items()}
        return self.made_from.masked(batch, Masks.drawn(batch, chance, random), unpictured)

    def pairs_of(self, index: np.ndarray, first: int | None = None) -> dict[str, np.ndarray]:
        """Pair features of the mentions at `index` (m,), beside their candidates (the `first` of them)."""
        return {name: values[index][:, :first] for name, values in self.pairs.items()}

    def lists_of(self, index: np.ndarray) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Candidate lists (m, k) of the mentions at `index` as entity rows, their pair features, and their golds (m,),
        on the device."""
        device = self.mentions.device
        pairs = {name: torch.from_numpy(values).to(device) for name, values in self.pairs_of(index).items()}
        return torch.from_numpy(self.candidates[index]).to(device), pairs, torch.from_numpy(self.gold[index]).to(device)

    def at(self, places: np.ndarray) -> "Bundle":
        """The same with the candidates at these places (M, r) of each list alone."""

        def there(values: np.ndarray) -> np.ndarray:
            return np.take_along_axis(values, places.reshape(*places.shape, *[1] * (values.ndim - 2)), 1)

        pairs, unpictured = (
            {name: there(values) for name, values in beside.items()} for beside in (self.pairs, self.unpictured)
        )
        teacher = self.teacher
        if teacher is not None:  # the last column is the gold's
            teacher = np.concatenate([there(teacher[:, :-1]), teacher[:, -1:]], 1)
        candidates = there(self.candidates)
        return replace(self, candidates=candidates, pairs=pairs, unpictured=unpictured, teacher=teacher)

    def draw(self, index: np.ndarray, count: int, reach: int, random: np.random.Generator) -> np.ndarray | None:
        """(B, count) entities from the first `reach` of each mention's candidates, -1 where its list is shorter; None
        for a `count` of 0."""
        reach = min(reach, self.candidates.shape[1])
        if not count or not reach:
            return None
        return self.candidates[index[:, None], random.integers(0, reach, (len(index), count))]


_LONG = ("sentence", "image_key")
_LISTS = {
    "ids": Expected("iu", (None, None)),
    "gold_rank": Expected("iu", (None,), optional=True),
    "forced": Expected("U", (None,), optional=True),
}


def _pair_feature(path: Path, candidates: np.ndarray) -> np.ndarray:
    """(M, k) or (M, k, S) float32 beside the lists. Raises `UserError` where the file belongs to other lists."""
    values = read_npz(path, {"values": Expected(NUMBERS)})["values"].astype(np.float32)
    if values.shape[:2] != candidates.shape:
        raise UserError(
            f"{path}: values of {values.shape[:2]} pairs for candidate lists of {candidates.shape}; build them again"
        )
    return values


def _unpictured(path: Path) -> np.ndarray | None:
    """See `Bundle.unpictured`; None where a pair feature's file has no such values."""
    saved = read_npz(path, {"unpictured": Expected(NUMBERS, (None, None, None), optional=True)})
    return saved["unpictured"].astype(np.float32) if saved else None


def settle(columns: list[FeatureColumn | Several], device: torch.device, budget: int) -> None:
    """Move columns to the device, smallest first, while they fit `budget` bytes; the others stay memory-mapped."""
    fitting = []
    for size, _, column in sorted((column.bytes(), place, column) for place, column in enumerate(columns)):
        if size > budget:
            break
        fitting.append((size, column))
        budget -= size
    with Bar(sum(size for size, _ in fitting), "loading features", "byte") as bar:
        for size, column in fitting:
            column.settle(device)
            bar.update(size)


def settle_all(side: Side, device: torch.device) -> None:
    """Move a side's columns to the device while they fit."""
    settle([*side.columns.values()], device, _budget(device))


def _budget(device: torch.device) -> int:
    """Bytes that resident features may take. On a CPU none: the page cache holds what is mapped, and threads that copy
    with numpy leave torch's alone."""
    return torch.cuda.mem_get_info(device)[0] * 6 // 10 if device.type == "cuda" else 0
