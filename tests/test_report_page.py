"""The page: one file that loads nothing, in which no text becomes markup; looked at in a real browser."""

import html.parser
import json
import re
from dataclasses import replace

import browser
import numpy as np
import pytest
import report_world

from heads.contracts import TrainingJob
from report import agreement, curves
from report.page.render import embedded
from report.page.write import write_explained, write_page
from report.runs import Epoch, History


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A page of 1,000 cases, and what stands in it as data."""
    folder = tmp_path_factory.mktemp("page")
    job = report_world.job(folder, mentions=3200, cases=1000)
    result = write_explained(job, report_world.explanations)
    text = job.out.read_text(encoding="utf-8")
    return {"path": job.out, "text": text, "result": result, "data": data_in(text)}


def data_in(page: str) -> dict:
    """The JSON in the page, as an HTML parser finds it."""
    pieces: list[str] = []

    class Reader(html.parser.HTMLParser):
        inside = False

        def handle_starttag(self, tag, attrs):
            self.inside = tag == "script" and ("id", "book") in attrs

        def handle_data(self, data):
            if self.inside:
                pieces.append(data)

        def handle_endtag(self, tag):
            self.inside = False

    Reader().feed(page)
    return json.loads("".join(pieces))


def test_the_page_holds_all_it_shows_and_names_nothing_to_load(made):
    assert made["result"].cases == 1000 == len(made["data"]["cases"]) and made["result"].bytes == len(
        made["text"].encode()
    )
    markup = re.sub(r"<script.*?</script>|<style.*?</style>", "", made["text"], flags=re.S)
    assert not re.findall(r"(?:src|href|action|data|poster)\s*=\s*[\"'](?!#|data:)", markup), (
        "only places in the page itself"
    )
    assert "://" not in markup and "@import" not in made["text"] and "url(" not in made["text"]
    assert "default-src &#39;none&#39;" in made["text"]
    for name in (
        "drin",
        "mimic",
        "test, full-kb and candidates and rerank (",
        "PUBLISHED",
        "Learning curves",
        "mentions by split",
        "gold in train: yes",
        "At least one is right",
    ):
        assert name in markup, name


def test_no_text_from_data_becomes_markup(made):
    tags: list[str] = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append(tag)
            assert not [name for name, _ in attrs if name.startswith("on")]

    Reader().feed(made["text"])
    assert tags.count("script") == 2 and "img" not in tags and tags.count("b") == made["text"].count("<b>")
    assert any(report_world.HURT in "".join(case["text"]) for case in made["data"]["cases"])


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "\u2028\u2029", "\ud800", "]]>", "&lt;", '"\\"'])
def test_embedded_json_is_what_went_in_and_ends_no_element(text):
    inside = embedded({"a": [text], text: 1})
    assert json.loads(inside) == {"a": [text], text: 1} and not set("<>&\u2028\u2029") & set(inside)
    inside.encode()


def test_curves_lie_within_their_chart_and_mark_the_epoch_that_is_kept():
    histories = {
        "a": History(tuple(Epoch(epoch, 10 / epoch, mrr) for epoch, mrr in enumerate((0.2, 0.6, 0.4), 1)), 2),
        "b": History((Epoch(1, float("nan"), 0.5),), 1),
        "c": History(),
    }
    both, loss = curves.charts(histories)
    assert [line.label for line in both.curves] == [
        "a: 0.6 at epoch 2, which is kept",
        "b: 0.5 at epoch 1, which is kept",
    ]
    assert both.rows[0] == ("a", "3", "2", "0.6000")
    (falling,) = loss.curves
    assert loss.title.startswith("a: ") and falling.label == "a: 5 at epoch 2, which is kept", "not the lowest loss"
    assert loss.rows == (("a", "3", "2", "5.0000"),)
    places = np.array([point.split(",") for line in both.curves for point in line.points.split()], float)
    assert (places >= 0).all() and (places <= both.size).all()
    for line in (both.curves[0], falling):
        assert ",".join(map(str, line.kept)) == line.points.split()[1]
    assert curves.charts({"c": History()}) == []


def test_a_start_that_is_kept_is_marked_at_epoch_0():
    start = History((Epoch(0, None, 0.7), Epoch(1, 2.0, 0.6), Epoch(2, 1.0, 0.5)), 0)
    both, loss, _ = curves.charts({"a": start, "b": History((Epoch(1, 3.0, 0.1), Epoch(2, 2.0, 0.2)), 2)})
    assert both.curves[0].label == "a: 0.7 at epoch 0, which is kept" and both.rows[0] == ("a", "2", "0", "0.7000")
    (mark, first), (other, _) = (line.points.split()[:2] for line in both.curves)
    assert ",".join(map(str, both.curves[0].kept)) == mark
    assert [text for _, text in both.x_ticks] == ["0", "1", "2"]
    assert float(mark.split(",")[0]) < float(first.split(",")[0]) == float(other.split(",")[0])
    assert loss.curves[0].kept is None and loss.rows == (("a", "2", "0", "–"),)


def test_lengths_of_sentences_are_shares_of_each_splits_samples_under_the_names_of_their_bins(made):
    lengths = [0] * 13
    lengths[1], lengths[12] = 3, 1
    chart = curves.lengths_chart(
        {"train": {"samples": 4, "lengths": lengths}, "all": {"samples": 4, "lengths": lengths}}
    )
    assert [line.name for line in chart.curves] == ["train"] and [text for _, text in chart.x_ticks][::12] == [
        "0–4",
        "60+",
    ]
    heights = [float(point.split(",")[1]) for point in chart.curves[0].points.split()]
    assert heights[1] == min(heights) and heights[12] < heights[2] == max(heights)
    assert "Length of sentences" in made["text"] and "words in a sentence, % of samples" in made["text"]


def test_an_account_of_before_is_shown_with_the_statistics_of_its_texts(tmp_path):
    job = report_world.job(tmp_path, mentions=30, cases=0)
    path = job.cases.prepared / "account.json"
    account = json.loads(path.read_text())
    del account["texts"], account["seal"]
    path.write_text(json.dumps(account))
    write_page(job)
    assert "texts by split" in job.out.read_text()


def test_a_page_says_how_many_candidates_a_mention_has_in_the_lists_of_its_runs(tmp_path):
    job = report_world.job(tmp_path, mentions=30, cases=0)
    ids = np.full((30, 4), -1, np.int32)
    for row in range(30):
        ids[row, : row % 3 + 1] = 0  # train, dev, test take turns: 1, 2 and 3 candidates
    np.savez(tmp_path / "lists.npz", ids=ids)
    training = TrainingJob(
        method="mimic", config={}, inputs=(), dataset=tmp_path, candidates=tmp_path / "lists.npz", out=tmp_path
    )
    write_page(replace(job, cases=replace(job.cases, trainings={"mimic": training})))
    text = re.sub(r"<[^>]+>|\s+", " ", job.out.read_text())
    assert re.search(r"candidates per mention +train +dev +test +all +mean +1\.0 +2\.0 +3\.0 +2\.0 ", text)


def test_an_epoch_whose_loss_is_not_known_is_marked_nowhere():
    (loss,) = curves.charts({"a": History((Epoch(1, 2.0), Epoch(2, None)), 2)})
    assert loss.curves[0].kept is None and loss.rows == (("a", "1", "2", "–"),)


def test_cards_name_their_protocol_and_stand_in_order_of_rank_in_the_colours_of_the_curves(made):
    cards = re.findall(r'<li class="tile c(\d)">(.*?)</li>', made["text"], re.S)
    shown = [tuple(re.findall(r'class="(?:name|large|unit|small)">(.*?)</span>', card)) for _, card in cards]
    first, hits = [one[0] for one in shown], [float(one[1]) for one in shown]
    assert hits == sorted(hits, reverse=True) and len(set(hits)) == 3
    assert first[:1] == ["mimic"] and first[2:] == ["drin"]
    assert {one[2] for one in shown} == {"H@1, full-kb"}
    assert [int(colour) for colour, _ in cards] == [1, 2, 0], "their places among the methods, as in the charts"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.61, 0.64), (5, 5), (-3, 700), (1e-6, 2e-6), (0, 0)])
def test_ticks_are_round_few_and_around_the_values(low, high):
    steps = curves.ticks(low, high)
    assert steps[0] <= low and steps[-1] >= high and 1 <= len(steps) <= 7 and len(set(np.diff(steps).round(9))) <= 1


def test_agreement_counts_who_is_right_where_others_are_wrong():
    right = np.array([[1, 1, 0, 0], [1, 0, 1, 0]], bool)
    how_many, pairs = agreement.agreement(["a", "b"], right)
    assert [[cell.text for cell in row] for row in how_many.rows] == [
        ["none", "1", "25.00"],
        ["1", "2", "50.00"],
        ["all 2", "1", "25.00"],
    ]
    assert "75.00" in how_many.notes[0] and "50.00" in how_many.notes[0]
    assert [[cell.text for cell in row] for row in pairs.rows] == [["a", "", "1"], ["b", "1", ""]]


def test_a_page_without_cases_and_without_asking_the_heads(tmp_path):
    job = report_world.job(tmp_path, mentions=30, cases=0)
    assert write_page(job).cases == 0
    assert data_in(job.out.read_text())["cases"] == []


# In the browser.


@pytest.fixture(scope="module")
def tab(made, tmp_path_factory):
    with browser.page(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def page(tab, made):
    """The page freshly opened in a window of a desktop; nothing went wrong in it when the test is over."""
    tab.errors.clear()
    tab.open(made["path"].as_uri())
    yield tab
    assert tab.errors == [] and tab.requests == []
    assert tab.value("window.hurt") is None, "a script from the data ran"


def wait(page) -> None:
    """Until the page is drawn."""
    page.value("new Promise(done => setTimeout(done, 500))")


def count(page) -> int:
    page.value("new Promise(done => setTimeout(done, 250))")
    return int(page.value("document.getElementById('count').textContent").split()[0].replace("No", "0"))


def choose(page, selector: str, value: str) -> None:
    page.value(
        f"(() => {{ const field = document.querySelector({json.dumps(selector)}); field.value = {json.dumps(value)};"
        "field.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def test_a_thousand_cases_are_there_and_only_what_is_looked_at_is_built(page):
    assert count(page) == 1000
    built = page.value("document.querySelectorAll('article').length")
    assert 0 < built < 100
    page.value("document.getElementById('more').scrollIntoView({behavior: 'instant'})")
    wait(page)
    assert built < page.value("document.querySelectorAll('article').length") < 200
    assert page.value("document.querySelectorAll('article img, article image').length") > 10
    assert (
        page.value(
            "[...document.querySelectorAll('article img')].slice(0, 5).map(i => i.decode().then(() => 1)).length"
        )
        == 5
    )


def test_hostile_text_is_shown_as_text(page, made):
    hurt = report_world.HURT
    page.value("document.getElementById('open').click(); new Promise(done => setTimeout(done, 400))")
    assert hurt in page.value("document.querySelector('article .sentence').textContent")
    assert hurt in page.value("document.getElementById('outcomes').textContent") and hurt in page.value(
        "document.querySelector('h1').textContent"
    )
    markup = "article script, article b:not(.gold b):not(.found b), main iframe, [onerror], [onload]"
    assert page.value(f"document.querySelectorAll('{markup}').length") == 0
    assert page.value("document.scripts.length") == 2
    choose(page, "#query", "onerror=")
    assert count(page) == 1000, "each sentence says so"


def test_nothing_but_the_page_s_own_script_can_run_or_load(page, made):
    page.value(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hurt = 3'}))"
    )
    page.value(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hurt=4\"><p style=\"color: red\">')"
    )
    refused = page.value("fetch('http://127.0.0.1:9/').then(() => 'came', () => 'refused')")
    assert refused == "refused" and page.value("window.hurt") is None
    assert len(page.errors) >= 3 and all("Content Security Policy" in error for error in page.errors)
    page.errors.clear()
    page.requests.clear()


def test_filters_find_what_the_data_says(page, made):
    cases = made["data"]["cases"]
    choose(page, "#query", "gus number")
    assert count(page) == sum(
        case["phrase"] == "Gus"
        or "Gus" in {made["data"]["entities"][i["id"]]["name"] for t in case["methods"].values() for i in t["top"]}
        or (case["gold_known"] and made["data"]["entities"][case["gold"]]["name"] == "Gus")
        for case in cases
    )
    choose(page, "#query", "CLEO")
    shown = count(page)
    assert shown > 0 and "Cléo" in page.value("document.querySelector('article').textContent"), (
        "without regard to case and accents"
    )
    choose(page, "#query", "")
    choose(page, '[data-method="drin"]', "right")
    choose(page, '[data-method="mimic"]', "wrong")
    expected = [
        case
        for case in cases
        if case["methods"]["drin"]["right"] is True and case["methods"]["mimic"]["right"] is False
    ]
    assert count(page) == len(expected) > 20
    ids = page.value("[...document.querySelectorAll('article h3')].map(title => title.id)")
    assert ids == [f"case-{case['id']}" for case in expected[: len(ids)]]
    part = next(number for number, name in enumerate(made["data"]["parts"]) if name.startswith("group: hard"))
    choose(page, "#part", str(part))
    assert count(page) == sum(part in case["parts"] for case in expected) > 5
    page.value("document.querySelector('button[type=reset]').click()")
    assert count(page) == 1000
    verdicts = [{answer["right"] for answer in case["methods"].values()} - {None} for case in cases]
    for value, wanted in {"some": {True, False}, "all": {True}, "none": {False}}.items():
        choose(page, "#dispute", value)
        assert count(page) == sum(verdict == wanted for verdict in verdicts) > 0, value
    choose(page, "#query", "no such text anywhere")
    assert count(page) == 0 and page.value("document.querySelectorAll('article').length") == 0


def test_a_case_shows_its_phrase_gold_candidates_edges_units_and_expert(page, made):
    page.value("document.getElementById('open').click(); new Promise(done => setTimeout(done, 400))")
    first = made["data"]["cases"][0]
    article = "document.querySelector('article')"
    assert page.value(f"{article}.querySelector('mark').textContent") == first["phrase"]
    known = next(case for case in made["data"]["cases"] if case["gold_known"] and case["methods"]["drin"]["right"])
    choose(page, "#query", known["id"])
    assert count(page) == 1
    assert (
        page.value(f"{article}.querySelectorAll('.answer').length") == 3
        and page.value(f"{article}.querySelectorAll('.answer:first-child li').length") == 5
    )
    assert known["gold"] in page.value(f"{article}.querySelector('.is-gold').textContent")
    text_shown = page.value(f"{article}.textContent")
    for text in (
        "Edges",
        "text–text",
        "0.251.13".replace("0.25", "0.50"),
        "Scores of its units",
        "cross-modal",
        "expert: ",
        "Attention over objects",
        "whole picture",
    ):
        assert text in text_shown, text


@pytest.mark.parametrize("width", [320, 390, 768])
def test_narrow_windows_need_no_scrolling_sideways(tab, made, width):
    tab.open(made["path"].as_uri(), width, 800)
    tab.value("document.querySelectorAll('details').forEach(one => one.open = true)")
    tab.value("document.getElementById('open').click()")
    wait(tab)
    right = "one.getBoundingClientRect().right"
    too_wide = (
        f"[...document.querySelectorAll('main *')].filter(one => {right} > {width} + 1 && !one.closest('.scroll, svg'))"
        ".map(one => one.outerHTML.slice(0, 120))"
    )
    assert tab.value("document.documentElement.scrollWidth") <= width, tab.value(too_wide)
    assert tab.value(f"[...document.querySelectorAll('button, select')].every(one => {right} <= {width})")


def test_dark_is_dark_and_both_schemes_are_readable(tab, made):
    light = {}
    for dark in (False, True):
        tab.open(made["path"].as_uri(), dark=dark)
        light[dark] = tab.value("getComputedStyle(document.body).backgroundColor")
        for selector in (
            "body",
            ".note",
            ".tag",
            ".verdict",
            ".tile .small",
            "td.best",
            ".entry small",
            "mark",
            "thead th",
            ".bar a",
            "button",
            ".chart .tick",
        ):
            ratio = tab.value(f"({CONTRAST})({json.dumps(selector)})")
            assert ratio >= 4.5, (selector, dark, ratio)
    brightness = {dark: sum(map(int, re.findall(r"\d+", colour)[:3])) for dark, colour in light.items()}
    assert brightness[True] < 150 < 600 < brightness[False]


CONTRAST = """selector => {
  const node = document.querySelector(selector);
  const style = getComputedStyle(node);
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const shine = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  let under = node, ground = [255, 255, 255];
  while (under) {
    const rgba = numbers(getComputedStyle(under).backgroundColor);
    if (rgba.length < 4 || rgba[3] > .5) { ground = rgba; break; }
    under = under.parentElement;
  }
  const text = shine(numbers(node instanceof SVGElement ? style.fill : style.color));
  const back = shine(ground);
  return (Math.max(text, back) + .05) / (Math.min(text, back) + .05);
}"""


def test_it_can_be_used_by_keyboard_and_every_field_is_named(page):
    for fields, is_named in (
        ("input, select", "one.labels.length && one.labels[0].textContent.trim()"),
        ("img", "one.alt"),
        ("svg:not([aria-hidden])", "one.getAttribute('aria-label')"),
    ):
        assert page.value(f"[...document.querySelectorAll('{fields}')].every(one => {is_named})"), fields
    page.key("Tab")
    assert page.value("document.activeElement.textContent") == "Skip to the cases"
    page.key("Enter")
    page.key("Tab")
    assert (
        page.value("document.activeElement.id") == "query"
        and page.value("getComputedStyle(document.activeElement).outlineStyle") != "none"
    )
    assert 0 <= page.value("document.activeElement.getBoundingClientRect().top") < 900
