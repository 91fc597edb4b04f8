"""Faces on real photographs: `python benchmarks/faces.py --onnx MODEL.onnx [--wikimel DIR] [--bare 300] [--json OUT]`.

speed: all pictures of the set through `faces` (MTCNN), then the found faces through `face_embedding` (the ONNX
recogniser) and `object_resnet` (a ResNet-18 of random weights, as costly as a trained one), each by the whole of
`pipeline.extraction.stage.extract`; beside them the same models bare, on prepared input of `--bare` of the pictures in
the same batches. The target is at most 1.2 × the bare model's time; the ratio of CPU seconds, loading included, is
less disturbed by other work. match: `face_match` alone on the test mentions with a found face on both sides, the best
entity with a face taken: among the candidate list, and among all of the KB.

The recogniser's profile below is that of foamliu's MobileFaceNet (ImageNet mean and std).
"""

import argparse
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _measure import now

from cache.inputs import Input, Side, Want
from foundation.paths import Paths
from pipeline.candidates.contracts import CandidateJob
from pipeline.candidates.stage import build_candidates
from pipeline.extraction.contracts import Extraction, ExtractionJob, Runtime
from pipeline.pairs.contracts import PairJob
from pipeline.pairs.job import pair_inputs
from pipeline.pairs.stage import build_pairs

BATCH = 32
VIEWS: tuple[tuple[Side, str], ...] = ("mention", "image"), ("entity", "images")


def write_profile(root: Path, recogniser: Path) -> Path:
    import torch
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    torch.manual_seed(0)
    (root / "resnet18").mkdir()
    save_file(resnet18().state_dict(), root / "resnet18" / "model.safetensors")
    (root / "resnet18" / "torchvision.json").write_text(json.dumps({"architecture": "resnet18"}))
    path = root / "faces.yaml"
    scaling = "mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]"
    path.write_text(
        "features:\n  faces: {model: package:facenet_pytorch/data}\n"
        f"  face_embedding: {{of: faces, model: '{recogniser}', {scaling}}}\n"
        "  object_resnet: {of: faces, model: resnet18}\n"
    )
    return path


def extracted(
    job: ExtractionJob, features: list[str], upstream: tuple[Input, ...] = ()
) -> tuple[Extraction, np.ndarray]:
    """The result of one extraction of all pictures of mentions and entities, and its seconds (see `now`)."""
    from pipeline.extraction import stage

    wants = tuple(Want(side=side, feature=name, view=view) for name in features for side, view in VIEWS)
    started = now()
    result = stage.extract(replace(job, wants=wants, upstream=upstream, columns=job.columns / features[0]))
    return result.extraction, now() - started


def bare(profile: Path, dataset: Path, roots: Mapping[Side, Path], count: int) -> dict[str, np.ndarray]:
    """Seconds per picture, by the clock and of CPU, of each model alone, on prepared input, and of decoding alone."""
    import torch

    from pipeline.datasets.images import Limits, decode
    from pipeline.extraction import units
    from pipeline.extractors import build
    from pipeline.profiles import profile as profiles

    loaded = profiles.load(str(profile))
    extractors: dict[str, Any] = {name: build(loaded.feature(name), loaded.source, None) for name in loaded.features}
    tables = units.read_tables(dataset)
    columns = [
        units.image_column(tables["mention"], roots["mention"]),
        units.images_column(tables["entity"], roots["entity"]),
    ]
    paths = sorted({source.path for column in columns for source in column.sources if source is not None})
    paths = paths[:: max(1, len(paths) // count)][:count]
    started = now()
    images = [decode(Path(path).read_bytes(), Limits()) for path in paths]
    seconds = {"decoding": (now() - started) / len(paths)}

    def timed(name: str, items: list[Any]) -> list[Any]:
        extractor = extractors[name]
        extractor.load("cpu")
        rows = []
        with torch.inference_mode():
            extractor(extractor.collate(items[:BATCH]))
            started = now()
            for start in range(0, len(items), BATCH):
                batch = items[start : start + BATCH]
                outputs = extractor(extractor.collate(batch))
                rows += [{name: values[i] for name, values in outputs.items()} for i in range(len(batch))]
            seconds[name] = (now() - started) / len(paths)
        return rows

    parents = timed("faces", [extractors["faces"].prepare(image) for image in images])
    for name in ("face_embedding", "object_resnet"):
        timed(
            name,
            [
                item
                for image, parent in zip(images, parents, strict=True)
                for _, item in extractors[name].cut(image, parent)
            ],
        )
    return seconds


def match(root: Path, dataset: Path, extraction: Extraction) -> dict[str, Any]:
    """How often the entity with the best face match is the gold, on test."""
    import pyarrow.parquet as parquet

    build_candidates(CandidateJob(dataset=dataset, out=root / "candidates.npz"))
    mentions = parquet.read_table(dataset / "mentions.parquet", columns=["gold", "split"]).to_pydict()
    gold, test = np.array(mentions["gold"]), np.array(mentions["split"]) == "test"
    inputs = pair_inputs("face_match", extraction, Paths(root))

    def values(ids: np.ndarray, name: str) -> np.ndarray:
        lists = root / f"{name}.npz"
        np.savez(lists, ids=ids, scores=np.zeros(ids.shape, np.float32))
        job = PairJob(
            name="face_match",
            dataset=dataset,
            candidates=lists,
            out=root / f"match-{name}.npz",
            digest="",
            inputs=inputs,
        )
        with np.load(build_pairs(job).file) as saved:
            return saved["values"]

    own = values(np.where(test & (gold >= 0), gold, -1)[:, None].astype(np.int32), "gold")[:, 0]
    both = np.flatnonzero(~np.isnan(own))
    shown = (
        parquet.read_table(dataset / "entities.parquet", columns=["image"])["image"]
        .is_valid()
        .to_numpy(zero_copy_only=False)
    )
    with np.load(root / "candidates.npz") as saved:
        lists = saved["ids"]
    everyone = np.full((len(gold), int(shown.sum())), -1, np.int32)
    everyone[both] = np.flatnonzero(shown)
    report: dict[str, Any] = {"mentions": len(both)}
    for name, ids in (("candidates", lists), ("all of the KB", everyone)):
        scores = values(ids, name.split()[0])[both]
        right = own[both, None] >= scores
        ties = (scores == own[both, None]).sum(1) > (ids[both] == gold[both, None]).sum(1)
        best = (right | np.isnan(scores)).all(1) & ~ties & (ids[both] == gold[both, None]).any(1)
        report |= {
            f"right, {name}": float(best.mean()),
            f"gold listed, {name}": float((ids[both] == gold[both, None]).any(1).mean()),
        }
    return report


def main() -> None:
    from pipeline.datasets.contracts import PrepareJob
    from pipeline.datasets.prepare import prepare

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument(
        "--wikimel", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data" / "wikimel"
    )
    parser.add_argument("--bare", type=int, default=300, help="pictures given to the bare models")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        profile = write_profile(root, options.onnx.absolute())
        dataset = prepare(PrepareJob(name="wikimel", data_dir=options.wikimel, out=root / "prepared"))
        roots: dict[Side, Path] = {"mention": dataset.mention_images, "entity": dataset.entity_images}
        job = ExtractionJob(
            profile=str(profile),
            dataset=root / "prepared",
            images=roots,
            wants=(),
            work=root,
            columns=root / "columns",
            runtime=Runtime(device="cpu", batch_size=BATCH),
        )
        seconds = bare(profile, root / "prepared", roots, options.bare)
        faces, spent = extracted(job, ["faces"])
        rows = faces.features["faces"].rows
        lines = [("faces", rows, spent, seconds["faces"])]
        boxes = faces.inputs([Want(side=side, feature="faces", view=view) for side, view in VIEWS], Paths(root))
        crops, spent = extracted(job, ["face_embedding", "object_resnet"], boxes)
        alone = seconds["face_embedding"] + seconds["object_resnet"]
        lines.append(("face_embedding + object_resnet", crops.features["face_embedding"].rows, spent, alone))
        report: dict[str, Any] = {
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "bare decoding, images/s": 1 / seconds["decoding"][0],
        }
        for label, count, taken, model in lines:
            ratio, cpu = taken / count / model
            report[label] = {
                "images": count,
                "images/s": count / taken[0],
                "bare model, images/s": 1 / model[0],
                "ratio": ratio,
                "ratio of CPU seconds": cpu,
            }
        report["match"] = match(root, root / "prepared", crops)
    print(json.dumps(report, indent=1))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
