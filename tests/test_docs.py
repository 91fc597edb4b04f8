"""What the docs show is true: their example extractor, head and shard reading run as printed; every file and option
they name is there."""

import json
import re
from dataclasses import replace
from pathlib import Path

import documents
import heads_world
import numpy as np
import pytest
import torch
from documents import PAGES, ROOT


def blocks(page: str, language: str = "python") -> list[str]:
    listed = documents.blocks(ROOT / "docs" / page)
    return [block.text for block in listed if block.language == language and block.mark == "run"]


def write_named(block: str, folder: Path) -> Path:
    """A block whose first line is a comment with its path, written below `folder`."""
    path = folder / block.splitlines()[0].removeprefix("# ")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block)
    return path


def test_the_example_extractor_extracts(tmp_path, monkeypatch):
    from PIL import Image
    from safetensors.torch import save_file
    from torchvision.models import get_model

    import pipeline.extractors as extractors
    from pipeline.profiles.profile import Feature

    monkeypatch.setattr(
        extractors,
        "__path__",
        [*extractors.__path__, str(write_named(blocks("adding-an-extractor.md")[0], tmp_path).parent)],
    )
    model = tmp_path / "model"
    model.mkdir()
    torch.manual_seed(0)
    convnext = get_model("convnext_tiny", weights=None)
    save_file(convnext.state_dict(), model / "model.safetensors")
    (model / "torchvision.json").write_text(
        json.dumps({"architecture": "convnext_tiny", "preprocess": {"crop_size": 64}})
    )
    assert "image_convnext" in extractors.names()
    made = extractors.build(
        Feature("image_convnext", "image_convnext", {"model": str(model)}, {}, True), tmp_path, None
    )
    made.load("cpu")
    picture = made.prepare(Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 80, 3), dtype=np.uint8)))
    with torch.inference_mode():
        row = made(picture[None].copy())["pooled"][0]
    assert row.shape == made.writes["pooled"].shape == (768,) and np.isfinite(row).all()


def test_the_example_head_trains_and_scores(tmp_path, monkeypatch):
    import heads
    import heads.config
    import heads.methods
    from heads import training

    for block in blocks("adding-a-head.md"):
        write_named(block, tmp_path)
    monkeypatch.setattr(heads.methods, "__path__", [*heads.methods.__path__, str(tmp_path / "heads" / "methods")])
    monkeypatch.setattr(heads.config, "__path__", [*heads.config.__path__, str(tmp_path / "heads" / "config")])
    assert "cosine" in heads.config.methods()
    job = heads_world.build_job(tmp_path / "world")
    config = {"epochs": 20, "batch_size": 32, "lr": 0.01}
    texts = tuple(one for one in job.inputs if one.role == "text")
    done = training.train(replace(job, method="cosine", config=config, inputs=texts))
    figures = done.metrics["test"]["full-kb"]["all"]
    assert figures["H@1"] > 3 / 40, "well above the chance of 1 in 40"


def test_a_shard_reads_with_plain_h5py_as_the_page_says(tmp_path):
    job = heads_world.build_job(tmp_path / "world")
    text = next(one for one in job.inputs if one.role == "text" and one.side == "entity")
    _, plain, library = blocks("cache-format.md")  # the first is run by tests/test_cache_format.py
    names = {
        "shard_path": next(text.store.glob("*.h5")),
        "column_path": text.keys,
        "store_folder": text.store,
    }
    exec(compile(plain, "cache-format.md", "exec"), names)
    exec(compile(library, "cache-format.md", "exec"), names)
    assert names["first"].shape[1:] == (16,) and names["pooled"].shape == (16,)
    row = [bytes(key) for key in np.load(text.keys)["keys"]].index(bytes(names["keys"][0]))
    if row < 4:
        np.testing.assert_array_equal(names["values"][row, : names["lengths"][row]], names["first"])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for path in re.findall(r"`((?:pipeline|heads|cache|linking|tests|benchmarks|docs)/[\w./-]+\.\w+)`", text):
        if "NAME" not in path and "<" not in path:
            assert (ROOT / path).exists() or path in ("heads/methods/cosine.py", "heads/config/cosine.py"), path


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_name_tasks_and_options_that_there_are(page):
    import tasks

    for block in documents.blocks(page):
        if block.language != "bash":
            continue
        for line in block.text.splitlines():
            command = line.partition("  #")[0].split()
            if "luigi" not in command:
                continue
            task = getattr(tasks, command[command.index("tasks") + 1])
            known = {name.replace("_", "-") for name, _ in task.get_params()}
            options = {word[2:] for word in command if word.startswith("--")} - {"module"}
            shortened = {
                option for option in options if sum(name.startswith(f"{option}-") for name in known) == 1
            }  # `--run` is `--run-folder`
            assert options <= known | shortened, (line, options - known - shortened)


def test_every_setting_in_the_getting_started_table_is_a_parameter():
    import tasks

    known = {name.replace("_", "-") for name, _ in tasks.TrainHead.get_params()}
    table = (ROOT / "docs" / "getting-started.md").read_text()
    named = set(re.findall(r"`--([\w-]+)`", table))
    assert named <= known | {"params", "help", "workers"}


def test_the_readmes_map_names_every_folder_of_code_and_only_what_there_is():
    table = (ROOT / "README.md").read_text().partition("## The map")[2].partition("\n## ")[0]
    named = set(
        re.findall(r"`(\w+)/`", "".join(line.split("|")[1] for line in table.splitlines() if line.count("|") > 2))
    )
    code = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert code <= named and all((ROOT / name).is_dir() or name == "artifacts" for name in named), (code, named)
