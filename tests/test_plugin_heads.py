"""Heads from outside the package: everything that works with the package's own works with one from a file."""

import json

import commands
import pytest
import small_world

from foundation import plugins
from foundation.errors import UserError
from heads.base import make_head
from heads.config import load_config, methods, options

HEAD = '''
"""`likeness`: a projected cosine over pooled text vectors."""

import torch.nn.functional as F
from torch import nn

from heads.base import Head, Rows
from heads.config.base import HeadConfig, Size, both_sides
from heads.losses import in_batch_cross_entropy
from foundation.contracts import contract


@contract
class LikenessConfig(HeadConfig):
    width: Size = 8
    epochs: int = 2
    text_feature: str = "clip_text"

    space = {"lr": {"low": 1e-4, "high": 1e-2, "log": True}}

    def head_class(self):
        return Likeness

    def wants(self, available):
        views = {"mention": "mention_sep_sentence", "entity": "name_sep_attributes"}
        return both_sides("text", self.pick("text_feature", (), available), views, ["pooled"])


class Likeness(Head):
    units = ("doubled",)

    def __init__(self, config, shapes):
        super().__init__(config, shapes)
        self.sides = nn.ModuleDict(
            {side: nn.Linear(shapes["text.pooled"][-1], config.width) for side in ("mention", "entity")}
        )

    def encode_mentions(self, inputs):
        return Rows({"vector": F.normalize(self.sides["mention"](inputs["text.pooled"].float()), dim=-1)})

    def encode_entities(self, inputs):
        return Rows({"vector": F.normalize(self.sides["entity"](inputs["text.pooled"].float()), dim=-1)})

    def score_block(self, mentions, entities):
        score = mentions["vector"] @ entities["vector"].T
        return {"score": score, "doubled": 2 * score}

    def score_lists(self, mentions, entities, columns, pairs=None):
        score = (mentions["vector"][:, None] * entities["vector"][columns.clamp(min=0)]).sum(-1)
        return {"score": score, "doubled": 2 * score}

    def loss(self, batch):
        scores = self.score_block(self.encode_mentions(batch.mentions), self.encode_entities(batch.entities))["score"]
        value = in_batch_cross_entropy(10 * scores, batch.gold)
        return value, {"score": value}


method = LikenessConfig
'''


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder of a dataset, a profile and the plugin; a function that gives a command over them."""
    root = tmp_path_factory.mktemp("plugin")
    small_world.write(root / "data")
    small_world.profile(root)
    (root / "likeness.py").write_text(HEAD)
    patch = pytest.MonkeyPatch()
    patch.setenv(plugins.VARIABLE, "")

    def run(task, *more):
        given = ["--dataset", "small", "--data-dir", str(root / "data"), "--profile", str(root / "small.yaml")]
        given = [] if task == "LinkMentions" else given
        work = ["--work-dir", str(root / "work"), "--plugin", str(root / "likeness.py")]
        code, text = commands.run(task, *given, *work, *more)
        assert code == 0, text
        return text

    run("TrainHead", "--method", "likeness")
    yield root, run
    patch.undo()


def run_folder(root):
    (run,) = (root / "work" / "runs" / "small" / "likeness").iterdir()
    return run


def test_it_trains_by_its_name_and_its_code_names_the_run(world):
    root, _ = world
    assert "likeness" in methods()
    run = run_folder(root)
    assert json.loads((run / "run.json").read_text())["epochs"] == 2
    assert len(json.loads((run / "config.json").read_text())["plugin"]) == 64


def test_it_is_searched(world):
    root, run = world
    run("SearchHead", "--method", "likeness", "--n-trials", "2")
    (sweep,) = (root / "work" / "sweeps" / "small" / "likeness").iterdir()
    assert set(json.loads((sweep / "best.json").read_text())) == {"lr"}


def test_it_is_compared_with_other_methods(world):
    assert "likeness" in world[1]("CompareHeads", "--methods", "likeness,mimic")


def test_it_is_explained_with_its_units(world):
    root, run = world
    run("Explain", "--run-folder", str(run_folder(root)), "--sample", "2")
    (file,) = run_folder(root).glob("explain-*.jsonl")
    for line in file.read_text().splitlines():
        for candidate in json.loads(line)["candidates"]:
            assert candidate["units"]["doubled"] == pytest.approx(2 * candidate["score"], abs=1e-4)


def test_it_is_reported(world):
    root, run = world
    run("Report", "--methods", "likeness,mimic")
    (page,) = root.glob("work/reports/small/report-*/report.html")
    assert "likeness" in page.read_text()


def test_it_links_new_mentions(world):
    root, run = world
    line = {"id": "new", "sentence": "Ann Powers was seen.", "mention": "Ann Powers"}
    (root / "new.jsonl").write_text(json.dumps(line) + "\n")
    files = ["--input", str(root / "new.jsonl"), "--output", str(root / "linked.jsonl")]
    run("LinkMentions", "--run", str(run_folder(root)), *files)
    (answer,) = (root / "linked.jsonl").read_text().splitlines()
    assert json.loads(answer)["id"] == "new" and json.loads(answer)["entities"]


def test_a_changed_file_is_another_run(world):
    root, run = world
    before = run_folder(root)
    (root / "likeness.py").write_text(HEAD + "\n# changed\n")
    run("TrainHead", "--method", "likeness")
    (root / "likeness.py").write_text(HEAD)
    assert len(list(before.parent.iterdir())) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method = 3\n", "expected a subclass of heads.config.base.HeadConfig"),
        (
            "from heads.config.base import HeadConfig\nclass Mine(HeadConfig): pass\nmethod = Mine\n",
            "with a head_class",
        ),
    ],
)
def test_a_file_that_gives_no_head_is_refused_in_one_line(tmp_path, monkeypatch, text, message):
    monkeypatch.setenv(plugins.VARIABLE, "")
    file = tmp_path / "mine.py"
    file.write_text(text)
    plugins.register([file])
    with pytest.raises(UserError) as error:
        load_config("mine", {})
    assert message in str(error.value) and str(file) in str(error.value) and "\n" not in str(error.value)


def test_a_method_of_the_package_keeps_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, "")
    (tmp_path / "mimic.py").write_text(HEAD)
    plugins.register([tmp_path / "mimic.py"])
    with pytest.raises(UserError, match="the package's own method 'mimic'"):
        methods()


def test_its_options_are_checked_and_its_head_made_like_any_other(tmp_path, monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, "")
    (tmp_path / "likeness.py").write_text(HEAD)
    plugins.register([tmp_path / "likeness.py"])
    with pytest.raises(UserError, match=r"unknown key 'widht'; did you mean 'width'\?"):
        load_config("likeness", {"widht": 3})
    assert "width" in {option.name for option in options("likeness")}
    config = load_config("likeness", {"width": 3})
    head = make_head("likeness", config, {"text.pooled": (5,)})
    assert type(head).__name__ == "Likeness" and head.trainable == 2 * (5 * 3 + 3)
