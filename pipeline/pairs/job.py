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
    return PairJob(
        name=name,
        dataset=dataset,
        candidates=paths.root / candidates.file,
        out=dataset / f"pairs-{name}-{digest[:12]}.npz",
        digest=digest,
        inputs=pair_inputs(name, extraction, paths),
    )


def pair_inputs(name: str, extraction: Extraction, paths: Paths) -> tuple[PairInput, ...]:
    """What serves the roles of a pair feature, in the work folder `paths`. Raises `UserError` for an unknown one."""
    roles = pair_function(name).roles
    reads = extraction.inputs((SERVED[role] for role in roles), paths)
    return tuple(
        PairInput(**vars(read), role=role, output=SERVED[role].output) for read, role in zip(reads, roles, strict=True)
    )
