"""The calibration of a run: read from beside it, or fitted on answers for dev, which are computed once."""

from typing import Any

from foundation.checksums import remembered, write_sealed
from foundation.contracts import to_json
from foundation.errors import Unwritable
from heads.contracts import WITHOUT_JOINT
from linking import answers, calibration
from linking.contracts import Calibration
from linking.finished import Finished
from linking.stores import Stores

CALIBRATION = "calibration"
"""Stem of the files beside a run: its answers for dev and what is fitted on them."""
WITHOUT = "calibration-without-joint"
"""The same of what the run's parts but `joint` answer."""


def fitted(
    run: Finished, stores: Stores, share: float | None, name: str, top: answers.Top
) -> tuple[Calibration, list[str]]:
    """Confidence and NIL threshold for a share of NIL mentions, None for dev's own; and sentences about it.

    The answers of `top` for dev are kept beside the run, as is the calibration for dev's own share. name: of their
    files.
    """
    weights = "model.safetensors" if name == CALIBRATION else WITHOUT_JOINT
    made_of, notes = answers.made_of(run, stores, weights), list[str]()
    of_dev, fits = (run.folder / f"{name}{ending}" for ending in (".npz", ".json"))
    kept = known = answers.DevAnswers.read(of_dev, made_of)
    if kept is None:
        if fits.exists():
            notes.append(f"{fits}: of an earlier version, or of other weights; fitted again")
        kept = answers.measure(run, made_of, top)
    scaling = calibration.calibrate(kept.answers, kept.nil_share if share is None else share)
    found = Calibration(version=calibration.VERSION, made_of=made_of, part=kept.part, nil=kept.nil, **vars(scaling))
    content: Any = to_json(found)
    try:
        if known is None:
            kept.write(of_dev)
        if share is None and remembered(fits) != content:
            write_sealed(fits, content)
    except Unwritable as error:
        notes.append(f"{error}; they are computed again at the next start")
    return found, notes
