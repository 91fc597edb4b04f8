"""From what extraction and retrieval left to the job of a pair feature, and the digest that names its numbers."""

from pathlib import Path

from cache.identity import identity
from cache.inputs import keys_digest
from foundation.paths import Paths
from pipeline.candidates.contracts import CandidateLists
from pipeline.extraction.contracts import Extraction
from pipeline.pairs.contracts import PairInput, PairJob
from pipeline.pairs.registry import pair_function
from pipeline.pairs.roles import SERVED


def pair_job(name: str, extraction: Extraction, candidates: CandidateLists, dataset: Path, paths: Paths) -> PairJob:
    """The job that computes the pair feature `name` beside the candidate lists.

    extraction: of what `registry.wants` lists, in the work folder `paths`. dataset: prepared folder. The file is named
    by the candidate lists and by the identities and rows of the features. Raises `UserError` for an unknown pair
    feature.
    """
    function = pair_function(name)
    digest = identity(
        {
            "pair": name,
            "version": function.VERSION,
            "candidates": candidates.digest,
            "features": {feature: rows.identity for feature, rows in extraction.features.items()},
            "rows": {column: keys_digest(paths.root / file) for column, file in extraction.columns.items()},
        }
    )
    inputs = []
    for role in function.roles:
        served = SERVED[role]
        store = paths.cache / extraction.features[served.feature].store
        keys = paths.root / extraction.columns[served.column]
        inputs.append(PairInput(**vars(served), role=role, store=store, keys=keys))
    return PairJob(
        name=name,
        dataset=dataset,
        candidates=paths.root / candidates.file,
        out=dataset / f"pairs-{name}-{digest[:12]}.npz",
        digest=digest,
        inputs=tuple(inputs),
    )
