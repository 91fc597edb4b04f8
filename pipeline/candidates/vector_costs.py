"""Whether vectors are compared or looked up in an index: by sizes alone, so that plan and work come to the same.

The unit is one comparison: a mention's vector with an entity's, and the choice of the best. A distance within an index
is slower by a factor, and both grow with the width of the vectors, which therefore does not decide.
"""

ADDED = 1_500
"""Comparisons that adding an entity to an index costs, for each binary digit of the number of entities."""
SEARCHED = 8_000
"""The same, of looking up a mention."""
HELD = 1 << 26
"""Numbers of a KB's vectors that a linker holds in memory, scaled and as float32: 256 MB.

So many multiply-adds compare one mention with all of them. Up to here that is short, above it the vectors are read and
scaled for each question anew.
"""


def search_pays(entities: int) -> bool:
    """Whether looking up a mention costs less than comparing it with all entities, where the index is there."""
    return SEARCHED * entities.bit_length() < entities


def index_pays(mentions: int, entities: int) -> bool:
    """Whether building an index and looking up all mentions, once, costs less than comparing them with all entities."""
    digits = entities.bit_length()
    return (ADDED * entities + SEARCHED * mentions) * digits < mentions * entities


def too_large_to_compare(entities: int, width: int) -> bool:
    """Whether comparing a single mention with all entities takes too long for whoever waits for it."""
    return entities * width > HELD
