"""Trains the demo's encoders, its detector and its face models from nothing, in two processes of one thread each, and
measures them on what they have not seen.

Two to three minutes on two cores, drawing included. Training draws its own things: no picture of the demo world is
seen, only its vocabulary is shared, and the celebrity classifier knows the looks and names of some of its people.
"""

import multiprocessing
import random
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from foundation.child import follow_parent
from foundation.errors import PassingError
from foundation.files import write_json
from pipeline.demo.contracts import DemoJob
from pipeline.demo.folder import whole_folder
from pipeline.demo.learning import Schedule

THINGS = 8000  # drawn for each process
SHARES = (("clip", "yolo"), ("bert", "resnet", "vit", "faces"))  # what each process trains: about equal times
OWN_DRAWINGS = ("faces", "yolo")  # these draw for themselves
SCHEDULES = {
    "bert": Schedule(120, 2.5e-3),
    "resnet": Schedule(150, 2e-3),
    "vit": Schedule(600, 2e-3),
    "faces": Schedule(250, 3e-3),
    "yolo": Schedule(250, 4e-3),
}
CLIP_SCHEDULES = (Schedule(220, 2e-3), Schedule(650, 2e-3))


def train_encoders(job: DemoJob) -> dict[str, Any]:
    """Write `bert/`, `clip/`, `resnet/`, `vit/`, `yolo/`, `face_*/` and `report.json` into `job.out`; returns the
    report.

    Raises `PassingError` when one of the processes is killed.
    Report: encoder → objective, steps, loss, seconds, held-out figures in percent; and the seconds of all together.
    """
    begun = time.perf_counter()
    with whole_folder(job.out) as place:
        try:
            with ProcessPoolExecutor(
                len(SHARES), mp_context=multiprocessing.get_context("spawn"), initializer=follow_parent
            ) as pool:
                parts = list(pool.map(_train_share, SHARES, [place] * len(SHARES), [job.seed] * len(SHARES)))
        except BrokenProcessPool:
            raise PassingError(
                "demo encoders: a training process was killed (out of memory?); free about 2 GB and run the same "
                "command again"
            ) from None
        report: dict[str, Any] = {name: entry for part in parts for name, entry in part.items()}
        report["seconds"] = round(time.perf_counter() - begun, 1)
        write_json(place / "report.json", report)
    return report


def _train_share(names: tuple[str, ...], folder: Path, seed: int) -> dict[str, Any]:
    """Train and measure some of the encoders in this process."""
    import torch
    import transformers

    from pipeline.demo import (
        held_out_boxes,
        held_out_faces,
        train_bert,
        train_clip,
        train_faces,
        train_vision,
        train_yolo,
    )
    from pipeline.demo.faces import celebrities
    from pipeline.demo.held_out import evaluate
    from pipeline.demo.pretext import Drawings, pictures, things
    from pipeline.demo.vocabulary import learn_pieces

    # One thread: two would wait for each other where other work shares the cores, and results depend on their number.
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    pieces = learn_pieces(seed)
    rng = random.Random(f"drawings {tuple(name for name in names if name not in OWN_DRAWINGS)} {seed}")
    shown = things(THINGS, rng)
    drawings = Drawings(shown, pictures(shown, rng))
    report = {}
    for name in names:
        begun = time.perf_counter(), time.process_time()
        if name == "clip":
            entry = train_clip.train(folder, pieces, drawings, CLIP_SCHEDULES, seed)
        elif name == "bert":
            entry = train_bert.train(folder, pieces, SCHEDULES[name], seed)
        elif name == "faces":
            entry = train_faces.train(folder, celebrities(seed), SCHEDULES[name], seed)
        elif name == "yolo":
            entry = train_yolo.train(folder, SCHEDULES[name], seed)
        else:
            entry = train_vision.train(name, folder, drawings, SCHEDULES[name], seed)
        entry |= {
            "seconds": round(time.perf_counter() - begun[0], 1),
            "cpu_seconds": round(time.process_time() - begun[1], 1),
        }
        if name == "faces":
            figures = held_out_faces.evaluate(folder, celebrities(seed), seed)
        elif name == "yolo":
            figures = held_out_boxes.evaluate(folder / "yolo", seed)
        else:
            figures = evaluate(name, folder, seed)
        report[name] = entry | {"held_out": figures}
    return report
