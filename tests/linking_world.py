"""A small dataset with every method trained on it, in one process, so that models are imported once."""

import json
from pathlib import Path

import commands
import luigi
import small_world
import yaml

SMALL = {
    "mimic": {"epochs": 2, "d_t": 8, "d_v": 8, "d_c": 8, "batch_size": 8},
    "drin": {"epochs": 2, "width": 16},
    "dwe": {"epochs": 2, "width": 16, "joint_width": 16},
    "dsmip": {
        "d_t": 8,
        "d_v": 8,
        "d_c": 8,
        "gate_width": 8,
        "epochs": 1,
        "prompt_layers": 1,
        "experts": ["text", "multimodal"],
        "batch_size": 16,
    },
    "fused": {"epochs": 3, "hidden": 4, "members": 2},
}
METHODS = ("mimic", "drin", "dwe", "dsmip", "fused")


def train(root: Path, monkeypatch, method: str = "fused") -> dict[str, Path]:
    """Method → its run's folder; dataset, profile and work folder lie in `root`. One command: what `fused` combines is trained before it."""
    import tasks
    from foundation import child

    if not (root / "data").exists():
        small_world.write(root / "data", mentions=100)
    with open(
        root / "data" / "mentions.jsonl", "a"
    ) as handle:  # every entity is a gold of dev: some of them are hidden for the calibration
        handle.writelines(
            json.dumps({**small_world.mention(n), "id": f"d{n}", "split": "dev"}) + "\n" for n in range(36)
        )
    path = small_world.profile(root)
    said = yaml.safe_load(path.read_text())
    clip = said["features"]["clip_text"]
    said["features"] |= {"clip_layers_text": dict(clip), "clip_layers_image": {"model": clip["model"]}}
    said["heads"] = SMALL
    path.write_text(yaml.safe_dump(said))
    monkeypatch.setattr(child, "run", commands.call)
    asked = tasks.TrainHead(
        method=method,
        dataset="small",
        data_dir=str(root / "data"),
        profile=str(path),
        work_dir=str(root / "work"),
        candidates=8,
        sources="name,dense:clip_text",
    )
    assert luigi.build([asked], local_scheduler=True, log_level="ERROR", workers=1)
    runs = {}
    for receipt in (root / "work" / "receipts").glob("TrainHead-*.json"):
        made = json.loads(receipt.read_text())
        if made["request"]["config"].get("stage", "gate") == "gate":
            runs[made["request"]["method"]] = root / "work" / made["result"]["run"]
    return runs
