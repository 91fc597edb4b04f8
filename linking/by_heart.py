"""Whether a run remembers the golds it was trained on, by its own figures: in another KB it knows none."""

from typing import Any

from foundation.checksums import check_run
from foundation.files import read_json
from heads.protocols import CANDIDATES, protocol_of
from linking.finished import Finished

FEWEST = 20  # mentions of a part, for its figure to say something
GAP = 0.1  # of H@1, between mentions whose gold is in train and others, from which on it is said


def notes(run: Finished, kb: str) -> list[str]:
    """Sentences for a user who links against another KB of this label."""
    lines = [
        f"--kb {kb}: confidence and the NIL threshold are those of the run's own KB",
    ]
    if any(one.config.get("frequency") for one in run.tree()):
        lines.append(
            f"--kb {kb}: the run reads how often an entity is gold in its training mentions (`frequency`); entities "
            "with other ids were never gold"
        )
    if (figures := measured(run)) is not None:
        known, new = figures
        lines.append(
            f"--kb {kb}: in test, the first entity is right for {known:.0%} of the mentions whose gold is in train, "
            f"and for {new:.0%} of the others: the run remembers golds, and of another KB it knows none"
        )
    return lines


def measured(run: Finished) -> tuple[float, float] | None:
    """H@1 over test mentions whose gold is in train, and over the others, as the run was measured; None where they are
    too few, or do not differ by `GAP`."""
    check_run(run.folder, "metrics.json")
    metrics: dict[str, Any] = read_json(run.folder / "metrics.json")
    for protocol, parts in metrics.get("test", {}).items():
        if protocol_of(protocol) == CANDIDATES:
            continue
        both = [parts.get(f"gold in train: {answer}", {}) for answer in ("yes", "no")]
        if any(part.get("n", 0) < FEWEST for part in both):
            return None
        known, new = (float(part["H@1"]) for part in both)
        return (known, new) if known - new >= GAP else None
    return None
