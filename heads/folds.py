"""Folds of the training mentions: runs that leave one out, and how well they find the golds of its mentions."""

from dataclasses import replace
from hashlib import blake2b

import numpy as np
import torch
import torch.nn.functional as F

from foundation.errors import UserError
from foundation.progress import Bar
from heads.base import Head
from heads.config import load_config
from heads.config.base import WITHOUT_FOLD
from heads.config.dual import TEACHER
from heads.contracts import TrainingJob
from heads.data import Bundle
from heads.runs import load_run
from heads.scoring import Scoring
from heads.towers import Build, none


def fold_of(gold_id: str, folds: int) -> int:
    """The fold of the training mentions with this gold. All mentions of an entity are in one fold, so a run that leaves
    it out never has this entity as a gold."""
    return int.from_bytes(blake2b(gold_id.encode(), digest_size=8, person=b"fold").digest()) % folds


def training_mentions(job: TrainingJob, bundle: Bundle) -> tuple[np.ndarray, dict[str, int]]:
    """Rows of the mentions that a job's head learns from, and counts; see `Bundle.training_mentions`.

    Raises `UserError` where none is left.
    """
    config = load_config(job.method, job.config)
    rows, counts = bundle.training_mentions(job.train_fraction, config.fits_on)
    if config.left_out is None:
        return rows, counts
    fold, folds = config.left_out
    kept = rows[_folds(bundle, rows, folds) != fold]
    if not 0 < len(kept) < len(rows):
        raise UserError(
            f"{job.method}: fold {fold} of {folds} holds {len(rows) - len(kept)} of {len(rows)} training mentions; "
            "there are too few distinct golds for so many folds: take fewer, or none"
        )
    return kept, counts | {"trained on": len(kept)}


def _folds(bundle: Bundle, rows: np.ndarray, folds: int) -> np.ndarray:
    return np.array([fold_of(str(name), folds) for name in bundle.table["gold_id"][rows]])


def with_left_out(job: TrainingJob, bundle: Bundle, build: Build = none) -> Bundle:
    """The bundle with `left_out` or `teacher`, where the job reads runs that leave folds out. build: see
    `load_run`."""
    judges = {label: run for label, run in job.heads.items() if WITHOUT_FOLD in label}
    if not judges:
        return bundle
    mentions, _ = bundle.training_mentions(job.train_fraction)
    masked = load_config(job.method, job.config).picture_dropout > 0
    losses: dict[str, np.ndarray] = {}
    taught = np.full((len(bundle.gold), bundle.candidates.shape[1] + 1), np.nan, np.float32)
    with Bar(len(judges), "mentions that runs left out", "run") as bar:
        for label, run in sorted(judges.items()):
            name = label.partition(WITHOUT_FOLD)[0]
            if name == TEACHER:
                rows, values = _taught(run, mentions, build)
                taught[rows] = values
            else:
                losses.setdefault(name, np.full((len(bundle.gold), 2), np.nan, np.float32))
                rows, values = _judged(run, mentions, masked, build)
                losses[name][rows] = values
            bar.update()
    return replace(bundle, left_out=losses, teacher=None if np.isnan(taught).all() else taught)


def _left_out_by(head: Head, bundle: Bundle, mentions: np.ndarray) -> np.ndarray:
    """Those of `mentions` that a head left out."""
    assert head.config.left_out is not None
    fold, folds = head.config.left_out
    return mentions[_folds(bundle, mentions, folds) == fold]


def _judged(run: TrainingJob, mentions: np.ndarray, masked: bool, build: Build) -> tuple[np.ndarray, np.ndarray]:
    """Those of `mentions` that a run left out, and its losses on them (n, 2); see `Bundle.left_out`.

    masked: whether the second differs from the first, for training with `picture_dropout`.
    """
    head, bundle = load_run(run, build)
    rows = _left_out_by(head, bundle, mentions)
    lists = _with_gold(bundle.candidates[rows], bundle.gold[rows])
    losses = [_losses(head, bundle, rows, lists)]
    if masked:
        losses.append(_losses(head, bundle.without_pictures(["mention"]), rows, lists))
    return rows, np.stack([losses[0], losses[-1]], 1)


def _taught(run: TrainingJob, mentions: np.ndarray, build: Build) -> tuple[np.ndarray, np.ndarray]:
    """Those of `mentions` that a teacher left out, and its scores (n, k + 1) of their candidates and golds; see
    `Bundle.teacher`. A gold that is not listed is scored too, unless the head scores lists as a whole."""
    head, bundle = load_run(run, build)
    rows = _left_out_by(head, bundle, mentions)
    lists, gold = bundle.candidates[rows], bundle.gold[rows]
    more = _with_gold(lists, gold) if head.scores_blocks else lists
    scores = Scoring.of(head, bundle).part(rows, more, bundle.pairs_of(rows))
    place = (more == gold[:, None]).argmax(1)
    of_gold = np.where((more == gold[:, None]).any(1), scores[np.arange(len(rows)), place], np.nan)
    taught = np.concatenate([scores[:, : lists.shape[1]], of_gold[:, None]], 1)
    return rows, taught.astype(np.float32)


def _losses(head: Head, bundle: Bundle, rows: np.ndarray, lists: np.ndarray) -> np.ndarray:
    """(n,) `-log p` of the golds of the mentions `rows`, p of the softmax over their `lists` (n, k)."""
    scores = torch.from_numpy(Scoring.of(head, bundle).lists(rows, lists)["score"]).double()
    gold = torch.from_numpy((lists == bundle.gold[rows][:, None]).argmax(1))
    return F.cross_entropy(scores, gold, reduction="none").numpy()


def _with_gold(lists: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """The lists (m, k), with a further place for each gold (m,) that is not listed."""
    listed = (lists == gold[:, None]).any(1)
    return np.concatenate([lists, np.where(listed, -1, gold)[:, None]], 1)
