"""Dynamic descriptions: two rounds, nothing asked twice, limits, a server that misbehaves, a key that is written
nowhere, and a real small model."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from enhance_world import IMPATIENT, MODEL, QUICK, dynamic_job, people, prepared, static_job, texts, without
from loopback import Reply, completion, serving

from foundation.contracts import to_json
from foundation.errors import PassingError, UserError
from pipeline.enhance import dynamic, prompts, static
from pipeline.enhance.contracts import SpendingLimits

ROOT = Path(__file__).resolve().parents[1]
KEY = "sk-very-secret-0123456789abcdef"
UNKNOWN = "I'm sorry, but I don't have any information about this person. Could you please provide more context?"

MORE = " Please provide more detailed information."


def persona(seen):
    """A model that knows the people with an even number, refuses Person 5, and believes what it is told."""
    messages = seen.body["messages"]
    name = messages[1]["content"].removeprefix("Who is this one? ")
    number = int(name.split()[-1]) if name.split()[-1].isdigit() else 0
    if number == 5:
        return Reply(completion("I'm sorry, but I can't assist with that."))
    if len(messages) > 2:
        assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"] and messages[2][
            "content"
        ] == UNKNOWN
        return Reply(completion(f"**{name}** is, as told: {messages[3]['content'].removesuffix(MORE)}"))
    return Reply(completion(f"{name} is a well-known person." if number % 2 == 0 else UNKNOWN))


@pytest.fixture
def model(monkeypatch):
    with serving(persona) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.address + "/v1")
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield server


def with_statics(tmp_path, count, known=lambda number: number != 7):
    data = prepared(tmp_path / "data", *people(count))
    (tmp_path / "pages.jsonl").write_text(
        "".join(
            json.dumps({"qid": q, "text": f"{name} lives in Red City."}) + "\n"
            for q, name in people(count)
            if known(int(q[1:]))
        )
    )
    static.describe(static_job(data, pages=tmp_path / "pages.jsonl"))
    return data


def test_two_rounds_as_in_the_paper_and_everything_counted(tmp_path, model):
    data = with_statics(tmp_path, 8)
    report = dynamic.describe(dynamic_job(data, rounds=2))
    found = texts(data, "dynamic")
    assert found["Q2"] == "Person 2 is a well-known person."
    assert found["Q3"] == "Person 3 is, as told: Person 3 lives in Red City."
    assert model.seen[-1].body["messages"][3]["content"].endswith(f" lives in Red City.{MORE}")
    assert without(data, "dynamic") == {"Q5": "refused", "Q7": "the model does not know"}
    assert report.first_round == {"described": 4, "refused": 1, "unknown": 3} and report.second_round == {
        "described": 2,
        "refused": 1,
    }
    assert (
        report.usage.calls == 11 == len(model.seen) and report.usage.tokens_in == 220 and report.usage.tokens_out == 110
    )
    first = model.seen[0]
    assert first.path == "/v1/chat/completions" and first.headers["Authorization"] == f"Bearer {KEY}"
    assert first.body["model"] == "small-model" and first.body["messages"][0] == {
        "role": "system",
        "content": prompts.INSTRUCTION,
    }


def test_nothing_is_asked_twice_and_a_changed_question_or_model_is(tmp_path, model):
    data = with_statics(tmp_path, 8)
    dynamic.describe(dynamic_job(data, rounds=2))
    files = {path.name: path.read_bytes() for path in data.iterdir()}
    questions = len(model.seen)
    report = dynamic.describe(dynamic_job(data, rounds=2))
    assert len(model.seen) == questions and report.usage.calls == 0 and report.usage.reused == 11
    assert {path.name: path.read_bytes() for path in data.iterdir()} == files
    dynamic.describe(dynamic_job(data, rounds=2, max_chars=30))
    assert len(model.seen) == questions, "how long the text may be changes no question"
    dynamic.describe(dynamic_job(data, replace(MODEL, name="other-model")))
    assert len(model.seen) == questions + 8
    renamed = prepared(tmp_path / "renamed", *people(8), ("Q9", "Person 2"), ("Q10", "Person 10"))
    dynamic.describe(dynamic_job(renamed))
    assert len(model.seen) == questions + 9, "one new name; the other entity's name was asked of before"


def test_the_second_round_without_static_texts_names_the_command(tmp_path, model):
    data = prepared(tmp_path / "data", *people(2))
    with pytest.raises(UserError, match="luigi --module tasks EnhanceEntities --mode static"):
        dynamic.describe(dynamic_job(data, rounds=2))
    assert not model.seen


def test_calls_run_side_by_side_up_to_the_limit(tmp_path, model):
    model.answer = lambda seen: Reply(completion("Somebody is a person."), wait=0.05)
    dynamic.describe(dynamic_job(prepared(tmp_path / "data", *people(24)), model=replace(MODEL, concurrency=3)))
    assert len(model.seen) == 24 and model.most == 3


def test_limits_end_the_run_before_they_are_passed_and_the_same_command_goes_on(tmp_path, model):
    data = prepared(tmp_path / "data", *people(20))
    with pytest.raises(UserError, match=r"--max-calls 6 reached in the first round: 6 answered, 14 still open"):
        dynamic.describe(dynamic_job(data, limits=SpendingLimits(max_calls=6)))
    assert len(model.seen) == 6
    held = 50 + 4 + -(-len(prompts.INSTRUCTION) // 3) + 4 + 8
    with pytest.raises(UserError, match="--max-tokens"):
        dynamic.describe(
            dynamic_job(data, limits=SpendingLimits(max_tokens=held + 100), model=replace(MODEL, concurrency=1))
        )
    assert len(model.seen) == 6 + 4, "30 real tokens each: three calls leave room for a fourth, four do not for a fifth"
    with pytest.raises(UserError, match=r"--max-cost 0\.001"):
        dynamic.describe(
            dynamic_job(
                data,
                limits=SpendingLimits(max_cost=0.001, price_in=1.0, price_out=10.0),
                model=replace(MODEL, concurrency=1),
            )
        )
    spent = len(model.seen) - 10
    assert 0 < spent * (20 * 1.0 + 10 * 10.0) / 1e6 <= 0.001
    report = dynamic.describe(dynamic_job(data))
    assert len(model.seen) == 20 and report.usage.calls == 10 - spent
    assert max(Counter(seen.body["messages"][1]["content"] for seen in model.seen).values()) == 1


def test_a_dry_run_counts_calls_and_tokens_asks_nothing_and_needs_no_key(tmp_path, model, monkeypatch):
    data = with_statics(tmp_path, 8)
    dynamic.describe(dynamic_job(prepared(tmp_path / "few", *people(2))))
    before, questions = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}, len(model.seen)
    monkeypatch.delenv("OPENAI_API_KEY")
    plan = dynamic.estimate(dynamic_job(data, rounds=2))
    assert plan.first_round_calls == 6 and plan.second_round_calls_at_most == 6, (
        "Person 2 is known; Person 1 is not, Person 7 has no page"
    )
    assert plan.first_round_tokens_in > 6 * 20 and plan.first_round_tokens_out_at_most == 300
    assert (
        len(model.seen) == questions
        and {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    )


def test_a_server_that_fails_limits_and_babbles_is_asked_again(tmp_path, model):
    for number, trouble in enumerate(
        (
            [
                Reply(
                    {"error": {"message": "slow down", "code": "rate_limit_exceeded"}},
                    status=429,
                    headers={"Retry-After": "0"},
                )
            ],
            [Reply(status=500), Reply(b"<html>", status=502)],
            [Reply(b"not json"), Reply({"choices": []})],
            [Reply({"choices": [{"message": {"content": 7}}]})],
            [Reply(completion(None))],
            [Reply(wait=3.0)],
            [Reply(completion("x" * 100), drip=0.05)],
            [Reply(completion("cut"), cut=True)],
            [Reply(b"[" * 100_000)],
        )
    ):
        model.trouble, before = list(trouble), len(model.seen)
        dynamic.describe(
            dynamic_job(
                prepared(tmp_path / str(number), *people(1)), replace(MODEL, name=f"model-{number}", patience=IMPATIENT)
            )
        )
        assert len(model.seen) - before == len(trouble) + 1, trouble


def test_retry_after_holds_all_threads_back(tmp_path, model):
    model.trouble, model.answer = (
        [Reply(status=429, headers={"Retry-After": "1"})],
        lambda _: Reply(completion("A person."), wait=0.1),
    )
    dynamic.describe(dynamic_job(prepared(tmp_path / "data", *people(12)), model=replace(MODEL, concurrency=2)))
    late = [seen for seen in model.seen if seen.at - model.seen[0].at < 0.9]
    assert len(late) <= 6 and len(model.seen) == 13, "the other thread would have asked nine times in that second"


def test_a_dead_server_is_left_alone_and_what_was_answered_is_kept(tmp_path, model):
    data, count = prepared(tmp_path / "data", *people(40)), [0]
    guard = threading.Lock()

    def dying(seen):
        with guard:
            count[0] += 1
            return persona(seen) if count[0] <= 10 else Reply(status=503)

    model.answer = dying
    with pytest.raises(PassingError, match="30 questions of the first round are still open"):
        dynamic.describe(dynamic_job(data, model=replace(MODEL, concurrency=2)))
    assert len(model.seen) < 10 + 3 * 8
    model.answer = persona
    assert dynamic.describe(dynamic_job(data)).usage.calls == 30


def test_one_question_that_always_fails_leaves_the_run_open_unless_it_is_allowed(tmp_path, model):
    data = prepared(tmp_path / "data", *people(6))
    model.answer = lambda seen: (
        Reply(endless=True) if seen.body["messages"][1]["content"].endswith(" 4") else persona(seen)
    )
    with pytest.raises(PassingError, match=r"1 of 6 entities have no answer yet: .*an answer larger than is read"):
        dynamic.describe(dynamic_job(data))
    report = dynamic.describe(dynamic_job(data, max_failed=1))
    assert report.without["no answer yet"] == 1 and without(data, "dynamic")["Q4"] == "no answer yet"


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply(b"<html>maintenance</html>"), "no chat completion: <html>maintenance</html>"),
        (Reply(b'data: {"choices": []}\n\n'), "no chat completion: data: "),
        (Reply(b"busy", 429, headers={"Retry-After": "86400"}), "asks to wait 86,400 s"),
    ],
)
def test_of_a_single_question_that_failed_the_reason_is_given(tmp_path, model, reply, why):
    model.answer = lambda seen: reply
    with pytest.raises(PassingError, match=f"1 of 1 entities have no answer yet: .*{why}"):
        dynamic.describe(dynamic_job(prepared(tmp_path / "data", *people(1))))


def test_of_a_server_that_is_not_there_the_reason_is_given(tmp_path, model, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(PassingError, match=r"no connection to the model's server \(OPENAI_BASE_URL\): ConnectError"):
        dynamic.describe(dynamic_job(prepared(tmp_path / "data", *people(1))))


def test_refusals_of_the_server_itself_are_answers(tmp_path, model):
    replies = {
        "1": Reply(completion(None, "content_filter")),
        "2": Reply(completion(None, refusal="No.")),
        "3": Reply({"error": {"code": "content_filter", "message": "x"}}, status=400),
        "4": Reply({"error": {"code": "context_length_exceeded", "message": "x"}}, status=400),
        "5": Reply(completion("")),
        "6": Reply(completion("Six is a person.")),
        "7": Reply(completion(None, "length", reasoning_content="Okay, the user asks")),
        "8": Reply(completion("Half \ud83d of a pair.", used=None)),
    }
    model.answer = lambda seen: replies[seen.body["messages"][1]["content"].split()[-1]]
    data = prepared(tmp_path / "data", *people(8))
    dynamic.describe(dynamic_job(data))
    assert texts(data, "dynamic") == {"Q6": "Six is a person.", "Q8": "Half of a pair."}
    assert without(data, "dynamic") == {
        "Q1": "refused",
        "Q2": "refused",
        "Q3": "refused",
        "Q4": "question too long for the model",
        "Q5": "empty answer",
        "Q7": "cut by --max-answer before the description began",
    }
    assert len(model.seen) == 8


def test_models_that_want_other_parameters_get_them(tmp_path, model):
    def picky(seen):
        for name in ("max_tokens", "temperature"):
            if name in seen.body:
                return Reply(
                    {"error": {"code": "unsupported_parameter", "param": name, "message": f"{name} is not supported"}},
                    status=400,
                )
        assert seen.body["max_completion_tokens"] == 50
        return persona(seen)

    model.answer = picky
    model_options = replace(MODEL, patience=replace(QUICK, tries=8))
    assert dynamic.describe(dynamic_job(prepared(tmp_path / "data", *people(4)), model=model_options)).first_round == {
        "described": 2,
        "unknown": 2,
    }


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            Reply({"error": {"message": f"Incorrect API key provided: {KEY}"}}, status=401),
            r"answers 401: Incorrect API key provided: \*\*\*; check OPENAI_API_KEY",
        ),
        (
            Reply({"error": {"message": "Incorrect API key provided: sk-ver***cdef."}}, status=401),
            r"provided: \*\*\*; check",
        ),
        (
            Reply({"error": {"message": "no such model"}}, status=404),
            "answers 404: no such model; check --llm small-model",
        ),
        (Reply({"error": {"code": "insufficient_quota", "message": "pay"}}, status=429), "nothing left to spend"),
        (Reply(status=307, headers={"Location": "http://169.254.1.1/"}), "answers 307, a redirect"),
        (Reply(status=400, endless=True), "answers 400; check"),
        (Reply(b"\xff\xfe", status=400), "answers 400; check"),
    ],
)
def test_what_the_user_must_mend_is_one_line_and_ends_the_run_at_once(tmp_path, model, reply, message):
    model.answer = lambda _: reply
    with pytest.raises(UserError, match=message) as error:
        dynamic.describe(dynamic_job(prepared(tmp_path / "data", *people(30)), model=replace(MODEL, concurrency=2)))
    assert len(model.seen) <= 4 and KEY not in str(error.value) and "cdef" not in str(error.value)


def test_a_missing_key_address_or_model_is_one_line(tmp_path, model, monkeypatch):
    data = prepared(tmp_path / "data", *people(1))
    with pytest.raises(UserError, match="--llm: name the model"):
        dynamic.describe(dynamic_job(data, replace(MODEL, name="")))
    monkeypatch.setenv("OPENAI_BASE_URL", "http://user:hidden@127.0.0.1/v1")
    with pytest.raises(UserError, match="OPENAI_BASE_URL: an address with a user name") as error:
        dynamic.describe(dynamic_job(data))
    assert "hidden" not in str(error.value)
    monkeypatch.delenv("OPENAI_BASE_URL")
    with pytest.raises(UserError, match="OPENAI_BASE_URL is not set"):
        dynamic.describe(dynamic_job(data))
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        dynamic.describe(dynamic_job(data))


def test_two_processes_and_kills_at_every_answer_ask_nothing_twice_that_was_answered(tmp_path, model):
    data = prepared(tmp_path / "data", *people(12))
    job = json.dumps(to_json(dynamic_job(data, model=replace(MODEL, concurrency=1))))
    command = [
        sys.executable,
        "-c",
        "import json, sys; from foundation import child; "
        "child.call('pipeline.enhance.dynamic:describe', json.loads(sys.argv[1]))",
        job,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENAI_LOG": "debug"}
    for _ in range(2):
        done = subprocess.run(
            command, env={**environment, "MEL_FAULT": "after-answer:2"}, capture_output=True, check=False
        )
        assert done.returncode == -9, done.stderr.decode()
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)
    ]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    questions = Counter(seen.body["messages"][1]["content"] for seen in model.seen)
    assert len(questions) == 12 and max(questions.values()) == 1
    assert all(KEY.encode() not in text for text in outputs), "not even where the client logs all it does"
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or not any(
            secret in path.read_bytes() for secret in (KEY.encode(), model.address.encode())
        )
