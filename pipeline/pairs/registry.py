"""The pair functions by name, and what they read of a profile's features."""

from collections.abc import Collection

from cache.inputs import Want
from foundation.errors import UserError, nearest
from pipeline.pairs.base import PairFunction
from pipeline.pairs.cosine import CLIP_IT, CLIP_TI, CLIP_TI_BEST, CLIP_TI_MEAN, TEXT_CLS
from pipeline.pairs.faces import FACE_MATCH
from pipeline.pairs.names import NAME_SIMILARITY
from pipeline.pairs.objects import OBJECT_RELATION, OBJECT_RELATION_BEST, OBJECT_RELATION_MEAN
from pipeline.pairs.retrieval import RETRIEVAL
from pipeline.pairs.roles import SERVED
from pipeline.pairs.text_length import TEXT_LENGTH
from pipeline.pairs.words import WORD_OVERLAP
from pipeline.pairs.years import YEARS

_ALL: tuple[PairFunction, ...] = (
    CLIP_TI,
    CLIP_IT,
    TEXT_CLS,
    OBJECT_RELATION,
    NAME_SIMILARITY,
    FACE_MATCH,
    RETRIEVAL,
    WORD_OVERLAP,
    YEARS,
    TEXT_LENGTH,
    CLIP_TI_BEST,
    CLIP_TI_MEAN,
    OBJECT_RELATION_BEST,
    OBJECT_RELATION_MEAN,
)
FUNCTIONS = {function.name: function for function in _ALL}


def pair_function(name: str) -> PairFunction:
    """The function behind a pair feature. Raises `UserError` where there is none."""
    if name not in FUNCTIONS:
        raise UserError(f"no pair feature {name!r}{nearest(name, FUNCTIONS)}")
    return FUNCTIONS[name]


def features_of(name: str) -> list[str]:
    """The features that a pair feature reads, sorted. Raises `UserError` for an unknown pair feature."""
    return sorted({SERVED[role].feature for role in pair_function(name).roles})


def wants(name: str, available: Collection[str]) -> list[Want]:
    """What a pair feature reads of the cache, in the order of its roles.

    Raises `UserError` for an unknown pair feature, or where a feature it reads is not among the `available` ones of
    the profile.
    """
    lacking = sorted(set(features_of(name)) - set(available))
    if lacking:
        raise UserError(
            f"pair feature {name!r} needs {', '.join(lacking)}, which the profile does not have; "
            "add it there (docs/models.md)"
        )
    served = [SERVED[role] for role in pair_function(name).roles]
    return list(dict.fromkeys(Want(side=each.side, feature=each.feature, view=each.view) for each in served))


def possible(available: Collection[str]) -> list[str]:
    """The pair features that a profile with the features `available` can give."""
    return [name for name in FUNCTIONS if set(features_of(name)) <= set(available)]
