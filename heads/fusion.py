"""Training of `fused` and `ranker`: scores of trained heads and counts join the pair features; every part of `fused` is
also evaluated alone and left out."""

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rapidfuzz.utils import default_process

from cache.inputs import SIDES, Side
from foundation import device as devices
from foundation import parquet
from foundation.arrays import damage, write_npz
from foundation.checksums import read_sealed, write_sealed
from foundation.errors import NotAsWritten, UserError
from foundation.progress import Bar
from foundation.tables import as_text, text_table
from heads import training
from heads.base import Head
from heads.checkpoint import read_tensors, write_tensors
from heads.config import load_config
from heads.config._pairs import PairsConfig
from heads.contracts import JOINT, WITHOUT_JOINT, Metrics, TrainingJob, TrainingResult
from heads.data import Bundle
from heads.evaluation import SPLITS
from heads.loop import Trainer
from heads.metrics import figures, rank_in_lists, rerank
from heads.pictures import WITHOUT
from heads.protocols import RERANK, protocol_of, under
from heads.runs import load_run, scores_of
from heads.scoring import Scoring
from heads.towers import Build, none

SHOWN = (("dev", "half: choose"), ("test", "all"))
FIGURES = ("H@1", "MRR")
THREADS = 1
"""Of torch while fitting: its products are so small that threads wait for each other longer than they compute, most of
all on cores that are shared."""


def train(job: TrainingJob, build: Build = none) -> TrainingResult:
    """Learn a network over pair features, the scores of the job's heads and training frequency.

    For a configuration that `shows_parts`, also learn the same of each part alone and of all parts but each; parts.json
    in the run's folder has their figures ("all", "only NAME", "without NAME" -> split -> figures), and the result's
    table ends with them. build: makes the encoders that run live in the job's heads.
    """
    config = _config(job)
    job = with_parts(job, SPLITS, build=build)
    result = training.train(replace(job, compute=replace(job.compute, threads=THREADS)))
    if not config.shows_parts:
        return result
    of_test = next((name for name in result.metrics.get("test", {}) if protocol_of(name) == RERANK), RERANK)
    return replace(result, table=f"{result.table}\n\n{parts_table(_parts(job, result.metrics), of_test)}")


def with_parts(job: TrainingJob, splits: Collection[str], masks: bool = False, build: Build = none) -> TrainingJob:
    """The job with all its parts as pair features: those of the profile, the scores of its heads for the mentions of
    `splits`, the frequency; and with as many epochs as `least_steps` takes. Jobs of other kinds of heads are returned
    as they are.

    masks: also what the heads score without pictures, for training with `picture_dropout` when the job's own
    configuration has none.
    """
    if load_config(job.method, job.config).training != "combination":
        return job
    config, out = _config(job), job.out / "parts"
    masks = masks or config.picture_dropout > 0
    pairs, pictured = dict(job.pairs), dict(job.pictured)
    for method, run in sorted(job.heads.items()):
        if run.candidates != job.candidates:
            raise UserError(f"{run.out}: scored other candidate lists than {job.candidates}; train {method} on these")

        pictured[method] = pictured_sides(run)
        scores = partial(_scores, run, splits, pictured[method] if masks else (), build)
        pairs[method] = _kept(out / f"{method}.npz", scores)
    if config.frequency:
        pairs["frequency"] = _kept(out / "frequency.npz", lambda: {"values": frequency(job)})
        pictured["frequency"] = ()
    if not pairs:
        raise UserError(
            f"{job.method}: it has no inputs; name heads or pair_features that this profile has, or set frequency"
        )
    # heads and frequency saw the fraction; dev's half is learned from whole
    fraction = job.train_fraction if config.fits_on == "train" else 1.0
    bundle = Bundle.read(job.dataset, job.candidates)
    steps = -(-len(bundle.training_mentions(fraction, config.fits_on)[0]) // config.batch_size)
    epochs = max(config.epochs, -(-config.least_steps // steps)) if config.epochs else 0
    config_of = {**job.config, "epochs": epochs}
    return replace(job, config=config_of, pairs=pairs, pictured=pictured, heads={}, train_fraction=fraction)


def pictured_sides(job: TrainingJob) -> tuple[Side, ...]:
    """The sides whose pictures a run's scores are made from, by what it and the runs that it combines read."""
    read = {one.side for one in job.inputs if one.from_picture} | {side for of in job.pictured.values() for side in of}
    read |= {side for run in job.heads.values() for side in pictured_sides(run)}
    return tuple(side for side in SIDES if side in read)


def _scores(run: TrainingJob, splits: Collection[str], masked: Collection[Side], build: Build) -> dict[str, np.ndarray]:
    """Scores (M, k) of a run and, where sides are to be `masked`, (M, k, 3) without their pictures, in the order of
    `heads.pictures.WITHOUT`.

    DRIN's score of a pair depends on its list: an entity without its picture stands among others without theirs.
    """
    wanted = [frozenset(without) & frozenset(masked) for without in WITHOUT] if masked else []
    by_sides = {
        sides: scores_of(*without_pictures(run, splits, sides, build), splits)
        for sides in dict.fromkeys([frozenset[Side](), *wanted])
    }
    unpictured = {"unpictured": np.stack([by_sides[sides] for sides in wanted], -1)} if masked else {}
    return {"values": by_sides[frozenset()], **unpictured}


def without_pictures(
    run: TrainingJob, splits: Collection[str], sides: Collection[Side], build: Build = none
) -> tuple[Head, Bundle]:
    """The head of a finished run, and what it reads of the mentions of `splits` as if no record of these sides had a
    picture. The heads whose scores a combination reads score them so, too. build: see `load_run`."""
    head, bundle = load_run(with_parts(run, splits, build=build), build)
    if not sides:
        return head, bundle
    bundle = bundle.without_pictures(sides)
    parts = run.heads if head.config.training == "combination" else {}
    scores = {label: scores_of(*without_pictures(part, splits, sides, build), splits) for label, part in parts.items()}
    return head, replace(bundle, pairs={**bundle.pairs, **scores})


def _config(job: TrainingJob) -> PairsConfig:
    config = load_config(job.method, job.config)
    assert isinstance(config, PairsConfig)
    return config


def frequency(job: TrainingJob) -> np.ndarray:
    """(M, k, 2) float32 log(1 + n), n: how often each candidate is a gold of the training mentions that heads see, and
    how often it is that of the mention's own phrase there (letter case and punctuation aside); a training mention
    itself is not counted for it. NaN where a list ends."""
    bundle, phrases = Bundle.read(job.dataset, job.candidates), read_phrases(job.dataset)
    itself = np.full(len(phrases), -1)
    chosen, _ = bundle.training_mentions(job.train_fraction)
    itself[chosen] = bundle.gold[chosen]
    return Frequency.of(bundle, phrases, job.train_fraction).of_lists(phrases, bundle.candidates, itself)


def read_phrases(dataset: Path) -> list[str]:
    """The phrases of all mentions of a prepared dataset."""
    return parquet.read(dataset / "mentions.parquet", ["phrase"])["phrase"].to_pylist()


@dataclass(frozen=True)
class Frequency:
    """How often entities are golds in train. golds (N,): of each; pairs (P,) ascending, phrase number × N + entity, and
    counts (P,): of each with each phrase; phrases: number of each cleaned phrase."""

    golds: np.ndarray
    pairs: np.ndarray
    counts: np.ndarray
    phrases: dict[str, int]

    @classmethod
    def of(cls, bundle: Bundle, phrases: Sequence[str], fraction: float) -> "Frequency":
        """Of the training mentions that a head with this fraction sees. phrases: of all mentions."""
        chosen, _ = bundle.training_mentions(fraction)
        n, gold = len(bundle.entity_ids), bundle.gold[chosen]
        cleaned = [default_process(phrases[row]) for row in chosen.tolist()]
        numbers = {text: number for number, text in enumerate(dict.fromkeys(cleaned))}
        phrase = np.array([numbers[text] for text in cleaned], np.int64)
        pairs, counts = np.unique(phrase * n + gold, return_counts=True)
        return cls(np.bincount(gold, minlength=n), pairs, counts, numbers)

    def moved(self, rows: np.ndarray, entities: int) -> "Frequency":
        """The same over another KB of so many entities. rows (N,): the row that each entity has there, -1 for none."""
        golds = np.zeros(entities, self.golds.dtype)
        golds[rows[rows >= 0]] = self.golds[rows >= 0]
        phrase, entity = np.divmod(self.pairs, len(self.golds))
        there = rows[entity] >= 0
        pairs = phrase[there] * entities + rows[entity][there]
        order = np.argsort(pairs)
        return Frequency(golds, pairs[order], self.counts[there][order], self.phrases)

    def of_lists(self, phrases: Sequence[str], lists: np.ndarray, itself: np.ndarray | None = None) -> np.ndarray:
        """(M, k, 2) as `frequency` says, for mentions with these phrases and candidates (M, k). itself (M,): the gold
        of a mention that was counted."""
        number = np.array([self.phrases.get(default_process(text), -1) for text in phrases], np.int64)
        wanted = number[:, None] * len(self.golds) + lists.clip(0)
        place = np.searchsorted(self.pairs, wanted).clip(max=max(0, len(self.pairs) - 1))
        of_phrase = np.zeros(wanted.shape, self.counts.dtype)
        if len(self.pairs):  # none where no gold of train is in the KB
            same = (self.pairs[place] == wanted) & (number >= 0)[:, None]
            of_phrase = np.where(same, self.counts[place], 0)
        both = np.stack([self.golds[lists.clip(0)], of_phrase], -1)
        if itself is not None:
            both -= (lists == np.where(itself >= 0, itself, -2)[:, None])[:, :, None]
        return np.where((lists >= 0)[:, :, None], np.log1p(both), np.nan).astype(np.float32)


def parts_table(parts: dict[str, dict[str, dict[str, float]]], protocol: str = RERANK) -> str:
    """`parts.json` as plain text, in percent. protocol: its name, for the title."""
    titles = [f"{split} {figure}" for split in next(iter(parts.values())) for figure in FIGURES]
    rows = [
        [name, *(f"{100 * values[figure]:.2f}" for values in splits.values() for figure in FIGURES)]
        for name, splits in parts.items()
    ]
    return as_text(text_table([f"fused ({protocol.replace(' (', ', ').removesuffix(')')})", *titles], rows))


def _parts(job: TrainingJob, metrics: Metrics) -> dict[str, dict[str, dict[str, float]]]:
    """The figures of all parts together, of each alone and of all but each; each trained like the run itself, over the
    same tensors in memory. Of a run with `joint`, the weights of all but it are kept too."""
    path, kept = job.out / "parts.json", job.out / WITHOUT_JOINT
    with contextlib.suppress(NotAsWritten):
        if JOINT in job.pairs and len(job.pairs) > 1:
            read_tensors(kept)
        if path.is_file():
            return read_sealed(path)
    names = sorted(job.pairs)
    subsets = {f"only {name}": [name] for name in names}
    subsets |= {f"without {name}": [other for other in names if other != name] for name in names if len(names) > 1}
    device = torch.device(devices.choose(job.compute.device))
    bundle = Bundle.load(job, device)
    by_subset = {
        "all": {split: _shown((under(metrics.get(split, {}), RERANK) or {}).get(part, {})) for split, part in SHOWN}
    }
    trainers = {name: _trainer(job, bundle, subset) for name, subset in subsets.items()}
    workers = 1 if device.type == "cuda" else os.cpu_count() or 1
    with (
        devices.repeatable(THREADS),
        ThreadPoolExecutor(workers) as pool,
        Bar(len(subsets), "parts", "fit", quiet=not sys.stderr.isatty()) as bar,
    ):
        fits = {name: pool.submit(_fitted, trainer) for name, trainer in trainers.items()}
        for name, fit in fits.items():
            by_subset[name] = fit.result()
            bar.update(1)
    if others := trainers.get(f"without {JOINT}"):
        write_tensors(
            kept, dict(others.head.state_dict()), training.description(job, others.head, others.bundle), seal=True
        )
    write_sealed(path, by_subset)
    return by_subset


def _trainer(job: TrainingJob, bundle: Bundle, subset: list[str]) -> Trainer:
    """An untrained combination of some parts alone. Draws from torch's generator: one at a time."""
    shapes = {f"pairs.{part}": bundle.shapes[f"pairs.{part}"] for part in subset}
    bundle = replace(bundle, pairs={part: bundle.pairs[part] for part in subset}, shapes=shapes)
    mentions, _ = bundle.training_mentions(1.0, _config(job).fits_on)
    precision = devices.choose_precision(job.compute.precision, bundle.device.type, training=True)
    return Trainer(training.new_head(job, bundle, mentions), bundle, mentions, job.seed, precision)


def _fitted(trainer: Trainer) -> dict[str, dict[str, float]]:
    """The figures of a combination that is trained like a run, without writing one."""
    head, bundle = trainer.head, trainer.bundle
    head.load_state_dict(trainer.train())
    head.eval()
    by_split = {}
    for split, part in SHOWN:
        known = (bundle.table["split"] == split) & (bundle.gold >= 0)
        index = np.flatnonzero(bundle.half_of_dev(part.partition(": ")[2]) if split == "dev" else known)
        lists, gold = bundle.candidates[index], bundle.gold[index]
        scores = Scoring.of(head, bundle).lists(index, lists, bundle.pairs_of(index))["score"]
        ranks = rerank(rank_in_lists(scores, lists, gold), bundle.retrieval_rank[index], len(bundle.entity_ids))
        by_split[split] = _shown(figures(ranks, (lists == gold[:, None]).any(1)))
    return by_split


def _shown(values: Mapping[str, float]) -> dict[str, float]:
    return {figure: values.get(figure, float("nan")) for figure in FIGURES}


def _kept(path: Path, make: Callable[[], Mapping[str, np.ndarray]]) -> Path:
    """Path of a part's arrays, computed where the file is not there or damaged. The run's folder is named by all
    that they depend on."""
    if damage(path):
        write_npz(path, make(), seal=True)
    return path
