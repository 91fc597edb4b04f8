"""The entities of the demo KB: clusters that share a name and a region, so that neither tells its members apart.

Two shapes of cluster. In a *square* four entities of one kind and one name combine two sets of unseen facts with two
looks: text alone and picture alone each leave two. In a *row* every member has a look of its own, across one to three
kinds.
"""

import random
from dataclasses import dataclass, field

from pipeline.demo.looks import KINDS, TELLING, difference
from pipeline.demo.names import FIRST, full_name, near_name, surname

SQUARES = 0.38  # share of clusters
HELD_OUT = 0.2  # share of entities that are gold in dev and test only
FIRST_ID = 1001


@dataclass(frozen=True)
class DemoEntity:
    id: str
    name: str
    kind: str
    traits: dict[str, str]
    cluster: int
    held_out: bool

    def shares(self, other: "DemoEntity", stated: dict[str, str]) -> bool:
        """Whether facts stated of this entity, and its kind, are true of `other` too."""
        return self.kind == other.kind and all(other.traits.get(slot) == value for slot, value in stated.items())

    def looks_like(self, other: "DemoEntity") -> bool:
        """Whether pictures cannot tell the two apart."""
        return self.kind == other.kind and all(
            self.traits[slot] == other.traits[slot] for slot in KINDS[self.kind].visible
        )


@dataclass
class _Cluster:
    """Members (name, kind, traits) that so far have one name."""

    name: str
    region: str
    members: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def add(self, kind: str, traits: dict[str, str], exact: bool, rng: random.Random) -> None:
        name = self.name if exact else near_name(self.name, kind, rng)
        if kind == "person" and " " not in name:
            name = f"{rng.choice(FIRST)} {name}"
        self.members.append((name, kind, traits | {"region": self.region}))

    def new_traits(self, kind: str, rng: random.Random) -> dict[str, str]:
        """Traits that differ from every member of the kind in unseen facts and, at a glance, in looks."""
        while True:
            traits = KINDS[kind].draw_traits(rng)
            others = [known for _, known_kind, known in self.members if known_kind == kind]
            apart = all(difference(kind, traits, other) >= KINDS[kind].apart for other in others)
            if apart and all(sum(traits[slot] != other[slot] for slot in TELLING) >= 2 for other in others):
                return traits


def make_population(count: int, rng: random.Random) -> list[DemoEntity]:
    """`count` entities in clusters of four to six, in random order of identity numbers."""
    clusters: list[_Cluster] = []
    taken: set[str] = set()
    while sum(len(cluster.members) for cluster in clusters) < count:
        kind = "person" if rng.random() < 0.4 else rng.choice(list(KINDS))
        name = full_name(rng) if kind == "person" or (kind != "city" and rng.random() < 0.5) else surname(rng)
        if name in taken:
            continue
        taken.add(name)
        region = KINDS[kind].draw_traits(rng)["region"]
        grow = _square if rng.random() < SQUARES else _row
        clusters.append(grow(_Cluster(name, region), kind, rng))
    members = [(place, *member) for place, cluster in enumerate(clusters) for member in cluster.members][:count]
    numbers = rng.sample(range(FIRST_ID, FIRST_ID + count), count)
    return [
        DemoEntity(f"Q{number}", name, kind, traits, cluster, rng.random() < HELD_OUT)
        for number, (cluster, name, kind, traits) in zip(numbers, members, strict=True)
    ]


def _square(cluster: _Cluster, kind: str, rng: random.Random) -> _Cluster:
    visible = list(KINDS[kind].visible)
    one = KINDS[kind].draw_traits(rng)
    other = KINDS[kind].draw_traits(rng)
    while difference(kind, one, other) < KINDS[kind].apart or any(one[slot] == other[slot] for slot in TELLING):
        other = KINDS[kind].draw_traits(rng)
    for facts in (one, other):
        for look in (one, other):
            cluster.add(kind, facts | {slot: look[slot] for slot in visible}, True, rng)
    if rng.random() < 0.7:
        _add_others(cluster, kind, 1, rng)
    return cluster


def _row(cluster: _Cluster, kind: str, rng: random.Random) -> _Cluster:
    for place in range(rng.choice((3, 3, 4))):
        cluster.add(kind, cluster.new_traits(kind, rng), place < 2 or rng.random() < 0.8, rng)
    _add_others(cluster, kind, rng.choice((1, 1, 2)), rng)
    return cluster


def _add_others(cluster: _Cluster, kind: str, count: int, rng: random.Random) -> None:
    for other in rng.sample([name for name in KINDS if name != kind], count):
        cluster.add(other, cluster.new_traits(other, rng), rng.random() < 0.7, rng)
