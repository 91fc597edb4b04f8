"""EnhanceEntities as a user types it, and what a changed description makes run again, read from the receipts."""

import json

import commands
import pytest
import small_world
import yaml
from causal_model import causal
from enhance_world import texts
from loopback import Reply, Wiki, completion, serving
from test_tasks import World

KEY = "sk-very-secret-0123456789abcdef"


def write_pages(world: World, **changed: str) -> None:
    """Pages of all entities but Q5."""
    pages = {
        f"Q{n}": f"{small_world.entity(n)['name']} is number {n}.\nSecond part.\nThird part."
        for n in range(12)
        if n != 5
    } | changed
    (world.root / "pages.jsonl").write_text(
        "".join(json.dumps({"qid": qid, "text": text}) + "\n" for qid, text in pages.items())
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("enhance"))
    small_world.write(world.data)
    path = small_world.profile(world.root)
    profile = yaml.safe_load(path.read_text())
    profile["features"] = {
        "clip_text": {**profile["features"]["clip_text"], "views": {"entity": ["static", "name_sep_static"]}}
    }
    path.write_text(yaml.safe_dump({"features": profile["features"]}))
    write_pages(world)
    world.here("PrepareDataset")
    return world


def static(world: World, *options: str, **more) -> str:
    return world.here(
        "EnhanceEntities", "--mode", "static", "--pages", str(world.root / "pages.jsonl"), *options, **more
    )


def test_two_descriptions_changed_are_two_texts_re_extracted_and_going_back_costs_nothing(base):
    printed = base.luigi("ExtractFeatures", "--features", "clip_text", code=None)
    assert (
        "no static descriptions yet; `luigi --module tasks EnhanceEntities --mode static` writes them" in printed
        and "Traceback" not in printed
    )
    printed = static(base)
    assert "11 of 12 entities have a text" in printed and "without, not in the file: 1" in printed
    prepared = next(base.work.glob("datasets/small-*"))
    assert texts(prepared, "static")["Q0"] == "Ann Powers is number 0. Second part."
    assert (
        prepared / "descriptions-static-without.tsv"
    ).read_text() == f"id\tname\twhy\nQ5\t{small_world.entity(5)['name']}\tnot in the file\n"
    assert base.extracted("ExtractFeatures", "--features", "clip_text") == {"clip_text": 22}
    assert "1 entities have no text in entity.clip_text.static" in base.here(
        "ExtractFeatures", "--features", "clip_text"
    )

    write_pages(base, Q3="Something else.", Q4="Something new.")
    static(base)
    assert base.extracted("ExtractFeatures", "--features", "clip_text") == {"clip_text": 4}, (
        "two entities, each under two views"
    )
    write_pages(base)
    static(base)
    assert base.extracted("ExtractFeatures", "--features", "clip_text") == {}


def test_a_dataset_under_two_labels_has_one_set_of_descriptions(base):
    def labelled(*options: str) -> str:
        pages = ("--pages", str(base.root / "pages.jsonl"))
        named = ("--data-dir", str(base.data), "--profile", str(base.root / "small.yaml"), "--work-dir", str(base.work))
        code, output = commands.run(
            "EnhanceEntities", "--dataset", "second", "--mode", "static", *named, *pages, *options
        )
        assert code == 0, output
        return output

    write_pages(base)
    static(base)
    assert "11 of 12 entities have a text" in labelled("--paragraphs", "1")
    prepared = next(base.work.glob("datasets/small-*"))
    assert texts(prepared, "static")["Q0"] == "Ann Powers is number 0."
    assert not list(base.work.glob("datasets/second-*"))
    static(base)


def test_a_run_of_other_descriptions_is_another_run_and_going_back_finds_the_first_as_it_was(base):
    def trained() -> dict[str, bytes]:
        base.here("TrainHead", "--method", "dwe", "--params", '{"entity_text": "static", "epochs": 1}')
        return {path.parent.name: path.read_bytes() for path in base.work.glob("runs/small/dwe/*/model.safetensors")}

    write_pages(base)
    static(base)
    first = trained()
    write_pages(base, Q3="Something else.")
    static(base)
    both = trained()
    assert len(first) == 1 and len(both) == 2 and both.items() >= first.items()
    write_pages(base)
    static(base)
    assert trained() == both


def test_methods_over_several_texts_of_entities_are_one_command(base):
    write_pages(base)
    static(base)
    sizes = {"clip_text": {"epochs": 1, "width": 8}, "dwe": {"epochs": 1, "width": 16, "joint_width": 16}}
    command = ["CompareHeads", "--methods", "clip_text,mimic,dwe", "--params", json.dumps(sizes)]
    printed = base.here(*command, "--entity-texts", "properties,static")
    assert "not here: mimic: it reads properties alone (no option entity_text)" in printed
    assert "PUBLISHED by DWE+, not measured here" in printed
    figures = {}
    for method in ("clip_text", "dwe"):
        for folder in base.work.glob(f"runs/small/{method}/*/"):
            run = json.loads((folder / "run.json").read_text())
            if run["epochs"] == 1 and run["config"]["width"] in (8, 16):
                metrics = json.loads((folder / "metrics.json").read_text())["test"]["candidates"]["all"]
                figures[method, run["config"]["entity_text"]] = [
                    f"{100 * metrics[f'H@{k}']:.2f}" for k in (1, 5, 10, 20)
                ]
    assert len(figures) == 4
    for kind in ("properties", "static"):
        block = next(
            b
            for b in printed.split("\n\n")
            if b.startswith("test, ") and f"candidates and rerank, entity text: {kind}" in b
        )
        rows = {line.partition("  ")[0]: line for line in block.splitlines()}
        for method in ("clip_text", "dwe"):
            shown = rows[f"{method} ({kind})"].replace("*", "").split()[2:]
            assert [shown[0], shown[2], shown[3], shown[4]] == figures[method, kind]
    dynamic = base.luigi(*command, "--entity-texts", "dynamic", code=None)
    assert "EnhanceEntities --mode dynamic" in dynamic and "Traceback" not in dynamic
    for texts_of, message in (("statik", "did you mean 'static'?"), ("static,static", "each once")):
        refused = base.luigi(*command, "--entity-texts", texts_of, code=2)
        assert message in refused and "Traceback" not in refused
    alone = base.luigi("CompareHeads", "--methods", "mimic", "--entity-texts", "static", code=2)
    assert "none of mimic reads more than one kind of text of entities" in alone


def test_a_finished_command_does_nothing_and_other_options_write_the_file_anew(base):
    static(base)
    prepared = next(base.work.glob("datasets/small-*"))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in prepared.glob("descriptions-static*")}
    assert "11 of 12 entities have a text" in static(base)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    static(base, "--paragraphs", "1")
    assert texts(prepared, "static")["Q0"] == "Ann Powers is number 0."
    static(base)
    assert {path: path.read_bytes() for path in before} == {path: data for path, (_, data) in before.items()}, (
        "the receipt of the first options did not stand any more"
    )


def answer(seen):
    messages = seen.body["messages"]
    if len(messages) == 4:
        return Reply(completion("As told, a person.", used=(40, 5)))
    name = messages[1]["content"].removeprefix("Who is this one? ")
    return Reply(
        completion(
            "I don't have any information about this person." if name.startswith("Ben") else f"{name} is well known.",
            used=(20, 7),
        )
    )


def test_dynamic_descriptions_by_one_command_and_the_key_is_nowhere(base, monkeypatch, tmp_path):
    with serving(answer) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.address}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_LOG", "debug")
        command = [
            "EnhanceEntities",
            "--mode",
            "dynamic",
            "--llm",
            "small-model",
            "--pages",
            str(base.root / "pages.jsonl"),
        ]
        printed = [base.here(*command, "--dry-run")]
        assert "first round calls: 12" in printed[0] and "first round tokens in: " in printed[0] and not server.seen
        monkeypatch.setenv("MEL_FAULT", "after-answer:4")
        printed.append(base.luigi(*command, "--concurrency", "1", code=30))
        monkeypatch.delenv("MEL_FAULT")
        assert len(server.seen) == 4
        printed.append(base.luigi(*command, "--max-calls", "2", code=30))
        assert (
            "--max-calls 2 reached in the first round" in printed[-1]
            and "Traceback" not in printed[-1]
            and len(server.seen) == 6
        )
        printed.append(base.here(*command, "--price-in", "1", "--price-out", "2"))
        assert (
            "12 of 12 entities have a text" in printed[-1]
            and '"described": 10, "unknown": 2' in printed[-1]
            and "calls: 8" in printed[-1]
            and "cost: 0.0" in printed[-1]
        )
        assert len(server.seen) == 12 + 2
        printed.append(base.here(*command))
        assert len(server.seen) == 14 and "12 of 12" in printed[-1]
        printed.append(base.here(*command, "--answer-chars", "9"))
        assert len(server.seen) == 14, "how much of an answer is taken asks nothing anew"
    receipt = next(receipt for receipt in base.receipts("EnhanceEntities").values() if receipt["run"].get("calls") == 8)
    assert {name: value for name, value in receipt["run"].items() if name != "command"} | {"seconds": 0} == {
        "seconds": 0,
        "reused": 6,
        "calls": 8,
        "tokens_in": 6 * 20 + 2 * 40,
        "tokens_out": 6 * 7 + 2 * 5,
        "cost": 0.0003,
    }
    secrets = [KEY.encode(), KEY[:10].encode(), server.address.encode()]
    for path in base.root.rglob("*"):
        assert not path.is_file() or not any(secret in path.read_bytes() for secret in secrets), path
    assert not any(KEY[:10] in text for text in printed)


def test_from_a_wiki_and_by_a_local_model_through_the_same_command(base):
    wiki = Wiki(
        pages={small_world.entity(n)["name"]: {"extract": f"Page {n} of the wiki.", "item": f"Q{n}"} for n in range(6)}
    )
    with serving(wiki) as server:
        options = [
            "--mode",
            "static",
            "--wiki-api",
            f"{server.address}/w/api.php",
            "--wiki-contact",
            "me@example.org",
            "--wiki-rate",
            "0",
        ]
        assert "requests: 1" in base.here("EnhanceEntities", *options, "--dry-run") and not server.seen
        printed = base.here("EnhanceEntities", *options)
        assert (
            "6 of 12 entities have a text" in printed
            and "without, no page: 6" in printed
            and "me@example.org" in server.seen[0].headers["User-Agent"]
        )
        requests = len(server.seen)
        base.here("EnhanceEntities", *options)
        assert len(server.seen) == requests
    model = causal(base.root / "causal", learn=False)
    options = ["--mode", "dynamic", "--llm", f"local:{model}", "--rounds", "1", "--max-answer", "4", "--device", "cpu"]
    assert "calls: 12" in base.here("EnhanceEntities", *options)
    receipts = base.receipts("EnhanceEntities")
    base.here("EnhanceEntities", *options)
    assert base.receipts("EnhanceEntities") == receipts
    causal(model, seed=1, learn=False)
    assert "calls: 12" in base.here("EnhanceEntities", *options), "other weights are asked anew"


def test_a_dry_run_on_nothing_writes_nothing(base, tmp_path):
    fresh = World(base.root)
    fresh.work = tmp_path / "none"
    printed = static(fresh, "--dry-run")
    assert (
        printed.index("would run PrepareDataset")
        < printed.index("would run EnhanceEntities static")
        < printed.index("is known once PrepareDataset is done")
    )
    assert not fresh.work.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--mode '': expected static or dynamic"),
        (["--mode", "static"], "name a file with --pages, or a wiki"),
        (["--mode", "static", "--pages", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--mode", "dynamic"], "name the model with --llm"),
        (["--mode", "dynamic", "--llm", "m", "--question", "Who?"], "it names no entity"),
        (["--mode", "dynamic", "--llm", "m", "--max-cost", "1"], "give the prices"),
        (["--mode", "dynamic", "--llm", "m", "--rounds", "3"], "--rounds 3"),
        (["--mode", "dynamic", "--llm", "local:nowhere", "--rounds", "1"], "no such folder"),
        (["--mode", "static", "--wiki-api", "https://x.org/api.php"], "--wiki-contact"),
    ],
)
def test_a_mistyped_option_ends_in_one_line_and_not_zero(base, options, message, monkeypatch):
    monkeypatch.delenv("OPENAI_MODEL", raising=False)
    printed = base.luigi("EnhanceEntities", *options, code=None)
    assert message in printed and "Traceback" not in printed, printed
