"""What building candidate lists is given and gives back: sources, the job, the lists. No torch."""

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cache.inputs import Input
from foundation.contracts import contract

SCORERS = ("token_set_ratio", "token_sort_ratio", "ratio", "partial_ratio", "WRatio")
"""rapidfuzz's similarities that names can be compared by."""
MERGES = ("round-robin", "append")
"""How several sources become one list.

round-robin: by rank, every source's first, then every source's second, …; append: the first source whole, then what the
next adds, …
"""

NameKind = Literal["name", "name-exact", "name-index"]
NAME_KINDS: tuple[NameKind, ...] = ("name", "name-exact", "name-index")
INDEX_ABOVE = 200_000
"""Names of a KB, aliases among them, above which the source `name` takes an index."""
How = Literal["auto", "exact", "index"]
GIVEN_ORDERS = ("hashed", "trusted")
"""The order of lists that came with the dataset.

hashed: of a hash of mention and entity, so that an entity's place says nothing; trusted: as they came, where a
retriever made it.
"""


@contract
class NameSource:
    """The entities whose names are most like the phrase. scorer: one of `SCORERS`.

    kind: `name-exact` compares every name, `name-index` those that an index finds; `name` takes the index for large
    KBs.
    """

    kind: NameKind = "name"
    scorer: str = "token_set_ratio"


@contract
class TypedNameSource:
    """The same, among the entities of the mention's type."""

    kind: Literal["name-of-type"] = "name-of-type"
    scorer: str = "token_set_ratio"


@contract
class GivenSource:
    """The lists that came with the dataset.

    order: one of `GIVEN_ORDERS`. accept_gold_place: whether lists are taken in their order although the gold's place in
    it gives the answer away.
    """

    kind: Literal["given"] = "given"
    order: Literal["hashed", "trusted"] = "hashed"
    accept_gold_place: bool = False


@contract
class VectorSource:
    """The entities whose vectors are nearest by cosine.

    mention, entity: the same feature on both sides. output: the one that holds the vectors. how: whether all are
    compared or an index is used; auto: by what both cost.
    """

    kind: Literal["dense"] = "dense"
    mention: Input
    entity: Input
    output: str = "pooled"
    how: How = "auto"


@contract
class RunSource:
    """The entities whose vectors are nearest those of the mentions, vectors being a trained run's.

    run: its folder, relative to the work folder. files: .npz of the run's own vectors, then of those of each run that
    left a fold of train out, see `by_run.RunVectors`; a fold's mentions are listed by the run that left it out.
    by_heart: whether there is none such, and training mentions are listed by a run that learned from them. how: as for
    `VectorSource`.
    """

    kind: Literal["run"] = "run"
    run: str
    files: tuple[Path, ...]
    by_heart: bool = False
    how: How = "auto"


SourceSpec = Annotated[
    NameSource | TypedNameSource | GivenSource | VectorSource | RunSource, Field(discriminator="kind")
]


@contract
class ListOptions:
    """How candidate lists are built, in a user's words.

    k: entities per mention. sources: comma-separated `name`, `name-exact`, `name-index`, `name-of-type`, `given`,
    `dense:FEATURE` or `dense:RUN` (also `dense-exact:`, `dense-index:`). scorer: rapidfuzz scorer of the name sources.
    merge: `round-robin` or `append`. given_order: of the lists that came with the dataset, `hashed` or `trusted` (as
    they came); accept_gold_place: take them so although the gold's place gives the answer away.
    """

    k: int = 100
    sources: str = "name"
    scorer: str = "token_set_ratio"
    merge: str = "round-robin"
    given_order: str = "hashed"
    accept_gold_place: bool = False


@contract
class CandidateJob:
    """Candidate lists to build for every mention of a prepared dataset.

    dataset: folder with mentions.parquet, entities.parquet and, for `GivenSource`, given.parquet. out: .npz file to
    write. k: entities per mention. merge: one of `MERGES`. workers: threads, -1 for one per core. digest: names the
    lists in everything made from them; None takes the SHA-256 of the file.
    """

    dataset: Path
    out: Path
    sources: tuple[SourceSpec, ...] = (NameSource(),)
    k: int = 100
    merge: str = "round-robin"
    workers: int = -1
    digest: str | None = None


@contract
class CandidateLists:
    """Candidate lists of M mentions on disk.

    file: .npz with ids (M, k) int32, scores (M, k) float32 and retrieved as in `RankedLists`, gold_rank (M,) int64, the
    gold's rank from 1 in the whole retrieval order (-1: no gold in the KB, or no source ranks it), and forced, the
    names of the splits in `gold_forced_in`. In a receipt its path is relative to the work folder.
    mentions, entities: M and the size of the KB.
    recall: label of a source, or `merged` -> split -> `n`, the number of mentions with a gold in the KB, and depth
    (`1`, `5`, …) -> share of them whose gold is among the first so many.
    seconds, mentions_per_second: by label. per_mention: mean number of candidates by split and of `all` mentions
    (table 1 of DRIN); empty in receipts of before. notes: what a user should know of the lists, a line each.
    gold_forced_in: splits in which every list that came with a mention holds its gold: figures over them are no
    retriever's.
    """

    file: Path
    digest: str
    k: int
    merge: str
    mentions: int
    entities: int
    recall: Mapping[str, Mapping[str, Mapping[str, int | float]]]
    seconds: Mapping[str, float]
    mentions_per_second: Mapping[str, float]
    per_mention: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    gold_forced_in: tuple[str, ...] = ()
