"""A run's answers for a half of dev, kept beside it: confidence and the NIL threshold are fitted on them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from cache.identity import identity, weights_hash
from cache.store import Store
from foundation import parquet
from foundation.arrays import Expected, read_npz, write_npz
from foundation.contracts import to_json
from foundation.errors import UserError
from heads.config import load_config
from heads.metrics import dev_half
from linking import calibration
from linking.calibration import Answers
from linking.finished import Finished

CHUNK = 4096  # mentions of dev in memory at once; the whole KB may have to be encoded for each chunk

Top = Callable[[Mapping[str, list], np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Rows and scores, best first, of the entities for a table of mentions, some rows of the KB taken for absent."""


_ARRAYS = {
    "about": Expected("U", ()),
    "evidence": Expected("f", (None, 3)),
    "softmax": Expected("f", (None,)),
    "right": Expected("b", (None,)),
    "nil": Expected("b", (None,)),
    "fold": Expected("iu", (None,)),
}


@dataclass(frozen=True)
class DevAnswers:
    """Answers for the mentions of a half of dev.

    nil_share: of all mentions of dev. part, nil, made_of: see `linking.contracts.Calibration`.
    """

    answers: Answers
    nil_share: float
    part: str
    nil: Mapping[str, int]
    made_of: str

    def write(self, path: Path) -> None:
        """Replace the file at `path`."""
        about = {"nil_share": self.nil_share, "part": self.part, "nil": dict(self.nil), "made_of": self.made_of}
        arrays = {field.name: getattr(self.answers, field.name) for field in fields(Answers)}
        write_npz(path, {"about": np.array(json.dumps(about)), **arrays}, seal=True)

    @classmethod
    def read(cls, path: Path, made_of: str) -> "DevAnswers | None":
        """Those in a file; None where there is none, where it is damaged, or made of something else."""
        try:
            saved = read_npz(path, _ARRAYS)
            about = json.loads(str(saved.pop("about")))
            if about["made_of"] != made_of or len({len(array) for array in saved.values()}) != 1:
                return None
            return cls(answers=Answers(**saved), **about)
        except (UserError, ValueError, TypeError, KeyError, RecursionError):
            return None


def made_of(run: Finished, stores: Mapping[str, Store], name: str = "model.safetensors") -> str:
    """Hash (hex) of all that the answers depend on: weights of the run and its parts, features, dataset, candidates.
    name: of the run's file of weights."""
    weights = [run.folder / name, *(one.folder / "model.safetensors" for one in run.tree()[1:])]
    return identity(
        {
            "version": calibration.VERSION,
            "weights": [weights_hash([path], None) for path in weights],
            "features": {name: store.identity for name, store in sorted(stores.items())},
            "dataset": run.content,
            "candidates": to_json(run.options),
        }
    )


def measure(run: Finished, made_of: str, top: Top) -> DevAnswers:
    """The run's answers for the half of dev that early stopping did not use; of a head that trains on it, the other.

    Where next to no mention there is NIL, some golds count as absent from the KB (`calibration.hidden`).
    """
    half = "choose" if load_config(run.method, run.config).fits_on == "calibrate" else "calibrate"
    needs: dict[str, parquet.Kind] = {"id": "string", "gold": "integer", "gold_id": "string"}
    path = run.prepared / "mentions.parquet"
    table = parquet.read(path, filters=[("split", "=", "dev")], needs=needs).to_pydict()
    everyone = np.array(table["gold"], np.int64)
    golds = [
        gold_id if gold_id is not None else f"NIL {name}"
        for gold_id, name in zip(table["gold_id"], table["id"], strict=True)
    ]
    kept = [at for at, gold in enumerate(golds) if dev_half(gold) == half]
    gold = everyone[kept]
    own = int((gold < 0).sum())
    hidden = np.unique(
        [row for row, at in zip(gold.tolist(), kept, strict=True) if row >= 0 and calibration.hidden(golds[at])]
    ).astype(np.int64)
    if own > calibration.ENOUGH_NIL * len(kept):
        hidden = hidden[:0]
    listed: dict[str, list[Any]] = {name: [values[at] for at in kept] for name, values in table.items()}
    listed["given"] = _given(run.prepared, kept)
    first, best = [np.empty(0, np.int64)], [np.empty((0, calibration.DEPTH), np.float32)]
    for start in range(0, len(kept), CHUNK):
        rows, scores = top({name: values[start : start + CHUNK] for name, values in listed.items()}, hidden)
        first.append(rows[:, 0])
        best.append(np.pad(scores, ((0, 0), (0, calibration.DEPTH - scores.shape[1])), constant_values=-np.inf))
    nil = (gold < 0) | np.isin(gold, hidden)
    answers = Answers(
        *calibration.evidence(np.concatenate(best)),
        right=(np.concatenate(first) == gold) & ~nil,
        nil=nil,
        fold=np.array([calibration.bucket(golds[at], calibration.FOLDS, b"fold") for at in kept], np.int64),
    )
    return DevAnswers(
        answers,
        nil_share=float((everyone < 0).mean()) if len(everyone) else 0.0,
        part=f"dev, half: {half}",
        nil={"own": own, "hidden entities": len(hidden)},
        made_of=made_of,
    )


def _given(prepared: Path, kept: Sequence[int]) -> list[list[int] | None]:
    """The candidates that came with the kept mentions of dev."""
    path = prepared / "given.parquet"
    if not path.exists():
        return [None] * len(kept)
    splits = parquet.read(prepared / "mentions.parquet", ["split"])["split"].to_pylist()
    given = parquet.read(path, ["given"])["given"].to_pylist()
    dev = [listed for listed, split in zip(given, splits, strict=True) if split == "dev"]
    return [dev[at] for at in kept]
