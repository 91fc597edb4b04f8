"""All targets of the campaign."""

from fuzz import arrays, datasets, descriptions, imported, kb, mentions, models, pictures, runs, settings, workfolder
from fuzz.target import Target

TARGETS: tuple[Target, ...] = (
    *datasets.TARGETS,
    *mentions.TARGETS,
    *pictures.TARGETS,
    *models.TARGETS,
    *settings.TARGETS,
    *descriptions.TARGETS,
    *runs.TARGETS,
    *workfolder.TARGETS,
    *arrays.TARGETS,
    *imported.TARGETS,
    *kb.TARGETS,
)
"""Of the short campaign and of the long one."""
LONG: tuple[Target, ...] = (*TARGETS, *models.SLOW, *mentions.OVER_A_RUN)
"""Of the long campaign."""
