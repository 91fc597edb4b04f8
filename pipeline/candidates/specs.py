"""From `--sources name,dense:clip_text` to the sources' specifications. No torch."""

from collections.abc import Callable, Mapping
from dataclasses import replace
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
    How,
    ListOptions,
    NameSource,
    RunSource,
    SourceSpec,
    TypedNameSource,
    VectorSource,
)
from pipeline.candidates.vector_costs import index_pays
from pipeline.extraction.contracts import Extraction

NAMES = "folded"
"""How sources compare names: another word where the same names give other lists, so that older ones are built again."""
NAME_INDEX = 1
"""Raised where an index gives other lists of the same names, so that older ones are built again."""
VECTOR_INDEX = 2
"""The same, of an index of vectors."""
GIVEN = "given"
PLAIN = (*NAME_KINDS, "name-of-type", GIVEN)
DENSE: Mapping[str, How] = {"dense:": "auto", "dense-exact:": "exact", "dense-index:": "index"}
"""How a source by vectors begins, and whether it compares all."""


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
        if source not in PLAIN and not _named(source)[1]:
            raise UserError(
                f"--sources {source!r}: expected `name`, `name-exact`, `name-index`, `name-of-type`, `given` or "
                "`dense:FEATURE` (or `dense:RUN`, a run; `dense-exact:`, `dense-index:`), separated by commas"
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
    listed = split_sources(sources)
    return ",".join(
        f"{kind}{place(name)}" if kind and _is_run(name) else source
        for source, (kind, name) in zip(listed, map(_named, listed), strict=True)
    )


def indexes_vectors(
    sources: str, sizes: Callable[[], tuple[int, int]], parts: Mapping[str, int] = MappingProxyType({})
) -> bool:
    """Whether one of the sources looks a dataset's mentions up in an index of vectors. sizes: gives the numbers of
    mentions and of entities. parts: of a run, by its folder as written, in how many sets of vectors it lists them.
    Raises `UserError`."""

    def by_index(how: How, name: str) -> bool:
        if how != "auto":
            return how == "index"
        mentions, entities = sizes()
        return index_pays(mentions // parts.get(name, 1), entities)

    return any(by_index(DENSE[kind], name) for kind, name in map(_named, split_sources(sources)) if kind)


def _named(source: str) -> tuple[str, str]:
    """How a source by vectors begins, and its feature or run; both empty for another source."""
    kind = next((kind for kind in DENSE if source.startswith(kind)), "")
    return (kind, source.removeprefix(kind)) if kind else ("", "")


def _dense(sources: str) -> list[str]:
    return list(dict.fromkeys(name for kind, name in map(_named, split_sources(sources)) if kind))


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

    def by_vector(source: str) -> SourceSpec:
        kind, name = _named(source)
        of_run = of_runs.get(name)
        spec = of_run if of_run is not None else _vector_source(source, name, extraction, paths)
        return replace(spec, how=DENSE[kind])

    return tuple(plain.get(source) or by_vector(source) for source in split_sources(options.sources))


def reads_given(sources: str) -> bool:
    """Whether the lists that came with the dataset are among the sources. Raises `UserError`."""
    return GIVEN in split_sources(sources)


def _vector_source(source: str, feature: str, extraction: Extraction, paths: Paths) -> VectorSource:
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
