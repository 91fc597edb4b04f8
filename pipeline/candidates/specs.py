"""From `--sources name,dense:clip_text` to the sources' specifications. No torch."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

from cache.inputs import Input, Side
from foundation.errors import UserError, nearest
from foundation.paths import Paths
from pipeline.candidates import contracts
from pipeline.candidates.contracts import (
    GIVEN_ORDERS,
    MERGES,
    NAME_KINDS,
    SCORERS,
    GivenSource,
    ListOptions,
    NameSource,
    RunSource,
    SourceSpec,
    TypedNameSource,
    VectorSource,
)
from pipeline.extraction.contracts import Extraction

NAMES = "folded"
"""How sources compare names: another word where the same names give other lists, so that older ones are built again."""
NAME_INDEX = 1
"""Raised where an index gives other lists of the same names, so that older ones are built again."""
GIVEN = "given"
PLAIN = (*NAME_KINDS, "name-of-type", GIVEN)
DENSE = "dense:"


def check(options: ListOptions) -> None:
    """Raises `UserError` for a value of `--sources`, `--scorer`, `--merge` or `--given-order` that does not exist."""
    split_sources(options.sources)
    for option, value, known in (
        ("--scorer", options.scorer, SCORERS),
        ("--merge", options.merge, MERGES),
        ("--given-order", options.given_order, GIVEN_ORDERS),
    ):
        if value not in known:
            raise UserError(f"{option} {value!r} is unknown{nearest(value, known)}")


def split_sources(sources: str) -> list[str]:
    """The sources one by one. Raises `UserError` for one that does not exist."""
    listed = [source.strip() for source in sources.split(",") if source.strip()]
    for source in listed:
        if source not in PLAIN and (source == DENSE or not source.startswith(DENSE)):
            raise UserError(
                f"--sources {source!r}: expected `name`, `name-exact`, `name-index`, `name-of-type`, `given` or "
                "`dense:FEATURE` (or `dense:RUN`, a run's folder), separated by commas"
            )
    return listed


def compares_names(sources: str) -> bool:
    """Whether one of the sources compares names. Raises `UserError`."""
    return not {*NAME_KINDS, "name-of-type"}.isdisjoint(split_sources(sources))


def indexes_names(sources: str, names: Callable[[], int]) -> bool:
    """Whether one of the sources looks names up in an index. names: gives the names of the KB, aliases among them.
    Raises `UserError`.
    """
    listed = split_sources(sources)
    return "name-index" in listed or ("name" in listed and names() > contracts.INDEX_ABOVE)


def vector_features(sources: str) -> list[str]:
    """The features whose vectors the sources compare. Raises `UserError`."""
    return [name for name in _dense(sources) if not _is_run(name)]


def runs(sources: str) -> list[str]:
    """The runs whose vectors the sources compare, by their folders as written. Raises `UserError`."""
    return [name for name in _dense(sources) if _is_run(name)]


def placed(sources: str, place: Callable[[str], str]) -> str:
    """The sources with each run's folder as `place` says. Raises `UserError`."""
    return ",".join(
        f"{DENSE}{place(name)}" if source.startswith(DENSE) and _is_run(name := source.removeprefix(DENSE)) else source
        for source in split_sources(sources)
    )


def _dense(sources: str) -> list[str]:
    return [source.removeprefix(DENSE) for source in split_sources(sources) if source.startswith(DENSE)]


def _is_run(name: str) -> bool:
    """Whether what follows `dense:` is a path; a feature's name has no slash."""
    return "/" in name


def candidate_sources(
    options: ListOptions, extraction: Extraction, paths: Paths, of_runs: Mapping[str, RunSource] = MappingProxyType({})
) -> tuple[SourceSpec, ...]:
    """The specifications of `--sources`; `extraction` holds the features of those that compare vectors, `of_runs` those
    of runs, by the folder as written. Raises `UserError`.
    """
    check(options)
    order: Literal["hashed", "trusted"] = "trusted" if options.given_order == "trusted" else "hashed"
    plain: dict[str, SourceSpec] = {
        **{kind: NameSource(kind=kind, scorer=options.scorer) for kind in NAME_KINDS},
        "name-of-type": TypedNameSource(scorer=options.scorer),
        GIVEN: GivenSource(order=order, accept_gold_place=options.accept_gold_place),
    }
    return tuple(
        plain[source]
        if source in plain
        else of_runs.get(source.removeprefix(DENSE)) or _vector_source(source, extraction, paths)
        for source in split_sources(options.sources)
    )


def reads_given(sources: str) -> bool:
    """Whether the lists that came with the dataset are among the sources. Raises `UserError`."""
    return GIVEN in split_sources(sources)


def _vector_source(source: str, extraction: Extraction, paths: Paths) -> VectorSource:
    feature = source.removeprefix(DENSE)

    def side(side: Side) -> Input:
        column = next((name for name in sorted(extraction.columns) if name.startswith(f"{side}.{feature}.")), None)
        if column is None:
            raise UserError(
                f"--sources {source}: the profile extracts {feature!r} for one side only; give it views of both sides"
            )
        return Input(
            side=side,
            feature=feature,
            view=column.rpartition(".")[2],
            store=paths.cache / extraction.features[feature].store,
            keys=paths.root / extraction.columns[column],
        )

    return VectorSource(mention=side("mention"), entity=side("entity"))
