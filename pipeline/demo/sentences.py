"""Sentences around a phrase that state a given set of facts and nothing else.

A neutral frame fits an entity of any kind; a frame of a kind gives the kind away, and is used only where it may.
"""

import random
from collections.abc import Sequence

from pipeline.demo.looks import KINDS, UNSEEN

NEUTRAL = (
    "a letter about {m} came with the morning post",
    "everyone at the table asked about {m}",
    "the children drew {m} after the visit",
    "an old album opened at the page on {m}",
    "nobody in the hall had expected {m}",
    "the radio spoke of {m} all evening",
    "the museum shop sells postcards of {m}",
    "a short film about {m} won the prize",
    "the newspaper printed a picture of {m}",
    "two visitors argued over {m} until noon",
    "the quiz had a question on {m}",
    "her diary mentions {m} only once",
    "the guide pointed at {m} and smiled",
    "they named a street after {m}",
    "the stamp shows {m}",
    "a poster of {m} hung in the station",
    "the exhibition closes with {m}",
    "the archive keeps a box of papers on {m}",
    "{m} drew a crowd again",
    "{m} appears on the first page",
    "{m} was missing from the catalogue",
    "{m} has been the talk of the week",
    "{m} was photographed in the rain",
    "for many readers {m} came as a surprise",
    "the speaker ended with a word on {m}",
    "a blurred photograph of {m} sold for little",
)
OF_KIND = {
    "person": (
        "{m} shook hands with the mayor",
        "{m} gave a talk last night",
        "{m} spent the winter writing",
        "reporters waited for {m} at the door",
        "{m} married for a second time",
        "friends remember {m} as cheerful",
    ),
    "ship": (
        "{m} left the harbour at dawn",
        "the crew of {m} went ashore",
        "{m} lay at anchor for a week",
        "{m} ran aground in the fog",
        "the captain brought {m} home",
        "{m} was towed to the yard",
    ),
    "city": (
        "the road to {m} was closed",
        "the council of {m} met on Monday",
        "tourists come to {m} in spring",
        "the mayor of {m} resigned",
        "snow fell on {m} overnight",
        "{m} built a new tram line",
    ),
    "team": (
        "{m} won at home",
        "the coach of {m} praised the defence",
        "{m} lost after extra time",
        "supporters of {m} sang for hours",
        "{m} signed a new goalkeeper",
        "{m} trains on the island",
    ),
    "animal": (
        "{m} slept in the straw",
        "the keeper fed {m} twice a day",
        "{m} took the sugar from her hand",
        "the vet looked after {m}",
        "{m} ran ahead of its owner",
        "visitors may stroke {m}",
    ),
    "instrument": (
        "she tuned {m} before the concert",
        "{m} sounded clear in the hall",
        "the soloist played {m}",
        "{m} was restored in the workshop",
        "{m} needs dry air in its case",
        "the orchestra borrowed {m}",
    ),
    "flower": (
        "{m} opened early this year",
        "gardeners water {m} sparingly",
        "{m} likes chalky soil",
        "the first cuttings of {m} have roots",
        "bees gather around {m}",
        "{m} was on show at the nursery",
    ),
    "locomotive": (
        "{m} pulled the morning train",
        "the driver let {m} cool down",
        "{m} stood in the shed all winter",
        "{m} climbed the pass slowly",
        "steam rose from {m} at the platform",
        "the line was opened by {m}",
    ),
}
OPEN_KIND = ("one of several from {}", "well known in {}", "long tied to {}")
OPENERS = ("",) * 4 + (
    "on Tuesday ",
    "that summer ",
    "this time ",
    "once more ",
    "years later ",
    "in the end ",
    "at noon ",
    "before the war ",
    "last week ",
)
CLOSERS = (", as the caption says", ", by all accounts", ", they say", ", one reads", "")
POINTERS = ("the one in the picture", "the one in the photograph", "the one on the poster", "the one on the stamp")
POINTED = ("; not so {m}", ", unlike {m}", "; nobody spoke of {m}", ", and then there is {m}")
TWICE = ("{m}, always {m}: ", "first {m}, then again {m}: ", "who speaks of {m} means {m}: ")


def say(phrase: str, kind: str | None, stated: dict[str, str], rng: random.Random) -> tuple[str, int, bool]:
    """A sentence with `phrase` that states `stated` (slot → value) of an entity of `kind`; `kind` None keeps the kind
    open.

    Returns the sentence, the offset of the phrase that is meant, and whether the phrase stands there more than once.
    """
    frames = NEUTRAL if kind is None or rng.random() < 0.4 else OF_KIND[kind]
    frame = rng.choice(OPENERS) + rng.choice(frames)
    facts = _description(kind, stated, rng)
    way = rng.random()
    if not facts:
        text = frame
    elif way < 0.45:
        text = frame.replace("{m}", "{m}, " + facts + ("" if frame.endswith("{m}") else ","), 1)
    elif way < 0.75:
        text = f"{frame}. {facts[0].upper()}{facts[1:]}{rng.choice(CLOSERS)}"
    else:
        text = f"{facts}: {frame}"
    twice = rng.random() < 0.05
    if twice:
        text = rng.choice(TWICE) + text
    text = text[0].upper() + text[1:] + "."
    start = text.rindex("{m}")
    before = text[:start].replace("{m}", phrase)
    return before + phrase + text[start + len("{m}") :], len(before), twice


def point(other: str, kind: str, stated: dict[str, str], rng: random.Random) -> tuple[str, str, int]:
    """A phrase that points at a picture, a sentence that states `stated` of `other` and ends in the phrase, and the
    phrase's offset.
    """
    phrase = rng.choice(POINTERS)
    before, _, after = rng.choice(POINTED).partition("{m}")
    text = say(other, kind, stated, rng)[0].removesuffix(".") + before
    return phrase, f"{text}{phrase}{after}.", len(text)


def _description(kind: str | None, stated: dict[str, str], rng: random.Random) -> str:
    """The stated facts as one noun phrase, unseen slots before visible ones; empty when nothing is stated."""
    if kind is None:
        region = stated.get("region")
        return rng.choice(OPEN_KIND).format(region) if region else ""
    if not stated:
        return ""
    say_slot = KINDS[kind].phrase
    head = say_slot("role", stated["role"]) if "role" in stated else kind
    head = f"the {head}" if rng.random() < 0.6 else with_article(head)
    tails = [say_slot(slot, stated[slot]) for slot in UNSEEN if slot != "role" and slot in stated]
    rng.shuffle(tails)
    seen = listed([with_article(say_slot(slot, value)) for slot, value in stated.items() if slot not in UNSEEN])
    return head + "".join(f" {tail}" for tail in tails) + (f" with {seen}" if seen else "")


def with_article(words: str) -> str:
    """`a hat`, `an anchor emblem`, but `glasses`, `one sail`, `red hair`."""
    last = words.split()[-1]
    if last == "hair" or words.startswith("one ") or (last.endswith("s") and last != "cross"):
        return words
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def describe(name: str, kind: str, traits: dict[str, str]) -> str:
    """Two sentences on an entity: unseen facts, and what its pictures show."""
    say_slot = KINDS[kind].phrase
    unseen = " ".join(say_slot(slot, traits[slot]) for slot in ("region", "decade"))
    seen = listed([with_article(say_slot(slot, traits[slot])) for slot in KINDS[kind].sayable(traits)])
    return (
        f"{name} is a {kind}, the {traits['role']} {unseen}, {say_slot('fame', traits['fame'])}. Pictures show {seen}."
    )
