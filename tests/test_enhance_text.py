"""Texts of pages and answers: what is taken out, what is kept, where they end, and which answers say nothing."""

import pytest

from pipeline.datasets.records import Entity
from pipeline.enhance import prompts
from pipeline.enhance.text import html_text, opening, paragraphs, shorten
from pipeline.servers.titles import page_key, possible


def test_wikitext_loses_markup_references_and_everything_after_the_introduction():
    raw = (
        "{{Infobox|name={{lang|x}}}}\n'''Ann Powers''' ({{IPA|æn}}; born 1900) is an "
        '[[actor|American actor]].<ref name="a">{{cite}}</ref>[1][note 2]\n'
        "She won [https://example.org/x the prize] &amp; more.<!-- no -->\n"
        "{| class=x\n|-\n| cell\n|}\n\n== Life ==\nLater."
    )
    assert paragraphs(raw) == ["Ann Powers (born 1900) is an American actor.", "She won the prize & more."]


def test_lines_broken_in_mid_sentence_are_one_paragraph_and_the_first_two_are_taken():
    raw = "Ann Powers is an actor\nwho lives in\nRed City.\nSecond one.\n\n\nThird one."
    assert opening(raw, 2, 1000) == "Ann Powers is an actor who lives in Red City. Second one."


def test_html_gives_its_paragraphs_without_tables_notes_and_styles():
    page = (
        "<div><table><tr><td><p>box</p></td></tr></table><p>Hello <b>World</b><sup>[1]</sup>.</p>"
        "<style>p {}</style><p></p><p>Two &lt; three.</p>"
    )
    assert opening(html_text(page), 2, 100) == "Hello World. Two < three."


def test_markdown_of_a_model_becomes_plain_text():
    assert (
        opening("## Ann\n**Ann Powers** is an *actor*.\n\n- born 1900\n- lives [here](https://x.org/a)", None, 500)
        == "Ann Powers is an *actor*. born 1900 lives here"
    )


@pytest.mark.parametrize(
    ("text", "limit", "kept"),
    [
        ("One two. Three four five.", 20, "One two. Three four"),
        ("One two three. Four five.", 18, "One two three."),
        ("Abcdefghij", 4, "Abcd"),
        ("Short.", 10, "Short."),
        ("王菲是歌手。她在北京演唱。她還", 13, "王菲是歌手。她在北京演唱。"),
        ("王菲在北京演唱歌曲", 4, "王菲在北"),
        ("กรุงเทพ", 5, "กรุง"),  # not between a letter and what is written before it or above it
        ("वह दिल्ली में है। वह गाती", 20, "वह दिल्ली में है।"),
    ],
)
def test_a_long_text_ends_at_a_sentence_else_at_a_word(text, limit, kept):
    assert shorten(text, limit) == kept and len(kept) <= limit


def test_control_characters_and_half_surrogates_are_not_written():
    assert opening("A\x00nn\u200b is\ud800 a\tn actor.", None, 100) == "Ann is a n actor."
    opening("\ud800\udfff", None, 10).encode()


@pytest.mark.parametrize("part", ["{{", "[[", "<ref ", "'", "(", "= ", "<!--", "[https://", "a\n", "<p>a<b>", "</"])
def test_hostile_markup_ends_in_a_short_text(part):
    raw = part * (1_000_000 // len(part))
    for text in (opening(raw, 2, 100), opening(html_text(raw), 2, 100)):
        assert len(text) <= 100


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("https://en.wikipedia.org/wiki/AC/DC", "AC/DC"),
        ("http://www.wikidata.org/entity/Q12", "Q12"),
        ("ann_Powers ", "Ann Powers"),
        ("Caf%C3%A9_(film)", "Café (film)"),
        ("100% Fun", "100% Fun"),
        ("", ""),
    ],
)
def test_a_page_has_one_key_however_it_is_written(name, key):
    assert page_key(name) == key and page_key(key) == key


def test_names_that_no_page_can_have_are_told_apart():
    assert possible("Ann Powers") and not any(map(possible, ["", "a|b", "x[y]", "C#", "é" * 128, ".", ":x"]))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (
            "Enno Hagenah is a private individual without significant public recognition or fame. Without more "
            "specific information, it is difficult to provide a comprehensive introduction.",
            "unknown",
        ),
        ("I’m sorry, but I couldn't find any information about Bob.", "unknown"),
        ("As an AI language model, I don't have information about that person.", "unknown"),
        ("Could you please provide more context?", "unknown"),
        ("There is no publicly available information about X.", "unknown"),
        ("<think>I do not know? I do.</think>Ann Powers is an actor.", "described"),
        ("[THINK]I do not know? I do.[/THINK]Ann Powers is an actor.", "described"),
        ("<reasoning>a</reasoning><reasoning>b</reasoning>Ann Powers is an actor.", "described"),
        ("<|channel|>analysis<|message|>I do not know?<|channel|>final<|message|>Ann is an actor.", "described"),
        ("<think>Ann Powers is an actor, or so I recall", "empty"),
        ("I'm sorry, but I can't assist with that.", "refused"),
        ("I cannot provide personal information about private people.", "refused"),
        ("Ann Powers is an American politician. She once said that she is sorry for what she did.", "described"),
        ("Ann Powers is an actor. " * 30 + "I do not have more information.", "described"),
        ("  ...", "empty"),
        ("", "empty"),
    ],
)
def test_answers_that_say_nothing_are_recognised(answer, kind):
    assert prompts.kind(answer, "stop") == kind


@pytest.mark.parametrize("answer", [None, "", "<think>\nOkay, the user asks", "[THINK]Let me recall"])
def test_an_answer_that_was_cut_before_the_description_began_is_cut(answer):
    assert prompts.kind(answer, "length") == "cut"


@pytest.mark.parametrize(
    "answer",
    ["[THINK]Recall.[/THINK]Ann sings.", "<think>\nRecall.\n</think>\n\nAnn sings.", "Recall.</think>Ann sings."],
)
def test_reasoning_is_no_part_of_the_description(answer):
    assert prompts.description(answer, 100) == "Ann sings."


def test_what_the_server_says_of_an_answer_counts_too():
    assert (
        prompts.kind("Ann is", "content_filter") == "refused"
        and prompts.kind(None, "refusal") == "refused"
        and prompts.kind(None, "too long") == "too long"
    )


def test_names_with_braces_are_left_as_they_are_and_unknown_fields_are_refused():
    questions = prompts.Prompts()
    assert questions.first(Entity("x", "{static} {0}"))[-1]["content"] == "Who is this one? {static} {0}"
    with pytest.raises(Exception, match=r"--question: unknown field \{nmae\}; did you mean 'name'"):
        prompts.Prompts(question="Who is {nmae}?")
