"""What scaling, the correction for NIL mentions and the NIL threshold do on held-out mentions of dev, by run.

`python benchmarks/confidence.py [--share 0.2] RUN...` prints the rows of the table in docs/linking.md. A run's answers
for dev are computed once and kept beside it.
"""

import argparse
from pathlib import Path

from foundation.tables import as_text, text_table
from linking import Linker
from linking.contracts import Calibration, Effect


def pair(effect: Effect, figure: str, digits: int) -> str:
    """A figure without and with a step, in brackets where it is not applied."""
    text = f"{effect.before[figure]:.{digits}f} → {effect.after[figure]:.{digits}f}"
    return text if effect.applied else f"({text})"


def row(run: Path, own: Calibration, asked: Calibration) -> list[str]:
    """A run's cells. own, asked: for dev's share of NIL mentions, and for the given one."""
    scaling, kept = own.reliability, asked.reliability
    if scaling is None or kept is None:
        return [f"`{run.parent.name}`", *own.notes]
    return [
        f"`{run.parent.name}`",
        pair(scaling.scaling, "ECE", 3),
        pair(scaling.scaling, "Brier", 3),
        pair(kept.correction, "ECE", 3),
        pair(kept.threshold, "right", 3),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("runs", nargs="+", type=Path)
    options = parser.parse_args()
    rows = []
    for run in options.runs:
        own, asked = Linker.load(run).calibration, Linker.load(run, nil_share=options.share).calibration
        rows.append(row(run.resolve(), own, asked))
    share = f"at {100 * options.share:.0f} % NIL"
    header = ["run", "scaling: ECE", "Brier", f"correction {share}: ECE", f"threshold {share}: right"]
    print(as_text(text_table(header, rows)))


if __name__ == "__main__":
    main()
