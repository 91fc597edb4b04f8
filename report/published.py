"""Figures as the papers print them, each with its protocol. They are never ours."""

from dataclasses import dataclass

from foundation.tables import TextTable, text_table

DATASETS = ("WikiMEL", "RichpediaMEL", "WikiDiverse")
FULL = "full KB"
DRIN_LISTS = "candidates, the gold an extra one"
DWE_LISTS = "100 candidates, the gold compared apart"


@dataclass(frozen=True)
class Published:
    """One method's line. figures: their names, `H@1 / MRR`. values: for each of `DATASETS` as many, "–" for none."""

    method: str
    figures: str
    values: tuple[str, str, str]
    protocol: str


PUBLISHED = (
    Published("MIMIC", "H@1 / MRR", ("87.98 / 91.82", "81.02 / 86.95", "63.51 / 73.44"), FULL),
    Published("DSMIP", "H@1", ("88.97", "85.03", "62.46"), FULL),
    Published("MMoE (2025; other entity text)", "H@1 / MRR", ("90.77 / 93.75", "85.51 / 89.86", "77.57 / 84.23"), FULL),
    Published("DRIN", "H@1", ("65.5", "–", "51.1"), DRIN_LISTS),
    Published("DWE+, properties", "H@1", ("44.9", "67.0", "47.1"), DWE_LISTS),
    Published("DWE+, static text", "H@1", ("73.0", "67.6", "52.5"), DWE_LISTS),
    Published("DWE+, dynamic text", "H@1", ("68.1", "65.1", "53.4"), DWE_LISTS),
    Published("DWE+, static text, λ = 16", "H@1", ("81.0", "–", "87.1"), "16 candidates"),
)


def published() -> TextTable:
    """All of them in one table that says what they are."""
    return text_table(
        ["method", "figures", *DATASETS, "protocol"],
        [[line.method, line.figures, *line.values, line.protocol] for line in PUBLISHED],
        "PUBLISHED figures: printed in the papers, not measured here",
        [
            "DRIN: 100 candidates (WikiDiverse 10, figures divided by candidate recall), the gold always the last of "
            "them at test time.",
            "Other protocols, other inputs (MIMIC fine-tunes its encoders; here every encoder is frozen): not to be "
            "read as lines of the tables above.",
        ],
    )
