"""Pair features: numbers per (mention, candidate), one file per candidate list and identities read, rebuilt whole."""

import io
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cache.inputs import Side, Want
from cache.store import Store
from cache.table import Table
from foundation.errors import UserError, nearest
from foundation.files import write_atomic
from pipeline.pairs import texts
from pipeline.pairs.scores import (
    MEASURES,
    RETRIEVAL,
    Objects,
    Rows,
    cosines,
    face_match,
    name_similarity,
    object_relation,
    retrieval,
)
from pipeline.pairs.texts import Texts

VERSION = 1  # raised by hand when the same inputs give other numbers
MENTION_OBJECTS, ENTITY_OBJECTS = 3, 1  # DRIN's release: the best boxes of a mention's and of an entity's picture

_SENTENCE, _ENTITY_TEXT = ("mention", "sentence"), ("entity", "name_sep_attributes")
_MENTION_IMAGE, _ENTITY_IMAGE = ("mention", "image"), ("entity", "image")
# Pair feature → (side, view), feature and outputs that it reads of the profile. DRIN, section 3.2: ti, it, tt and ii.
READS: Mapping[str, tuple[tuple[tuple[Side, str], str, tuple[str, ...]], ...]] = {
    "clip_ti": ((_SENTENCE, "clip_text", ("pooled",)), (_ENTITY_IMAGE, "clip_image", ("pooled",))),
    "clip_it": ((_MENTION_IMAGE, "clip_image", ("pooled",)), (_ENTITY_TEXT, "clip_text", ("pooled",))),
    "text_cls": ((_SENTENCE, "text_tokens", ("pooled",)), (_ENTITY_TEXT, "text_tokens", ("pooled",))),
    "object_relation": tuple(
        (side, feature, ()) for side in (_MENTION_IMAGE, _ENTITY_IMAGE) for feature in ("objects", "object_resnet")
    ),
    "name_similarity": (),
    "face_match": (
        (_MENTION_IMAGE, "face_embedding", ("vectors",)),
        (("entity", "images"), "face_embedding", ("vectors",)),
    ),
    "retrieval": (),
    "word_overlap": (),
    "years": (),
    "text_length": (),
}


def names() -> list[str]:
    """Names of the pair features."""
    return list(READS)


def wants(name: str, profile_features: Collection[str]) -> list[Want]:
    """What the pair feature reads of the cache.

    Raises `UserError` for an unknown name, or where the profile lacks a feature it needs.
    """
    if name not in READS:
        raise UserError(f"no pair feature {name!r}{nearest(name, READS)}")
    lacking = sorted({feature for _, feature, _ in READS[name]} - set(profile_features))
    if lacking:
        raise UserError(
            f"pair feature {name!r} needs {', '.join(lacking)}, which the profile does not have; add it there (docs/models.md)"
        )
    return [Want(side=side, feature=feature, view=view) for (side, view), feature, _ in READS[name]]


def possible(profile_features: Collection[str]) -> list[str]:
    """The pair features that a profile with these features can give."""
    return [name for name, needs in READS.items() if {feature for _, feature, _ in needs} <= set(profile_features)]


class _Inputs:
    """The job's inputs, opened when asked for."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.job = job

    def __call__(self, side: str, feature: str, view: str, output: str) -> Rows:
        """Raises `UserError` where the job has no such input, or its column is not the dataset's."""
        entry = next(
            (e for e in self.job["inputs"] if (e["side"], e["feature"], e["view"]) == (side, feature, view)), None
        )
        if entry is None:
            raise UserError(
                f"{feature} under view {view!r} of the {side} side is not among the inputs; run ExtractFeatures for this pair feature"
            )
        with np.load(entry["keys"], allow_pickle=False) as saved:
            table = Table(
                Store.open(Path(entry["store"])), output, np.ascontiguousarray(saved["keys"]), saved["present"]
            )
            return Rows(table, saved["counts"].astype(np.int64) if "counts" in saved.files else None)


def compute(job: Mapping[str, Any]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The values of the job's pair feature, (M, k) or (M, k, S) float32 with NaN where masked, and the names of the S."""
    folder = Path(job["dataset"])
    with np.load(job["candidates"], allow_pickle=False) as saved:
        ids, scores = saved["ids"], saved["scores"]
    mentions, entities = (
        pq.ParquetFile(folder / "mentions.parquet").read(),
        pq.ParquetFile(folder / "entities.parquet").read(),
    )
    if len(ids) != len(mentions) or ids.max(initial=-1) >= len(entities):
        raise UserError(
            f"{job['candidates']}: lists do not fit the {len(mentions)} mentions and {len(entities)} entities of {folder}; build them again"
        )
    read = {name: mentions[name].to_pylist() for name in ("phrase", "sentence", "start", "end")}
    kb = Texts.of({name: entities[name].to_pylist() for name in ("name", "attributes", "description")})
    return numbers(job["name"], read, kb, ids, scores, _Inputs(job), job.get("workers", -1))


def numbers(
    name: str,
    mentions: Mapping[str, Sequence[Any]],
    kb: Texts,
    ids: np.ndarray,
    scores: np.ndarray,
    rows: Callable[[str, str, str, str], Rows],
    workers: int = -1,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """As `compute`. mentions: columns phrase, sentence, start and end of the M mentions; ids, scores (M, k): the lists; rows: of (side, feature, view,
    output)."""
    if name not in READS:
        raise UserError(f"no pair feature {name!r}{nearest(name, READS)}")
    if name == "retrieval":
        return retrieval(scores, ids), RETRIEVAL
    if name == "name_similarity":
        return name_similarity(mentions["phrase"], kb.names, ids, workers), MEASURES
    if name == "years":
        return texts.years(mentions["sentence"], kb, ids), texts.YEARS
    if name == "word_overlap":
        return texts.word_overlap(texts.around(mentions), kb, ids), texts.WORDS
    if name == "text_length":
        return texts.text_length(kb, ids), ()
    if name == "object_relation":
        read = (("object_resnet", "vectors"), ("object_resnet", "box"), ("objects", "confidences"))
        most = ((_MENTION_IMAGE, MENTION_OBJECTS), (_ENTITY_IMAGE, ENTITY_OBJECTS))
        both = (
            Objects(*(rows(side, feature, view, output) for feature, output in read), number)
            for (side, view), number in most
        )
        return object_relation(*both, ids), ()
    ours, theirs = (rows(side, feature, view, outputs[0]) for (side, view), feature, outputs in READS[name])
    return (face_match if name == "face_match" else cosines)(ours, theirs, ids), ()


def build(job: dict[str, Any]) -> dict[str, Any]:
    """Compute one pair feature and write it to `job["out"]` (.npz: values, names) as a whole.

    job: name, dataset (prepared folder), candidates (npz of ids and scores), inputs (side, feature, view, store, keys each), out, workers (threads).
    Returns the shape, the names, the share of listed pairs that have numbers, and seconds. Raises `UserError`.
    """
    started = time.monotonic()
    values, parts = compute(job)
    with np.load(job["candidates"], allow_pickle=False) as saved:
        listed = int((saved["ids"] >= 0).sum())
    sink = io.BytesIO()
    np.savez(sink, values=values, names=np.array(parts, "U"))
    write_atomic(Path(job["out"]), sink.getvalue())
    present = int((~np.isnan(values if values.ndim == 2 else values[:, :, 0])).sum())
    return {
        "name": job["name"],
        "shape": list(values.shape),
        "names": list(parts),
        "listed": listed,
        "present": round(present / max(1, listed), 6),
        "seconds": round(time.monotonic() - started, 3),
    }
