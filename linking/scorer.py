"""One trained head over new mentions: its inputs, candidates and scores, the KB's side read once and kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from cache.identity import identity
from cache.inputs import Input, Want
from cache.keys import KeyColumn
from cache.store import Store
from cache.table import Table
from experiments import jobs, prompts, towers, tuned
from experiments.learned import distinct
from foundation import parquet
from foundation.arrays import Expected, read_npz
from foundation.errors import UserError
from heads.base import Head, Ragged, Rows
from heads.config import load_config
from heads.config.dsmip import DsmipConfig
from heads.contracts import JOINT, WITHOUT_JOINT, HeadInput, HeadWant, TrainingJob
from heads.data import Bundle, Side, settle_all
from heads.fusion import Frequency, read_phrases
from heads.runs import load_head, refuse_other_features
from heads.scoring import Scoring, entity_chunks
from heads.towers import NONE
from heads.vectors import entity_vectors, mention_vectors
from linking.finished import Finished
from linking.stores import Stores
from pipeline.candidates.base import RunVectors, SourceInputs
from pipeline.candidates.contracts import RunSource
from pipeline.candidates.lists import RankedLists
from pipeline.candidates.merging import merged_lists
from pipeline.candidates.registry import source
from pipeline.candidates.retrieving import retrieve
from pipeline.candidates.specs import candidate_sources
from pipeline.extraction import guard
from pipeline.pairs.base import CandidatePairs
from pipeline.pairs.registry import pair_function
from pipeline.pairs.roles import SERVED
from pipeline.pairs.texts import Texts
from pipeline.pairs.values import RecordValues
from pipeline.profiles.profile import AT_BLOCK, joined

BY_HEART = {"by_heart": Expected("b", ())}
HELD_BYTES = 1 << 30  # of the KB's encodings kept between two chunks of mentions
DEPTH = 10  # entities that are scored again by themselves, as a run's predictions list them


@dataclass(frozen=True)
class Kb:
    """The KB of a prepared dataset: ids, names, aliases where there are any, types and texts of its N entities."""

    table: Mapping[str, list]
    rows: Mapping[str, int]

    @classmethod
    def read(cls, prepared: Path) -> "Kb":
        """Of entities.parquet. Raises `UserError` where it cannot be read."""
        columns = ["id", "name", "type", "attributes", "description"]
        table = parquet.read(prepared / "entities.parquet", columns, optional=["aliases"]).to_pydict()
        return cls(table, {name: row for row, name in enumerate(table["id"])})

    @cached_property
    def texts(self) -> Texts:
        """What pair features read of the entities' strings."""
        return Texts(self.table)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass
class Chunk:
    """Some mentions, and what was computed for them.

    table: columns id, phrase, type, given (rows of the KB, or None) and those of mentions.parquet that views read.
    columns: keys of what is extracted of them. without: rows of the KB that are taken for absent. unlike: (m,) whether
    a feature of a mention is unlike those of the run. lists, pairs: candidate lists, pair features and scores of other
    heads beside them, once computed.
    """

    table: Mapping[str, list]
    columns: Mapping[Want, KeyColumn]
    without: np.ndarray
    unlike: np.ndarray
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
        self.head = load_head(run.folder, device, live=towers.build(_on(job_of(run, run), device)) if live else NONE)
        self.parts = {method: Scorer(part, kb, stores, device) for method, part in run.runs.items()}
        self.inputs = inputs_of(run)
        refuse_other_features(self.head, run.folder, self.inputs)
        self.learned = _Learned(run, run.learner, stores, device) if run.learner else None
        self.entities = Side(len(kb), device, entity_pictures=self.head.config.entity_pictures)
        for one in self.inputs:
            if one.side == "entity":
                self.entities.add(one, stores.open(one.store), KeyColumn.load(one.keys))
        settle_all(self.entities, device)
        self.retrievers = {name: Scorer(one, kb, stores, device) for name, one in run.retrievers.items()}
        by_heart = bool(read_npz(run.lists, BY_HEART)["by_heart"]) if run.retrievers else False
        of_runs = {name: RunSource(run=name, files=(), by_heart=by_heart) for name in self.retrievers}
        self.specs = candidate_sources(run.options, run.retrieval, run.paths, of_runs)
        self.sources = [source(spec) for spec in self.specs]
        self.frequency = self._frequency()
        self.held: list[tuple[int, Rows]] | None = None

    def _frequency(self) -> Frequency | None:
        if "pairs.frequency" not in self.head.shapes:
            return None
        bundle = Bundle.read(self.run.prepared, self.run.lists)
        return Frequency.of(bundle, read_phrases(self.run.prepared), self.run.train_fraction)

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
        scoring, beside = self._scoring(chunk, index, head or self.head)
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

    def _scoring(self, chunk: Chunk, index: np.ndarray, head: Head) -> tuple[Scoring, dict[str, np.ndarray]]:
        """A head over the chunk's mentions, and the pair features that it reads beside the lists at `index` (i,)."""
        names = [name.removeprefix("pairs.") for name in head.shapes if name.startswith("pairs.")]
        beside = {name: self._pair(name, chunk, index) for name in names}
        return Scoring(head, self._side(chunk), self.entities), beside

    def lists(self, chunk: Chunk) -> RankedLists:
        """The candidate lists, as the run's sources give them; kept with the chunk."""
        if chunk.lists is None:

            def vectors(read: Input, output: str) -> Table:
                keys = KeyColumn.load(read.keys) if read.side == "entity" else chunk.keys(read.feature, read.view)
                return keys.table(self.stores[read.feature], output)

            def of_run(spec: RunSource) -> list[RunVectors]:
                return [self.retrievers[spec.run].vectors(chunk)]

            options = self.run.options
            inputs = SourceInputs(chunk.table, self.kb.table, vectors, of_run, indexes=self.run.prepared)
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
                kb = self.run.paths.root / self.run.extraction.columns.get(want.column, "")
                keys = KeyColumn.load(kb) if want.side == "entity" else chunk.keys(want.feature, want.view)
                return RecordValues(keys.table(self.stores[want.feature], want.output), keys.counts)

            chunk.pairs[name] = pair_function(name)(CandidatePairs(chunk.table, self.kb.texts, lists, values))
        return chunk.pairs[name][index]

    def _part(self, name: str, chunk: Chunk, index: np.ndarray) -> np.ndarray:
        """(i, k) float32 scores of another head of the lists at `index` (i,), NaN where it scores nothing."""
        part = self.parts[name]
        scoring, beside = part._scoring(chunk, index, part.head)
        return scoring.part(index, self.lists(chunk).ids[index].astype(np.int64), beside)

    def _side(self, chunk: Chunk) -> Side:
        """The mentions' columns."""
        side = Side(len(chunk), self.device)
        for one in self.inputs:
            if one.side == "mention":
                if self.learned and jobs.is_learned(one.feature):
                    store, keys = self.learned.extract(one, chunk)
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


class _Learned:
    """Extracts new mentions' texts and pictures as another run learned to, with prompts or with trained blocks, into
    that run's cache."""

    def __init__(self, run: Finished, learner: Finished, stores: Stores, device: torch.device) -> None:
        self.stores = stores
        self.job = _on(job_of(learner, run), device)
        self.remade = {
            (one.role, one.read.view): one
            for one in (prompts.remade if self.job.live else tuned.remade)(self.job)[0]
            if one.read.side == "mention"
        }
        self.spreads: dict[str, dict[str, guard.Spread]] = {}

    def extract(self, one: HeadInput, chunk: Chunk) -> tuple[Store, KeyColumn]:
        """The store and key column of a learned input, its rows for the chunk's mentions added."""
        made = self.remade[one.role, one.view]
        store, keys = self.stores.open(one.store), chunk.keys(made.read.feature, one.view)
        learned = replace(made.learned, states=self.stores[made.read.feature])
        now = identity(learned.spec)
        if now != store.identity:
            raise UserError(
                f"{one.feature}: the run reads {store.identity[:16]}, what it learned now gives {now[:16]}; "
                "train it again (TrainHead)"
            )
        learned.fill(store, distinct(keys.keys[keys.present]))
        if lines := learned.problems(one, store, keys, guard.FEW):
            raise UserError(
                *(f"{line}; the run's own rows differ; run `luigi --module tasks Doctor`" for line in lines)
            )
        return store, keys

    def unlike(self, one: HeadInput, store: Store, keys: KeyColumn) -> np.ndarray:
        """(m,) bool: which mentions have a learned row that is unlike those of the run."""
        if one.feature not in self.spreads:
            self.spreads[one.feature] = guard.spreads(KeyColumn.load(one.keys), store, store.outputs)
        return guard.unlike(keys, store, self.spreads[one.feature])


def job_of(learner: Finished, run: Finished) -> TrainingJob:
    """What trained a run that learned features, or whose encoder runs live, as far as these depend on it."""
    config = load_config(learner.method, learner.config)
    features = {name: having[0] for name, having in learner.profiles.items()}
    demo = learner.demo or learner.paths.root
    wants = wanted_by(learner)
    live = None
    if isinstance(config, DsmipConfig) and config.stage == "prompts":
        source = jobs.EncoderSource(joined(features), str(features[config.layers_image].path), demo)
        live = jobs.live_clip(config, source)
    cuts = [want for want in wants if want.made]
    reference = str(features[cuts[0].feature].path) if cuts else ""
    return TrainingJob(
        method=learner.method,
        config=learner.config,
        inputs=jobs.head_inputs(wants, learner.extraction, learner.paths),
        dataset=run.prepared,
        candidates=run.lists,
        out=learner.folder,
        live=live,
        towers=towers.live_towers(config, wants, reference, demo),
    )


def inputs_of(run: Finished) -> list[HeadInput]:
    """What the head of a run reads of its own dataset; of new mentions each chunk brings the keys."""
    root = run.paths.root
    extracted = [want for want in wanted_by(run) if not jobs.is_learned(want.feature)]
    return [
        *jobs.head_inputs(extracted, run.extraction, run.paths),
        *(replace(one, store=root / one.store, keys=root / one.keys) for one in run.learned),
    ]


def _on(job: TrainingJob, device: torch.device) -> TrainingJob:
    return replace(job, compute=replace(job.compute, device=str(device)))


def wanted_by(run: Finished) -> list[HeadWant]:
    """What the head of a run reads."""
    # The profile may have more by now; what the run was trained on is what it chose.
    there = {name for one in run.tree() for name in one.extraction.features}
    there |= {name.rpartition(AT_BLOCK)[0] for name in there if AT_BLOCK in name}
    config = load_config(run.method, run.config)
    having = [of[0] for of in run.profiles.values()] if config.tune else []
    kinds = {name: kind for profile in having for name, kind in towers.kinds(profile).items()}
    return towers.wanted(config, config.inputs(sorted(there)), kinds)


def _bytes(column: torch.Tensor | Ragged) -> int:
    values = column.values if isinstance(column, Ragged) else column
    return values.numel() * values.element_size()
