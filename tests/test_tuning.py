"""Encoders whose upper blocks are trained with a head, from a folder of data to linked mentions."""

import json
from pathlib import Path

import commands
import pyarrow.parquet as pq
import pytest
import small_world
import torch
import yaml
from torch import nn

import mel_cache
from cache.store import Store
from experiments import cuts, jobs, spaces
from foundation.errors import UserError
from heads.base import Head, Ragged
from heads.checkpoint import read_tensors
from heads.config import load_config, naming_options, nested, option, to_json
from heads.config.space import tune_space
from heads.towers import Tuned, of_texts, own_tokens, shapes_of
from heads.tune import HEAD, TOWERS, Tune
from pipeline.profiles import profile as profiles

pytest.importorskip("peft")
BOTH = {"text": {"block": 1}, "image": {"block": 1, "how": "whole", "shared": False}}
OWN: dict[str, dict[str, object]] = {
    "mimic": {"d_t": 8, "d_v": 8, "d_c": 8},
    "drin": {"width": 16, "edges": ["tt"]},
    "dwe": {"width": 16, "joint_width": 16, "image": "whole"},
    "bert": {},
    "clip": {},
    "ghmfc": {},
    "dual": {},
    "dsmip": {"prompts": False, "d_t": 8, "d_v": 8, "d_c": 8, "gate_image": None},
}
TUNES = {
    "mimic": BOTH,
    "drin": {"text": {"block": 1, "how": "norms"}},
    "dwe": {"text": {"block": 0, "how": "whole"}},
    "bert": {"text": {"block": 1, "how": "lora", "rank": 2}},
    "clip": {"text": {"block": 1, "how": "prompts", "prompts": 2}, "image": {"block": 0, "how": "norms"}},
    "ghmfc": {"text": {"block": 1, "checkpointing": True}},
    "dual": BOTH,
    "dsmip": BOTH,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folder of a data set and a profile whose lists are made."""
    root = tmp_path_factory.mktemp("tuning")
    small_world.write(root / "data", mentions=60)
    small_world.profile(root)
    return root


def places(root: Path) -> list[str]:
    named = {"dataset": "small", "data-dir": root / "data", "profile": root / "small.yaml", "work-dir": root / "work"}
    named |= {"candidates": 8, "sources": "name,dense:clip_text"}
    return [word for name, value in named.items() for word in (f"--{name}", str(value))]


def train(root: Path, method: str, task: str = "TrainHead", **params) -> tuple[object, str]:
    given = {"epochs": 2, "batch_size": 8, "lr": 0.01, **OWN[method], **params}
    return commands.run(task, "--method", method, "--params", json.dumps(given), *places(root))


def run_of(said: str) -> Path:
    return Path(next(line for line in said.splitlines() if line.startswith("run:")).split()[1])


def parts_of(run: Path) -> Path:
    """The run that trained the blocks of a run."""
    depends = json.loads((run / "config.json").read_text())
    from cache.identity import identity

    return run.parent / identity(depends["heads"]["tuned"])[:16]


@pytest.fixture(scope="module")
def trained(world):
    """Method → the run of a head that was trained with its encoders' blocks."""
    runs = {}
    for method, tune in TUNES.items():
        code, said = train(world, method, tune=tune)
        assert code == 0, said
        runs[method] = run_of(said)
    return runs


@pytest.mark.parametrize("method", TUNES)
def test_a_head_is_trained_with_blocks_of_its_encoders(trained, method):
    run = trained[method]
    tensors, state = read_tensors(parts_of(run) / "model.safetensors")
    names = {name.removeprefix(TOWERS).split(".")[0] for name in tensors if name.startswith(TOWERS)}
    kinds = {"text"} if "image" not in TUNES[method] else {"text", "image"}
    assert {name.partition("_")[0] for name in names} == kinds
    assert (state["config"]["live"] and not (parts_of(run) / "cache").exists()) or method
    own, _ = read_tensors(run / "model.safetensors")
    for name, tensor in own.items():
        assert torch.equal(tensor, tensors[f"{HEAD}{name}"]), "the head is that of the stage that trained it"
    assert json.loads((run / "metrics.json").read_text())["test"]["full-kb" if method != "drin" else "candidates"]


@pytest.mark.parametrize("method", ["mimic", "clip", "bert", "dual", "dsmip"])
def test_new_mentions_get_the_answers_of_the_runs_own_predictions(world, trained, tmp_path, method):
    lines = (world / "data" / "mentions.jsonl").read_text().splitlines()
    own = [line for line in lines if json.loads(line)["split"] == "test"]
    (tmp_path / "in.jsonl").write_text("\n".join(own) + "\n")
    job = mel_cache.LinkJob(
        run=trained[method], input=tmp_path / "in.jsonl", output=tmp_path / "out.jsonl", images=world / "data"
    )
    mel_cache.link(job)
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    predicted = pq.read_table(trained[method] / "predictions.parquet").to_pydict()
    scores = dict(zip(predicted["id"], predicted["top_score"], strict=True))
    assert len(answers) == len(own) == 15
    for answer, line in zip(answers, own, strict=True):
        found = [entity["score"] for entity in answer["entities"]]
        assert found == pytest.approx(scores[json.loads(line)["id"]][:5], abs=1e-3)


def test_the_features_are_those_of_the_blocks_as_they_were_trained(trained):
    """Tuned features have the rows of the frozen encoder's, and other values; pictures of either side have a store of
    their own, since each has a copy of the blocks."""
    stage = parts_of(trained["mimic"])
    stores = [Store.open(folder) for folder in (stage / "cache").iterdir()]
    assert sorted(store.feature for store in stores) == ["clip_image@tuned", "clip_image@tuned", "clip_text@tuned"]
    cache = trained["mimic"].parents[3] / "cache"
    for store in stores:
        whole = store.feature.partition("@")[0]
        frozen = next(Store.open(folder) for folder in cache.iterdir() if folder.name.startswith(f"{whole}-"))
        assert store.outputs == {name: frozen.outputs[name] for name in ("tokens", "pooled")}


def job(profile: str, method: str, **params) -> jobs.HeadSpec:
    return jobs.head_spec(method, json.dumps(params), profiles.load(profile))


@pytest.mark.parametrize(
    ("method", "params", "said"),
    [
        ("mimic", {"live": True}, "live: nothing is tuned"),
        ("bert", {"tune": {"image": {"block": 1}}}, "tune.image: the head reads no image feature"),
        ("mimic", {"tune": {"text": {"block": 1, "feature": "text_tokens"}}}, "the head does not read it as text"),
        ("mimic", {"tune": {"text": {"block": -1}}}, "tune.text.block = -1"),
        ("mimic", {"tune": {"text": {"block": 1, "how": "adapter"}}}, "tune.text.how = 'adapter'"),
        ("mimic", {"tune": {"text": {"blok": 1}}}, "unknown key 'blok'"),
        ("mimic", {"tune": {"sound": {"block": 1}}}, "tune.sound"),
    ],
)
def test_what_cannot_be_tuned_is_refused_in_one_line(world, method, params, said):
    with pytest.raises(UserError) as error:
        job(str(world / "small.yaml"), method, **params)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_cut_above_all_blocks_is_refused(world):
    code, said = train(world, "bert", tune={"text": {"block": 2}})
    assert code != 0 and "nothing above it is tuned" in said


def test_what_else_a_role_reads_is_read_beside(world):
    tune = {"text": {"block": 1}}
    whole = job(str(world / "small.yaml"), "drin", tune=tune)
    stage = job(str(world / "small.yaml"), "drin", tune=tune, live=True)
    of = {(want.side, want.feature): want.outputs for want in whole.wanted if want.role == "text"}
    assert of == {
        ("mention", "text_tokens@tuned"): ("tokens", "pooled"),
        ("mention", "text_tokens"): ("offsets",),
        ("entity", "text_tokens@tuned"): ("pooled",),
    }
    of = {(want.side, want.feature): (want.outputs, want.made) for want in stage.wanted if want.role == "text"}
    assert of == {
        ("mention", "text_tokens@1"): (("states",), ("tokens", "pooled")),
        ("mention", "text_tokens"): (("offsets",), ()),
        ("entity", "text_tokens@1"): (("states",), ("pooled",)),
    }
    assert whole.runs["tuned"][1]["live"] and "tuned" not in stage.runs


def test_runs_without_tuning_keep_their_names():
    """Nor does an option of `tune` that came later name one at its default."""
    assert not {"tune", "live"} & set(naming_options("mimic", to_json(load_config("mimic", {}))))

    of = {
        given.get("prompts"): naming_options("bert", to_json(load_config("bert", {"tune": {"text": given}})))
        for given in ({"block": 1}, {"block": 1, "prompts": 3})
    }
    assert "prompts" not in of[None]["tune"]["text"] and of[3]["tune"]["text"]["prompts"] == 3


def test_prompts_are_not_exported(trained, tmp_path):
    code, said = commands.run("ExportTower", "--run", str(trained["clip"]), "--to", str(tmp_path / "out"))
    assert code != 0 and "it was tuned with `how: prompts`" in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_a_dot_leads_into_an_option():
    given = {"tune": {"text": {"block": 3}}, "tune.text.lr": 0.5, "lr": 1.0}
    assert nested(given) == {"tune": {"text": {"block": 3, "lr": 0.5}}, "lr": 1.0}
    assert given["tune"] == {"text": {"block": 3}}, "what was given stays as it is"
    config = load_config("mimic", given)
    assert option(config, "tune.text.lr") == 0.5 and option(config, "lr") == 1.0
    assert option(load_config("mimic", {"tune": {"text": {"block": 3}}}), "tune.text.lr") == 1e-4


def test_a_search_draws_the_options_of_towers(world):
    plan = spaces.plan("mimic", json.dumps({"tune": BOTH}), "", profiles.load(str(world / "small.yaml")))
    assert plan.head.config["live"] and "live" not in plan.given
    assert "tune.text.prompts" in tune_space({"text": Tune(block=1, how="prompts")})
    drawn = {name for name in plan.space if name.startswith("tune.")}
    assert drawn == {"tune.text.lr", "tune.text.rank", "tune.image.lr"}
    assert spaces.drawn(plan.space, load_config("mimic", plan.head.config))["tune.image.lr"] == 2e-5
    assert spaces.without({"tune": {"text": {"lr": 1, "rank": 2}}, "lr": 3}, ["tune.text.lr", "lr"]) == {
        "tune": {"text": {"rank": 2}}
    }
    with pytest.raises(UserError, match="changes the features that are read"):
        file = world / "space.yaml"
        file.write_text(yaml.safe_dump({"tune.text.block": {"choices": [0, 1]}}))
        spaces.plan("mimic", json.dumps({"tune": BOTH}), str(file), profiles.load(str(world / "small.yaml")))


def test_a_search_finds_step_sizes_that_training_takes(world):
    file = world / "steps.yaml"
    file.write_text(yaml.safe_dump({"tune.text.lr": {"choices": [1e-4, 1e-2]}}))
    tune = {"text": {"block": 1, "how": "norms"}}
    given = json.dumps({"epochs": 1, "batch_size": 8, "tune": tune})
    code, said = commands.run(
        *("SearchHead", "--method", "bert", "--params", given, "--space", str(file), "--n-trials", "2"), *places(world)
    )
    assert code == 0, said
    best = next((world / "work" / "sweeps").rglob("best.json"))
    chosen = json.loads(best.read_text())
    assert chosen["tune.text.lr"] in (1e-4, 1e-2) and "live" not in chosen
    assert jobs.head_spec("bert", f"@{best}", profiles.load(str(world / "small.yaml"))).learned_by == "tuned"


class Doubled(nn.Module):
    """A tower of one weight: tokens are states times it, the pooled row is their sum over a row's real length."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.longest: list[int] = []

    def forward(self, states, lengths):
        self.longest.append(states.shape[1])
        pooled = torch.stack([row[:length].sum(0) for row, length in zip(states, lengths, strict=True)])
        return {"tokens": states * self.weight, "pooled": pooled}


def test_texts_go_through_a_tower_by_length_and_come_back_in_their_order():
    lengths = torch.tensor([3, 0, 70, 1, 3] + [5] * 100)
    states = Ragged(torch.randn(int(lengths.sum()), 4), lengths)
    tower = Doubled()
    tokens, pooled = of_texts(tower, states)
    assert torch.equal(tokens.lengths, lengths) and torch.allclose(tokens.values, states.values * 2)
    assert torch.allclose(pooled[2], states.values[3:73].sum(0), atol=1e-5) and not pooled[1].any()
    assert tower.longest[0] == 5, "the longest text alone is padded to its length"
    nothing = of_texts(tower, Ragged(torch.zeros(0, 4), torch.tensor([0, 0])))
    assert nothing[0].values.shape == (0, 4) and nothing[1].shape == (2, 4)
    assert shapes_of(tower, (4,), False) == ((4,), (4,)) and shapes_of(tower, (5, 4), False) == ((5, 4), (4,))
    assert shapes_of(tower, (5, 4), True) == ((4,), (4,))


def test_padding_that_an_encoder_reads_is_no_token_of_the_text():
    tokens = torch.arange(24.0).view(2, 4, 3)
    own = own_tokens(tokens, torch.tensor([[0, 2], [3, 4]]))
    assert own.lengths.tolist() == [2, 1]
    assert torch.equal(own.values, torch.stack([tokens[0, 0], tokens[0, 1], tokens[1, 3]]))


def test_cuts_are_blocks_or_shares_of_each_encoders_depth(world):
    profile = profiles.load(str(world / "small.yaml"))

    def cut(text, **params):
        found = cuts.cuts("mimic", json.dumps(params), text, profile, {"clip_text": 4, "clip_image": 2}.__getitem__)
        return {name: json.loads(variant.params).get("tune") for name, variant in found.items()}

    assert cut("0,0.5,1") == {
        "text from block 0, image from block 0": {"text": {"block": 0}, "image": {"block": 0}},
        "text from block 2, image from block 1": {"text": {"block": 2}, "image": {"block": 1}},
        "frozen": {},
    }
    assert list(cut("text:1,4")) == ["text from block 1", "frozen"]
    assert list(cut("text:1,frozen;image:1,0")) == ["text from block 1, image from block 1", "image from block 0"]
    assert cut("text:3", tune={"text": {"block": 0, "how": "norms"}})["text from block 3"]["text"]["how"] == "norms"
    of_every_cut = cut("text:3,4", **{"tune.text.how": "norms"})
    assert of_every_cut["frozen"] == {} and of_every_cut["text from block 3"]["text"]["how"] == "norms"
    assert cut("text:3", tune={"text": {"rank": 4}})["text from block 3"]["text"]["rank"] == 4
    for wrong in ("text:5", "sound:1", "0.5,2", "text:a", "x", "text:1,2;image:0", "text:1;text:2"):
        with pytest.raises(UserError, match="--cuts"):
            cut(wrong)


def test_cuts_replace_the_tuning_that_a_profile_or_a_method_has_already(world, tmp_path):
    content = yaml.safe_load((world / "small.yaml").read_text())
    content["heads"]["mimic"]["tune"] = {"text": {"block": 1, "how": "norms"}}
    (world / "tuned.yaml").write_text(yaml.safe_dump(content))
    profile = profiles.load(str(world / "tuned.yaml"))
    depths = {"clip_text": 2, "clip_image": 2, "text_tokens": 4}.__getitem__
    found = cuts.cuts("mimic", "{}", "text:0,frozen", profile, depths)
    tunes = [jobs.head_spec("mimic", one.params, profile).config["tune"] for one in found.values()]
    assert tunes[0]["text"]["block"] == 0 and tunes[0]["text"]["how"] == "norms" and tunes[1] == {}
    assert list(cuts.cuts("joint", "{}", "0,0.5", profile, depths)) == ["text from block 0", "text from block 2"]
    with pytest.raises(UserError, match="joint has no frozen form"):
        cuts.cuts("joint", "{}", "text:0,4", profile, depths)


def test_how_an_encoder_is_read_above_its_blocks_names_the_run(world):
    """The states are the same for every pooling; what the blocks above make of them is not."""
    content = yaml.safe_load((world / "small.yaml").read_text())
    specs = {}
    for pooling in ("cls", "mean"):
        content["features"]["text_tokens"]["pooling"] = pooling
        path = world / f"{pooling}.yaml"
        path.write_text(yaml.safe_dump(content))
        specs[pooling] = job(str(path), "bert", tune={"text": {"block": 1}}, live=True)
    assert specs["cls"].wanted == specs["mean"].wanted
    assert specs["cls"].encoders == {"text_tokens@1": {"pooling": "cls"}} != specs["mean"].encoders
    stages = [train(world, "bert", tune={"text": {"block": 1}}, epochs=1)]
    (world / "small.yaml").rename(world / "kept.yaml")
    try:
        (world / "mean.yaml").rename(world / "small.yaml")
        stages.append(train(world, "bert", tune={"text": {"block": 1}}, epochs=1))
    finally:
        (world / "kept.yaml").rename(world / "small.yaml")
    first, second = (parts_of(run_of(said)) for _, said in stages)
    assert first != second


def test_a_tuned_head_forwards_every_hook():
    own = {name for name, value in vars(Head).items() if callable(value) and not name.startswith("_")}
    assert own <= set(vars(Tuned)), own - set(vars(Tuned))


def test_what_a_method_has_by_default_names_its_runs():
    """An option that came later names no run at its default, which is that of the class to which it came."""
    assert naming_options("joint", to_json(load_config("joint", {})))["tune"]["text"]["block"] == 3
    assert naming_options("dual", to_json(load_config("dual", {})))["entity_pictures"] == "mean"


def test_where_the_frozen_part_ends_is_a_table_and_a_picture(world, trained):
    given = {"epochs": 2, "batch_size": 8, "lr": 0.01, "tune": {"text": {"block": 0, "how": "norms"}}}
    code, said = commands.run(
        *("Ablate", "--method", "bert", "--params", json.dumps(given), "--cuts", "text:1,frozen"), *places(world)
    )
    assert code == 0, said
    table = said[said.index("tuned encoders") : said.index("Cost and settings")]
    rows = {line.split("  ")[0]: line for line in table.splitlines() if line.startswith(("text from", "frozen"))}
    trained_in_block = sum(
        tensor.numel()
        for run in (world / "work" / "runs" / "small" / "bert").iterdir()
        if "norms" in (run / "config.json").read_text() and (run / "cache").exists()
        for name, tensor in read_tensors(run / "model.safetensors")[0].items()
        if name.startswith(TOWERS)
    )
    assert f" {trained_in_block:,} " in rows["text from block 1"] and trained_in_block
    assert " 0 " in rows["frozen"] and "from block 1, norms" in rows["text from block 1"]
    folder = Path(said[said.index("leaderboard: ") :].split()[1])
    assert (folder / "tuned.png").read_bytes()[:4] == b"\x89PNG"
