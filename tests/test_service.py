"""The service over a finished run, as its clients and somebody hostile ask the real one."""

import base64
import functools
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import browser
import httpx
import jsonschema
import linking_world
import numpy as np
import pandas as pd
import pytest
import reconciliation_rules as rules
import small_world
from PIL import Image
from reconciler import reconcile

from linking import Linker
from linking.service.models import BODY, MOST, PHRASE, SENTENCE

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = '<script>alert("x")</script>\' onload=alert(1) {{ 7 * 7 }} <b>Ann Powers</b>'


def started(run, root, *options, **environment):
    """The command's process and its address, once it says it."""
    words = ["Serve", "--run", str(run), "--port", "0", "--work-dir", str(root / "work"), *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "luigi", "--module", "tasks", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    output = []
    for line in process.stdout:
        output.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return process, found[0]
    return pytest.fail("".join(output))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run over a KB that holds hostile text and types."""
    root = tmp_path_factory.mktemp("service")
    data = small_world.write(root / "data", mentions=60)
    entities = [json.loads(line) for line in (data / "entities.jsonl").read_text().splitlines()]
    for number, entity in enumerate(entities):
        entity["type"] = "ship|thing" if "Ship" in entity["name"] else "person" if number % 8 < 4 else "city"
    hostile = {"id": "Q<u>", "name": HOSTILE, "attributes": HOSTILE, "description": HOSTILE, "aliases": [HOSTILE[:90]]}
    records = [*entities, {**hostile, "type": HOSTILE}]
    (data / "entities.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.MonkeyPatch.context() as patch:
        return root, linking_world.train(root, patch, "mimic")["mimic"]


@pytest.fixture(scope="module")
def service(world):
    root, run = world
    process, address = started(run, root)
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client
    process.send_signal(signal.SIGTERM)
    rest = process.stdout.read()
    assert process.wait(60) == 0 and rest.strip().endswith("stopped") and "Traceback" not in rest, rest


def picture(seed=1):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


MENTION = {"sentence": "Ann Powers was seen.", "mention": "Ann Powers"}


def test_answers_are_those_of_the_linker_one_by_one_and_many(service, world):
    linker = Linker.load(world[1], cache=False)
    image = base64.b64encode(picture()).decode()
    with_picture = {**MENTION, "image": image}
    expected = [linker.link(**_words(one), image=data) for one, data in ((MENTION, None), (with_picture, picture()))]
    many = service.post("/link/many", json={"mentions": [MENTION, with_picture], "top_k": 3}).json()["answers"]
    single = [service.post("/link", json={**one, "top_k": 3}).json() for one in (MENTION, with_picture)]
    for answers in (many, single):
        for answer, right in zip(answers, expected, strict=True):
            assert [one["id"] for one in answer["entities"]] == [one.id for one in right.entities[:3]]
            scores = [one["score"] for one in answer["entities"]]
            assert scores == pytest.approx([one.score for one in right.entities[:3]], abs=1e-4)
            assert answer["confidence"] == pytest.approx(right.confidence, abs=1e-4)
            assert (answer["picture"], answer["span"], answer["nil"]) == (right.picture, [0, 10], right.nil)


def _words(mention):
    return {"sentence": mention["sentence"], "phrase": mention["mention"]}


@pytest.mark.parametrize(
    "data, words", [(b"no picture", "not an image"), (picture()[:200], "truncated"), (b"", "empty")]
)
def test_a_picture_that_cannot_be_used_is_left_out_and_said(service, data, words):
    answer = service.post("/link", json={**MENTION, "image": base64.b64encode(data).decode()})
    assert answer.status_code == 200 and words in answer.json()["picture"] and len(answer.json()["entities"]) == 5


DEEP = "[" * 100_000 + "]" * 100_000
BAD = {  # a body for /link: status and words of the answer
    "no JSON": ("{", 422, "JSON"),
    "nested deeply": (f'{{"sentence": {DEEP}}}', 400, ""),
    "nothing": ("", 422, "body"),
    "a list": ("[]", 422, "body"),
    "no phrase": ('{"sentence": "x"}', 422, "mention"),
    "an empty phrase": ('{"sentence": "x", "mention": " "}', 422, "empty"),
    "an unknown field": (json.dumps({**MENTION, "gold": "Q1"}), 422, "gold"),
    "a number for a text": ('{"sentence": 1, "mention": "x"}', 422, "sentence"),
    "half a surrogate": ('{"sentence": "\\ud800", "mention": "x"}', 422, "surrogate"),
    "a long sentence": (json.dumps({**MENTION, "sentence": "x" * (SENTENCE + 1)}), 422, "sentence"),
    "a long phrase": (json.dumps({**MENTION, "mention": "x" * (PHRASE + 1)}), 422, "mention"),
    "a span outside": (json.dumps({**MENTION, "start": 5, "end": 900}), 400, "span 5..900"),
    "a span of other words": (json.dumps({**MENTION, "start": 1, "end": 4}), 400, "not the mention"),
    "no base64": (json.dumps({**MENTION, "image": "<script>"}), 400, "base64"),
    "too many entities": (json.dumps({**MENTION, "top_k": MOST + 1}), 422, "top_k"),
    "none of them": (json.dumps({**MENTION, "top_k": 0}), 422, "top_k"),
    "true for a number": (json.dumps({**MENTION, "top_k": True}), 422, "top_k"),
    "an endless number": ('{"sentence": "x", "mention": "x", "top_k": ' + "9" * 5000 + "}", 422, ""),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_request_is_answered_in_one_line_of_json(service, kind):
    body, status, words = BAD[kind]
    answer = service.post("/link", content=body, headers={"content-type": "application/json", "x-request-id": "mine-7"})
    assert answer.status_code == status or (kind == "an endless number" and answer.status_code == 400), answer.text
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "mine-7"
    assert words in answer.json()["error"] and len(answer.text) < 1000
    assert not any(word in answer.text for word in ("Traceback", ".py", "<script>"))
    assert answer.headers["content-type"] == "application/json"
    assert service.get("/health").status_code == 200


def raw(service, request):
    """The answer to bytes that are sent as they stand."""
    with socket.create_connection(("127.0.0.1", service.base_url.port), timeout=30) as connection:
        sender = threading.Thread(target=lambda: _sent(connection, request), daemon=True)
        sender.start()
        answer = b""
        try:
            while block := connection.recv(65536):
                answer += block
                head, _, body = answer.partition(b"\r\n\r\n")
                found = re.search(rb"content-length: (\d+)", head)
                if found and body and len(body) >= int(found[1]):
                    break
        except ConnectionResetError:
            pass
        return answer.decode()


def _sent(connection, request):
    try:
        for part in request if isinstance(request, list) else [request]:
            connection.sendall(part)
    except OSError:
        pass  # what is too large is answered before it has come whole


HEAD = "POST /link HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
CHUNK = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
ODD = {
    "too large": (f"{HEAD}Content-Length: {BODY + 1}\r\n\r\n".encode(), " 413 "),
    "too large, in chunks": ([f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode(), *[CHUNK] * 30], " 413 "),
    "no HTTP": (b"\x16\x03\x01\r\n\r\n", " 400 "),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n", " 400 "),
    "a header of a megabyte": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n", " 400 "),
    "a negative length": (f"{HEAD}Content-Length: -1\r\n\r\n".encode(), " 400 "),
    "a path out of the assets": (b"GET /assets/../../core.py HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", " 404 "),
    "a coded path out of the assets": (b"GET /assets/%2e%2e%2fcore.py HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", " 404 "),
    "another method": (b"TRACE /link HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", " 405 "),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_request_is_refused_and_the_service_goes_on(service, kind):
    request, status = ODD[kind]
    answer = raw(service, request)
    assert answer.startswith(f"HTTP/1.1{status}") and "Traceback" not in answer and "import" not in answer
    assert service.get("/health").status_code == 200


def test_pages_of_other_servers_and_other_host_names_are_refused(service):
    port = service.base_url.port
    for host in ("evil.example", f"127.0.0.1.evil.example:{port}", "localhost.evil.example"):
        assert service.get("/health", headers={"host": host}).status_code == 403
    assert service.get("/health", headers={"host": f"localhost:{port}"}).status_code == 200
    evil = {"origin": "http://evil.example"}
    assert service.post("/link", json=MENTION, headers=evil).status_code == 403
    assert service.post("/reconcile", data={"queries": "{}"}, headers=evil).status_code == 403
    assert service.get("/reconcile?queries={}", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    own = service.post("/link", json=MENTION, headers={"origin": f"http://127.0.0.1:{port}"})
    assert own.status_code == 200 and "access-control-allow-origin" not in own.headers
    openrefine = {"origin": "http://127.0.0.1:3333"}
    answer = service.get("/reconcile/suggest/entity?prefix=ann", headers=openrefine)
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == openrefine["origin"]


def test_every_answer_forbids_scripts_and_guessing(service):
    for path in ("/health", "/nowhere", "/entities/Q1", "/reconcile", "/metrics", "/openapi.json"):
        headers = service.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'"), path
        assert headers["x-content-type-options"] == "nosniff" and headers["x-request-id"]
    policies = [service.get(path).headers["content-security-policy"] for path in ("/docs", "/reconcile/preview?id=Q1")]
    scripts = [re.search("script-src ([^;]*)", policy) for policy in policies]
    assert scripts[1] is None and re.fullmatch(r"'self' 'sha256-[^']+'", scripts[0][1])


def test_entities_are_found_by_name_and_by_id(service):
    found = service.get("/entities", params={"name": "harbour powers", "limit": 3}).json()["entities"]
    assert found[0]["id"] == "Q6" and found[0]["similarity"] == 100 and len(found) == 3
    assert found[0]["aliases"] == ["The Harbour Powers", "Añcient Ship"] and found[0]["types"] == ["ship", "thing"]
    assert service.get("/entities/Q6").json() == {**found[0], "similarity": None}
    assert service.get("/entities/Q<u>").json()["name"] == HOSTILE
    assert service.get("/entities/Q999").status_code == service.get("/entities/..%2f..%2fetc").status_code == 404
    for bad in ({}, {"name": ""}, {"name": "x" * 501}, {"name": "x", "limit": 0}, {"name": "x", "limit": "9" * 5000}):
        assert service.get("/entities", params=bad).status_code == 422, bad


def test_the_schema_says_what_is_asked_and_answered(service):
    schema = service.get("/openapi.json").json()
    assert {"/link", "/link/many", "/entities", "/entities/{id}", "/health", "/metrics", "/reconcile"} <= set(
        schema["paths"]
    )
    answer = service.post("/link", json=MENTION).json()
    jsonschema.validate(answer, {"$ref": "#/components/schemas/Answer", "components": schema["components"]})
    asked = {"$ref": "#/components/schemas/OneMention", "components": schema["components"]}
    jsonschema.validate({**MENTION, "top_k": 3}, asked)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**MENTION, "top_k": 0}, asked)


def test_the_page_of_the_schema_needs_nothing_from_elsewhere(service, tmp_path):
    address = str(service.base_url)
    with browser.page(tmp_path) as tab:
        for width in (390, 1280):
            tab.open(f"{address}/reconcile/preview?id=Q6", width)
            assert tab.value("innerWidth") == width and tab.value("document.documentElement.scrollWidth") <= width
            tab.open(f"{address}/docs", width)
            deadline = time.monotonic() + browser.WAIT
            while "/link/many" not in tab.value("document.body.innerText") and time.monotonic() < deadline:
                time.sleep(0.1)
            assert "Link one mention" in tab.value("document.body.innerText")
        assert tab.errors == [] and all(one.startswith((address, "data:")) for one in tab.requests)


def test_metrics_count_requests_mentions_and_batches(service):
    def number(name):
        found = re.search(rf"^{re.escape(name)} ([\d.e+]+)$", service.get("/metrics").text, re.M)
        return float(found[1]) if found else 0.0

    names = (
        'mel_requests_total{path="/link",status="200"}',
        'mel_mentions_total{outcome="answered"}',
        "mel_batch_mentions_count",
    )
    before = [number(name) for name in names]
    assert service.post("/link", json=MENTION).status_code == 200
    assert [number(name) for name in names] == [value + 1 for value in before]
    assert number("mel_waiting_mentions") == 0


def test_a_stopped_service_answers_what_it_has_begun(world):
    process, address = started(world[1], world[0], "--kb", "small")
    answers = []

    def ask():
        mentions = [{**MENTION, "sentence": f"Ann Powers was seen {n} times."} for n in range(MOST)]
        answers.append(httpx.post(f"{address}/link/many", json={"mentions": mentions}, timeout=60))

    thread = threading.Thread(target=ask)
    thread.start()
    deadline = time.monotonic() + 30
    while "mel_waiting_mentions 0.0" in httpx.get(f"{address}/metrics").text and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    thread.join(60)
    assert answers[0].status_code == 200 and len(answers[0].json()["answers"]) == MOST
    rest = process.stdout.read()
    assert process.wait(60) == 0 and rest.strip() == "stopped"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")


@pytest.mark.parametrize(
    "options, environment, words",
    [
        (["--host", "0.0.0.0"], {}, "set a token"),
        (["--host", "0.0.0.0"], {"MEL_SERVICE_TOKEN": "short-secret"}, "at least 16 printable ASCII"),
        (["--token-file", "/nowhere/token"], {}, "no such file"),
        (["--allow-origins", "evil"], {}, "expected addresses such as"),
        (["--run", "small/mimic/none"], {}, "no such run"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(world, options, environment, words):
    given = [] if "--run" in options else ["--run", str(world[1])]
    command = [sys.executable, "-m", "luigi", "--module", "tasks", "Serve", *given, *options]
    done = subprocess.run(
        [*command, "--work-dir", str(world[0] / "work")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    text = (done.stdout + done.stderr).strip()
    assert done.returncode == 2 and words in text and len(text.splitlines()) == 1 and "short-secret" not in text


# The reconciliation API


def asked(service, queries):
    """The candidates of a batch, asked both ways."""
    jsonschema.validate(queries, rules.QUERIES)
    posted = service.post("/reconcile", data={"queries": json.dumps(queries)})
    assert posted.status_code == 200, posted.text
    got = service.get("/reconcile", params={"queries": json.dumps(queries)})
    assert got.json().keys() == posted.json().keys() == queries.keys()
    jsonschema.validate(posted.json(), rules.RESULTS)
    return {name: answer["result"] for name, answer in posted.json().items()}


def test_the_manifest_keeps_the_rules_and_leads_to_what_is_there(service):
    manifest = service.get("/reconcile").json()
    jsonschema.validate(manifest, rules.MANIFEST)
    assert service.post("/reconcile").json() == manifest
    assert [one["id"] for one in manifest["defaultTypes"]][:2] == ["entity", "person"]
    for kind, rule in (("entity", rules.ENTITIES), ("type", rules.TYPES), ("property", rules.TYPES)):
        place = manifest["suggest"][kind]
        for prefix in ("", "s", "ann", HOSTILE):
            answer = service.get(place["service_url"] + place["service_path"], params={"prefix": prefix})
            assert answer.status_code == 200
            jsonschema.validate(answer.json(), rule)
    for page in (manifest["preview"]["url"], manifest["view"]["url"]):
        assert "Blue Ship" in service.get(page.replace("{{id}}", "Q6")).text
    assert service.get(manifest["documentation"]).status_code == 200


def test_a_batch_of_queries_has_candidates_with_scores_best_first(service):
    context = [{"pid": "sentence", "v": "Ann Powers was seen in the green city."}, {"pid": "Born", "v": [1942, "1943"]}]
    found = asked(
        service,
        {
            "q0": {"query": "Ann Powers"},
            "q1": {"query": "Ann Powers", "limit": 2, "properties": context},
            "q2": {"query": "Q6"},
            "q3": {"properties": context},
            "q4": {"query": HOSTILE},
        },
    )
    assert [len(found[name]) for name in ("q0", "q1", "q2", "q3", "q4")] == [5, 2, 1, 0, 5]
    assert found["q2"][0]["id"] == "Q6" and found["q2"][0]["match"] is True and found["q2"][0]["score"] == 100
    for candidates in found.values():
        scores = [one["score"] for one in candidates]
        assert scores == sorted(scores, reverse=True) and all(0 <= score <= 100 for score in scores)
    assert found["q0"][0]["score"] != found["q1"][0]["score"], "the sentence counts"


def test_types_keep_prefer_or_leave_out_candidates(service):
    query = {"query": "Powers", "limit": 20}
    found = asked(
        service,
        {
            "any": {**query, "type": "ship"},
            "several": {**query, "type": ["ship", "city"]},
            "all": {**query, "type": ["ship", "thing"], "type_strict": "all"},
            "not all": {**query, "type": ["ship", "city"], "type_strict": "all"},
            "should": {**query, "type": ["ship"], "type_strict": "should"},
            "every": {**query, "type": "entity"},
            "none": {**query, "type": "planet"},
        },
    )
    types = {name: [{one["id"] for one in each["type"]} for each in result] for name, result in found.items()}
    assert types["any"] and all("ship" in one for one in types["any"]) and types["all"] == types["any"]
    assert all(one & {"ship", "city"} for one in types["several"]) and {"city"} in types["several"]
    assert types["none"] == types["not all"] == [] and len(types["every"]) > len(types["any"])
    ships = ["ship" in one for one in types["should"]]
    assert ships == sorted(ships, reverse=True) and not all(ships) and any(ships)


BATCHES = (
    "{",
    "[]",
    "1",
    '{"q": 1}',
    '{"q": {}}',
    '{"q": {"query": 7}}',
    '{"q": {"query": "x", "type_strict": "odd"}}',
)


@pytest.mark.parametrize(
    "queries", [*BATCHES, '{"q": ' + DEEP + "}", json.dumps({str(n): {"query": "x"} for n in range(MOST + 1)})]
)
def test_what_is_no_batch_of_queries_is_refused_in_one_line(service, queries):
    answer = service.post("/reconcile", data={"queries": queries})
    assert answer.status_code == 400 and "queries" in answer.json()["error"] and len(answer.text) < 500


def test_hostile_text_is_shown_as_text_in_a_preview(service):
    text = service.get("/reconcile/preview", params={"id": "Q<u>"}).text
    assert "<script>" not in text and "<b>Ann" not in text and "&lt;script&gt;" in text and "{{ 7 * 7 }}" in text
    missing = service.get("/reconcile/preview", params={"id": "<script>alert(1)</script>"})
    assert missing.status_code == 404 and "script" not in missing.text


def test_a_client_library_reconciles_a_column(service):
    frame = pd.DataFrame({"name": ["Ann Powers", "Noel Harrison", "Q6"], "text": ["Ann Powers sang.", "", "A ship."]})
    found = reconcile(
        frame["name"],
        type_id="entity",
        property_mapping={"sentence": frame["text"]},
        reconciliation_endpoint=f"{service.base_url}/reconcile",
    )
    assert list(found["input_value"]) == list(frame["name"]) and found["id"].str.startswith("Q").all()
    assert found.iloc[2]["id"] == "Q6" and bool(found.iloc[2]["match"])
