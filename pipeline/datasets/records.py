"""Mention, Entity, RawDataset: what a dataset's files say, whatever their layout."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

SPLITS = ("train", "dev", "test")
_NIL = ("", "nil", "none", "null", "nan", "na", "n/a", "<na>")


@dataclass(frozen=True, slots=True)
class Mention:
    """A phrase in a sentence that means an entity, with at most one picture.

    phrase: empty where the dataset gives none. span: character offsets (start, end) of the phrase in the sentence, end
    exclusive; None where it was not found.
    image: path relative to the mentions' image folder; None where none is listed.
    gold: entity id; None for NIL. A gold that is not in the KB is kept as given.
    group: a free label; metrics are reported for each of its values (the demo's regimes).
    given: ids of the candidates that came with the mention, best first, in the KB or not; None where none came.
    """

    id: str
    sentence: str
    phrase: str
    split: str
    gold: str | None = None
    span: tuple[int, int] | None = None
    image: str | None = None
    type: str | None = None
    group: str | None = None
    given: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Entity:
    """A node of the knowledge base.

    images: paths relative to the dataset's entity image folder, the first usable one stands for the entity.
    aliases: its further names (redirects, "also known as"), none of them twice.
    type: what kind of thing it is, from the KB, never from a mention whose gold it is; several kinds are joined by `|`.
    """

    id: str
    name: str
    attributes: str = ""
    description: str = ""
    images: tuple[str, ...] = ()
    type: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class RawDataset:
    """Mentions and KB of one dataset as its files give them, nothing dropped; preparing makes a `Dataset` of it.

    mention_images, entity_images: what the pictures' paths start from: a folder, or an HDF5 file that holds them.
    sources: the text files that were read, for the fingerprint. rejects: a line for each record that was left out, with
    its place and cause. spelled_nil: of each text that stood for NIL as a gold (`None`, `nan`), how often it did by
    split. notes: what the layout made of fields that are absent or that it does not read, a line each. kb_alone:
    whether there are no mentions because it is a KB alone.
    """

    name: str
    format: str
    mentions: list[Mention]
    entities: Sequence[Entity]
    mention_images: Path
    entity_images: Path
    sources: list[Path] = field(default_factory=list)
    rejects: list[str] = field(default_factory=list)
    spelled_nil: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    kb_alone: bool = False


def is_nil(gold: str) -> bool:
    """Whether a text in a gold's place says that the KB has no entity for the mention."""
    return gold.strip().lower() in _NIL


def with_nil(raw: RawDataset) -> RawDataset:
    """The dataset with NIL for golds that are written as text, such as `nil`, `None` or `nan`, unless an entity has
    that id; each spelling is counted.
    """
    written = {mention.gold for mention in raw.mentions if mention.gold is not None and is_nil(mention.gold)}
    ids = {entity.id for entity in raw.entities if entity.id in written} if written else set()
    spelled: Counter[tuple[str, str]] = Counter()
    mentions = []
    for mention in raw.mentions:
        if mention.gold is not None and is_nil(mention.gold) and mention.gold not in ids:
            spelled[mention.gold, mention.split] += 1
            mention = replace(mention, gold=None)
        mentions.append(mention)
    if not spelled:
        return raw
    counts: dict[str, dict[str, int]] = {}
    for (text, split), count in sorted(spelled.items()):
        counts.setdefault(text, {})[split] = count
    return replace(raw, mentions=mentions, spelled_nil=counts)
