"""One trained head over new mentions: its inputs, candidates and scores, the KB's side read once and kept."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch

from cache.inputs import Input, Want
from cache.keys import KeyColumn
from cache.store import Store
from cache.table import Table
from experiments import jobs, towers
from foundation.arrays import Expected, read_npz
from foundation.errors import UserError
from heads.base import Head, Ragged, Rows
from heads.config import load_config
from heads.contracts import JOINT, WITHOUT_JOINT, HeadInput
from heads.data import Bundle, Side, settle_all
from heads.fusion import Frequency, read_phrases
from heads.runs import load_head, refuse_other_features
from heads.scoring import Scoring, entity_chunks
from heads.towers import NONE
from heads.vectors import entity_vectors, mention_vectors
from linking.finished import Finished
from linking.kb import Kb
from linking.learned import NewLearned
from linking.reads import inputs_of, job_of, on_device
from linking.stores import Stores
from pipeline.candidates.base import Grown, RunVectors, SourceInputs
from pipeline.candidates.contracts import RunSource
from pipeline.candidates.lists import RankedLists
from pipeline.candidates.merging import merged_lists
from pipeline.candidates.registry import source
from pipeline.candidates.retrieving import retrieve
from pipeline.candidates.specs import candidate_sources
from pipeline.pairs.base import CandidatePairs
from pipeline.pairs.registry import pair_function
from pipeline.pairs.roles import SERVED
from pipeline.pairs.values import RecordValues

BY_HEART = {"by_heart": Expected("b", ())}
HELD_BYTES = 1 << 30  # of the KB's encodings kept between two chunks of mentions
DEPTH = 10  # entities that are scored again by themselves, as a run's predictions list them


@dataclass
class Chunk:
    """Some mentions, and what was computed for them.

    table: columns id, phrase, type, given (rows of the KB, or None) and those of mentions.parquet that views read.
    columns: keys of what is extracted of them. without: rows of the KB that are taken for absent. unlike: (m,) whether
    a feature of a mention is unlike those of the run. of: the number of the dataset's mentions that these are a part
    of, whose lists are found as for the whole dataset; None: new ones. lists, pairs: candidate lists, pair features and
    scores of other heads beside them, once computed.
    """

    table: Mapping[str, list]
    columns: Mapping[Want, KeyColumn]
    without: np.ndarray
    unlike: np.ndarray
    of: int | None = None
    lists: RankedLists | None = None
    pairs: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.table["phrase"])

    def keys(self, feature: str, view: str) -> KeyColumn:
        """The key column of a feature under a view."""
        return self.columns[Want(side="mention", feature=feature, view=view)]


class Scorer:
    """The head of `run`. stores: feature -> its store.

    Raises `UserError` where the head was trained on other features than the run reads.
    """

    def __init__(self, run: Finished, kb: Kb, stores: Stores, device: torch.device) -> None:
        self.run, self.kb, self.stores, self.device = run, kb, stores, device
        live = load_config(run.method, run.config).stays_live
        self.head = load_head(
            run.folder, device, live=towers.build(on_device(job_of(run, run), device)) if live else NONE
        )
        self.parts = {method: Scorer(part, kb, stores, device) for method, part in run.runs.items()}
        self.inputs = inputs_of(run)
        refuse_other_features(self.head, run.folder, self.inputs)
        self.learned = NewLearned(run, run.learner, stores, device) if run.learner else None
        self.entities = self._entity_side(self._entity_rows)
        self.retrievers = {name: Scorer(one, kb, stores, device) for name, one in run.retrievers.items()}
        by_heart = bool(read_npz(run.lists, BY_HEART)["by_heart"]) if run.retrievers else False
        of_runs = {name: RunSource(run=name, files=(), by_heart=by_heart) for name in self.retrievers}
        own = run.retrieval.columns
        files = {name: str(path) for name, path in (kb.files or {}).items() if name in own}
        retrieval = replace(run.retrieval, columns={**own, **files})
        self.specs = candidate_sources(run.options, retrieval, run.paths, of_runs)
        self.sources = [source(spec) for spec in self.specs]
        self._trained: tuple[Frequency, np.ndarray, list[str]] | None = None
        if "pairs.frequency" in self.head.shapes:
            bundle = Bundle.read(run.prepared, run.lists)
            counted = Frequency.of(bundle, read_phrases(run.prepared), run.train_fraction)
            golds = np.flatnonzero(counted.golds)
            self._trained = counted, golds, bundle.entity_ids[golds].tolist()
        self.frequency = self._frequency()
        self.held: list[tuple[int, Rows]] | None = None
        self._vectors_then: np.ndarray | None = None
        self._tables: dict[tuple[str, str], Table] = {}

    def _frequency(self) -> Frequency | None:
        """How often each entity of the KB is a gold of the run's training mentions, by its id."""
        if self._trained is None or self.kb.as_trained:
            return self._trained and self._trained[0]
        counted, golds, ids = self._trained
        rows = np.full(len(counted.golds), -1)
        rows[golds] = [self.kb.rows.get(name, -1) for name in ids]
        return counted.moved(rows, len(self.kb))

    def _entity_side(self, rows: Callable[[HeadInput], tuple[Store, KeyColumn]]) -> Side:
        """The columns of a KB's entities. rows: gives the rows of an input."""
        read = [(one, *rows(one)) for one in self.inputs if one.side == "entity"]
        count = read[0][2].records if read else len(self.kb)
        side = Side(count, self.device, entity_pictures=self.head.config.entity_pictures)
        for one, store, keys in read:
            side.add(one, store, keys)
        settle_all(side, self.device)
        return side

    def _entity_rows(self, one: HeadInput) -> tuple[Store, KeyColumn]:
        """Of the entities as they are now."""
        if self.learned and jobs.is_learned(one.feature):
            return self.learned.entities(one, self.kb)
        return self.stores.open(one.store), self.kb.keys(one.column, one.keys)

    def _rows_then(self, one: HeadInput) -> tuple[Store, KeyColumn]:
        """Of the entities as they were prepared."""
        made = self.learned.entity(one) if self.learned and jobs.is_learned(one.feature) else one
        return self.stores.open(one.store), self.kb.keys_then(made.column, made.keys)

    def grow(self, kept: np.ndarray) -> None:
        """Take up the entities of the KB as they are now. kept: the rows that those that stayed had before."""
        for below in (*self.parts.values(), *self.retrievers.values()):
            below.grow(kept)
        vectors = vars(self).pop("_entity_vectors", None)
        if vectors is not None and self._vectors_then is None and vectors.shape[0] == len(self.kb.then["id"]):
            self._vectors_then = vectors
        self.entities = self._entity_side(self._entity_rows)
        self.frequency = self._frequency()
        self._tables = {}
        vars(self).pop("_grown", None)
        with torch.no_grad():
            if vectors is not None:
                fresh = entity_vectors(self.head, self.entities, len(kept)) if len(self.kb) > len(kept) else vectors[:0]
                self._entity_vectors = np.concatenate([vectors[kept], fresh])
            if self.held is not None:
                self.held = [*_taken(self.held, kept), *entity_chunks(self.head, self.entities, len(kept))]

    # One chunk

    def top(self, chunk: Chunk, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """The best `depth` entities of each mention, those of `chunk.without` left out.

        Of the whole KB where the head scores blocks, else of the candidate lists. Returns rows (m, d), -1 where there
        are no more, and scores (m, d) float32, best first.
        """
        if not self.head.scores_blocks:
            return self.top_of_lists(chunk, depth, np.arange(len(chunk)))
        everyone = np.arange(len(chunk))
        scoring = Scoring(self.head, self._side(chunk), self.entities, self._encodings())
        kb = scoring.kb(everyone, top=max(depth, DEPTH) + len(chunk.without))
        top = RankedLists(kb.top.astype(np.int32), np.zeros(kb.top.shape, np.float32)).without(chunk.without)
        rows = top.ids[:, :depth].astype(np.int64)
        return rows, scoring.lists(everyone, rows)["score"]

    def top_of_lists(
        self, chunk: Chunk, depth: int, index: np.ndarray, head: Head | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `top`, of the candidate lists of the chunk's mentions at `index` (i,) alone. head: one over some of the
        parts, in place of the run's."""
        lists = self.lists(chunk).ids[index]
        scoring, beside = self.scoring(chunk, index, head or self.head)
        scores = scoring.lists(index, lists.astype(np.int64), beside)["score"]
        order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
        return np.take_along_axis(lists, order, 1), np.take_along_axis(scores, order, 1)

    @cached_property
    def without_joint(self) -> Head:
        """What `fused` learned from all parts but `joint`. Raises `UserError` where the run does not have it."""
        if not (self.run.folder / WITHOUT_JOINT).is_file():
            raise UserError(
                f"{self.run.folder / WITHOUT_JOINT}: no such file, the run is of an earlier version; delete its "
                "run.json and run the TrainHead command that trained it again"
            )
        return load_head(self.run.folder, self.device, name=WITHOUT_JOINT)

    def scoring(self, chunk: Chunk, index: np.ndarray, head: Head) -> tuple[Scoring, dict[str, np.ndarray]]:
        """A head over the chunk's mentions, and the pair features that it reads beside the lists at `index` (i,)."""
        names = [name.removeprefix("pairs.") for name in head.shapes if name.startswith("pairs.")]
        beside = {name: self._pair(name, chunk, index) for name in names}
        return Scoring(head, self._side(chunk), self.entities), beside

    def lists(self, chunk: Chunk) -> RankedLists:
        """The candidate lists, as the run's sources give them; kept with the chunk."""
        if chunk.lists is None:

            def vectors(read: Input, output: str) -> Table:
                if read.side == "entity":
                    return self._table(read, output)
                return chunk.keys(read.feature, read.view).table(self.stores[read.feature], output)

            def of_run(spec: RunSource) -> list[RunVectors]:
                return [self.retrievers[spec.run].vectors(chunk)]

            options = self.run.options
            inputs = SourceInputs(
                chunk.table,
                self.kb.table,
                vectors,
                of_run,
                indexes=self.kb.folder,
                grown=self._grown,
                listed=chunk.of,
                more_come=chunk.of is None,
            )
            listed = retrieve(self.sources, inputs, options.k)
            merged = merged_lists([each.lists for each in listed], options.k, options.merge, inputs)
            chunk.lists = merged.without(chunk.without)
        return chunk.lists

    def vectors(self, chunk: Chunk) -> RunVectors:
        """The vectors of the chunk and of the KB, by which another run lists candidates."""
        rows = np.arange(len(chunk))
        return RunVectors(mention_vectors(self.head, self._side(chunk), rows), self._entity_vectors, rows)

    @cached_property
    def _entity_vectors(self) -> np.ndarray:
        return entity_vectors(self.head, self.entities)

    @property
    def vectors_then(self) -> np.ndarray:
        """(B, d) vectors of the KB as it was prepared."""
        if self._vectors_then is None:
            self._vectors_then = entity_vectors(self.head, self._entity_side(self._rows_then))
        return self._vectors_then

    @cached_property
    def _grown(self) -> Grown | None:
        """The KB as indexes over it know it, where it has changed since."""
        if not self.kb.grown:
            return None

        def vectors(read: Input, output: str) -> Table:
            return self.kb.keys_then(read.column, read.keys).table(self.stores[read.feature], output)

        return Grown(self.kb.then, self.kb.origin, vectors, lambda spec: self.retrievers[spec.run].vectors_then)

    def _table(self, read: Input, output: str) -> Table:
        """One output of an input of the entities, resolved once."""
        place = read.column, output
        if place not in self._tables:
            self._tables[place] = self.kb.keys(read.column, read.keys).table(self.stores[read.feature], output)
        return self._tables[place]

    def _pair(self, name: str, chunk: Chunk, index: np.ndarray) -> np.ndarray:
        """(i, k, …) float32 of a pair feature, of another head's scores, or of frequency, beside the lists at `index`
        (i,)."""
        lists = self.lists(chunk)
        if name == JOINT and name in self.parts:  # at these alone; the others are the same for all heads of a chunk
            return self._part(name, chunk, index)
        if name == "frequency" and self.frequency:
            phrases = [chunk.table["phrase"][row] for row in index.tolist()]
            return self.frequency.of_lists(phrases, lists.ids[index].astype(np.int64))
        if name not in chunk.pairs and name in self.parts:
            chunk.pairs[name] = self._part(name, chunk, np.arange(len(chunk)))
        if name not in chunk.pairs:

            def values(role: str) -> RecordValues:
                want = SERVED[role]
                path = self.run.paths.root / self.run.extraction.columns.get(want.column, "")
                if want.side == "entity":
                    read = Input(side=want.side, feature=want.feature, view=want.view, store=path, keys=path)
                    return RecordValues(self._table(read, want.output), self.kb.keys(want.column, path).counts)
                keys = chunk.keys(want.feature, want.view)
                return RecordValues(keys.table(self.stores[want.feature], want.output), keys.counts)

            chunk.pairs[name] = pair_function(name)(CandidatePairs(chunk.table, self.kb.texts, lists, values))
        return chunk.pairs[name][index]

    def _part(self, name: str, chunk: Chunk, index: np.ndarray) -> np.ndarray:
        """(i, k) float32 scores of another head of the lists at `index` (i,), NaN where it scores nothing."""
        part = self.parts[name]
        scoring, beside = part.scoring(chunk, index, part.head)
        return scoring.part(index, self.lists(chunk).ids[index].astype(np.int64), beside)

    def _side(self, chunk: Chunk) -> Side:
        """The mentions' columns."""
        side = Side(len(chunk), self.device)
        for one in self.inputs:
            if one.side == "mention":
                if self.learned and jobs.is_learned(one.feature):
                    store, keys = self.learned.extract(one, chunk.columns)
                    chunk.unlike = chunk.unlike | self.learned.unlike(one, store, keys)
                else:
                    store, keys = self.stores[one.feature], chunk.keys(one.feature, one.view)
                side.add(one, store, keys)
        return side

    def _encodings(self) -> list[tuple[int, Rows]] | None:
        """The KB's encodings, kept where they are small enough."""
        if self.held is None:
            held, size = [], 0
            for start, rows in entity_chunks(self.head, self.entities):
                held.append((start, rows))
                size += sum(_bytes(column) for column in rows.values())
                if size > HELD_BYTES:
                    return None
            self.held = held
        return self.held


def _taken(held: Sequence[tuple[int, Rows]], kept: np.ndarray) -> Iterator[tuple[int, Rows]]:
    """Encodings of the rows `kept` alone, ascending, each part where its first row is then."""
    for start, rows in held:
        first, last = np.searchsorted(kept, [start, start + len(rows)])
        if first < last:
            here = kept[first:last] - start
            yield int(first), rows if len(here) == len(rows) else rows.take(torch.from_numpy(here))


def _bytes(column: torch.Tensor | Ragged) -> int:
    values = column.values if isinstance(column, Ragged) else column
    return values.numel() * values.element_size()
