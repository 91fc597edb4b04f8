"""All targets of the campaign."""

from fuzz import arrays, datasets, pictures
from fuzz.target import Target

TARGETS: tuple[Target, ...] = (*datasets.TARGETS, *arrays.TARGETS, *pictures.TARGETS)
