"""What pair features are made of: vectors behind records, products with whole candidate lists at once, similarities of names."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cache.table import Table
from foundation.errors import UserError
from foundation.progress import Bar

BLOCK_BYTES = 64 << 20  # of gathered vectors held at a time
HELD_BYTES = 512 << 20  # of the entities' vectors kept in memory
# Measures of name_similarity, of phrase and entity name after rapidfuzz's `default_process` (lower case, letters and digits), each from 0 to 1.
MEASURES = ("ratio", "partial_ratio", "token_sort_ratio", "token_set_ratio", "jaro_winkler", "equal")
RETRIEVAL = ("score", "reciprocal_rank")


@dataclass(frozen=True)
class Rows:
    """One output of one want, by record. Where a record has several keys, their rows are read together."""

    table: Table
    counts: np.ndarray | None

    def __len__(self) -> int:
        return len(self.table) if self.counts is None else len(self.counts)

    def keys(self, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the records' keys, one record's after another's, and how many each has."""
        if self.counts is None:
            return records, np.ones(len(records), np.int64)
        count = self.counts[records]
        first = (self.counts.cumsum() - self.counts)[records]
        return np.repeat(first - (count.cumsum() - count), count) + np.arange(int(count.sum())), count

    def fixed(self, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, d) float32 of unit length, and which records have it."""
        return unit(np.asarray(self.table.gather(records), np.float32)), self.table.ok[records]

    def ragged(self, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Steps of the records one after another (ΣL, …) float32, and how many each has."""
        keys, count = self.keys(records)
        values, lengths = self.table.ragged_flat(keys)
        ends = np.concatenate([[0], lengths.cumsum()])
        last = count.cumsum()
        return np.asarray(values, np.float32), ends[last] - ends[last - count]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


class _Held:
    """Vectors of all listed entities, read once: in memory where they are few, else in a temporary file of the system, mapped."""

    def __init__(
        self, ids: np.ndarray, width: int, read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    ) -> None:
        self.entities = np.unique(ids)
        self.entities = self.entities[self.entities >= 0]
        shape = (len(self.entities), width)
        if 4 * len(self.entities) * width <= HELD_BYTES:
            self.vectors = np.empty(shape, np.float32)
        else:
            self.file = tempfile.TemporaryFile()
            self.vectors = np.memmap(self.file, np.float32, "w+", shape=shape)
        self.ok = np.zeros(len(self.entities), bool)
        step = max(1, BLOCK_BYTES // (16 * max(1, width)))
        for start in range(0, len(self.entities), step):
            part = slice(start, start + step)
            self.vectors[part], self.ok[part] = read(self.entities[part])

    def dots(self, left: np.ndarray, left_ok: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """(b, k) products of each mention's vector with those of its candidates; NaN where a side has none or the list has ended."""
        if not len(self.entities):
            return np.full(ids.shape, np.nan, np.float32)
        place = np.searchsorted(self.entities, np.maximum(ids, self.entities[0]))
        values = np.matmul(self.vectors[place], left[:, :, None])[:, :, 0]
        values[~((ids >= 0) & left_ok[:, None] & self.ok[place])] = np.nan
        return values


def _products(read_mentions: Callable, read_entities: Callable, width: int, ids: np.ndarray) -> np.ndarray:
    """(M, k) products of a vector per mention and one per candidate, each read once."""
    held = _Held(ids, width, read_entities)
    out = np.empty(ids.shape, np.float32)
    for block in _blocks(ids, 4 * width):
        out[block] = held.dots(*read_mentions(np.arange(block.start, block.stop)), ids[block])
    return out


def _blocks(ids: np.ndarray, row_bytes: int) -> Iterator[slice]:
    """Blocks of mentions whose candidates' rows take bounded memory; a bar goes along."""
    step = max(1, BLOCK_BYTES // max(1, ids.shape[1] * row_bytes))
    with Bar(len(ids), "pairs", "mention") as bar:
        for start in range(0, len(ids), step):
            end = min(start + step, len(ids))
            yield slice(start, end)
            bar.update(end - start)


def _distinct(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The entities of a block, and for each pair its entity's place among them (0 where a list has ended)."""
    found = np.unique(ids)
    found = found[found >= 0]
    return found, np.searchsorted(found, np.maximum(ids, found[0] if len(found) else 0))


def cosines(mentions: Rows, entities: Rows, ids: np.ndarray) -> np.ndarray:
    """(M, k) float32 cosines of one vector per mention and per candidate."""
    if mentions.table.shape != entities.table.shape or mentions.table.ragged or entities.table.ragged:
        raise UserError(
            f"vectors of mentions and entities differ: {mentions.table.shape} and {entities.table.shape}; both must come from one model"
        )
    return _products(mentions.fixed, entities.fixed, mentions.table.shape[0], ids)


@dataclass(frozen=True)
class Objects:
    """Objects of one side's pictures. most: how many of a picture's boxes, the best first, count."""

    vectors: Rows
    boxes: Rows
    confidences: Rows
    most: int

    def read(self, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`Σ_i s_i v_i / Σ_i s_i` of the objects' unit vectors (n, d), and for which records Σ s_i > 0.

        With it `Σ_ij s_i s_j cos(v_i, v_j) / Σ_ij s_i s_j` is one product. The whole picture (box −1) has confidence 1.
        """
        vectors, lengths = self.vectors.ragged(records)
        boxes = self.boxes.ragged(records)[0].astype(np.int64)
        confidences, found = self.confidences.ragged(records)
        owner = np.repeat(np.arange(len(records)), lengths)
        at = (found.cumsum() - found)[owner] + boxes
        outside = (boxes >= found[owner]) & (boxes >= 0)
        if outside.any():
            raise UserError(
                "object_resnet names boxes that objects does not have; `luigi --module tasks ExtractFeatures` extracts them again"
            )
        weight = np.ones(len(boxes), np.float32)
        weight[boxes >= 0] = confidences[at[boxes >= 0]]
        weight[np.arange(len(boxes)) - (lengths.cumsum() - lengths)[owner] >= self.most] = 0
        total = np.bincount(owner, weight, len(records)).astype(np.float32)
        mean = np.zeros((len(records), vectors.shape[1] if vectors.ndim > 1 else 0), np.float32)
        some = lengths > 0
        if some.any():
            mean[some] = np.add.reduceat(unit(vectors) * weight[:, None], (lengths.cumsum() - lengths)[some])
        return mean / np.maximum(total, 1e-12)[:, None], total > 0


def object_relation(mentions: Objects, entities: Objects, ids: np.ndarray) -> np.ndarray:
    """(M, k) float32, DRIN's edges between pictures: cosines of all pairs of objects, weighted by their confidences."""
    return _products(mentions.read, entities.read, mentions.vectors.table.shape[0], ids)


def face_match(mentions: Rows, entities: Rows, ids: np.ndarray) -> np.ndarray:
    """(M, k) float32: the best cosine of a face in the mention's picture and one in any of the entity's; NaN where either has none."""
    out = np.full(ids.shape, np.nan, np.float32)
    for block in _blocks(ids, 4 * mentions.table.shape[0]):
        found, place = _distinct(ids[block])
        ours, ours_count = mentions.ragged(np.arange(block.start, block.stop))
        theirs, theirs_count = entities.ragged(found)
        if not len(ours) or not len(theirs):
            continue
        ours, theirs = unit(ours), unit(theirs)
        ours_first, theirs_first = ours_count.cumsum() - ours_count, theirs_count.cumsum() - theirs_count
        row, column = np.nonzero((ids[block] >= 0) & (ours_count[:, None] > 0) & (theirs_count[place] > 0))
        other = place[row, column]
        faces = ours_count[row] * theirs_count[other]
        best = np.empty(len(row), np.float32)
        most = max(1, BLOCK_BYTES // (8 * ours.shape[1]))
        for part in _runs(faces, most):
            count = faces[part]
            first = count.cumsum() - count
            number = np.arange(int(count.sum())) - np.repeat(
                first, count
            )  # of the pair of faces among those of its mention and entity
            width = np.repeat(theirs_count[other[part]], count)
            left = np.repeat(ours_first[row[part]], count) + number // width
            right = np.repeat(theirs_first[other[part]], count) + number % width
            best[part] = np.maximum.reduceat(np.einsum("nd,nd->n", ours[left], theirs[right]), first)
        out[block][row, column] = best
    return out


def _runs(sizes: np.ndarray, most: int) -> list[slice]:
    """Runs of neighbours whose sizes add up to about `most`, at least one each."""
    ends = (
        np.unique(np.concatenate([np.flatnonzero(np.diff(sizes.cumsum() // most)) + 1, [len(sizes)]])).tolist()
        if len(sizes)
        else []
    )
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def name_similarity(
    phrases: Sequence[str], entity_names: Sequence[str], ids: np.ndarray, workers: int = -1
) -> np.ndarray:
    """(M, k, S) float32 of `MEASURES`, each from 0 to 1; NaN where the list has ended."""
    from rapidfuzz import fuzz, process
    from rapidfuzz.distance import JaroWinkler
    from rapidfuzz.utils import default_process

    scorers = {"jaro_winkler": (JaroWinkler.normalized_similarity, 1.0)}
    ours, theirs = [default_process(phrase) for phrase in phrases], [default_process(name) for name in entity_names]
    out = np.full((*ids.shape, len(MEASURES)), np.nan, np.float32)
    for block in _blocks(ids, 256):
        row, column = np.nonzero(ids[block] >= 0)
        pairs, inverse = np.unique((row + block.start) * len(theirs) + ids[block][row, column], return_inverse=True)
        left, right = (
            [ours[i] for i in (pairs // len(theirs)).tolist()],
            [theirs[i] for i in (pairs % len(theirs)).tolist()],
        )
        for number, measure in enumerate(MEASURES):
            if measure == "equal":
                values = np.fromiter(map(str.__eq__, left, right), np.float32, len(left))
            else:
                scorer, highest = scorers.get(measure) or (getattr(fuzz, measure), 100.0)
                values = process.cpdist(left, right, scorer=scorer, dtype=np.float32, workers=workers) / np.float32(
                    highest
                )
            out[block][row, column, number] = values[inverse]
    return out


def retrieval(scores: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """(M, k, 2) float32: the candidate's own score in its list, and 1 / its place there."""
    out = np.stack([scores, np.broadcast_to(1 / np.arange(1, ids.shape[1] + 1), ids.shape)], 2).astype(np.float32)
    out[ids < 0] = np.nan
    return out
