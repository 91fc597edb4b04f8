"""The layout `wikidiverse`: what is kept of a release, what must not be, and a one-line error for everything
malformed."""

import json

import pytest
from data_faults import refused
from release_folders import WIKI, Wikidiverse, digest

from pipeline.datasets.layouts import layout, load


@pytest.fixture
def diverse(tmp_path):
    return Wikidiverse(tmp_path)


def test_wikidiverse_records_become_mentions_and_entities(diverse):
    dataset = diverse.load()
    first = dataset.mentions[0]
    assert (first.id, first.split, first.phrase, first.span, first.gold) == (
        "train.0",
        "train",
        "Lions",
        (4, 9),
        "Detroit Lions",
    )
    assert (first.type, first.group, first.given) == ("Organization", "sports", ("Lion", "Detroit Lions", "Elsewhere"))
    assert first.image == digest("Run.jpg") + ".jpg"
    assert [m.id for m in dataset.mentions] == ["train.0", "train.1", "dev.0", "dev.1", "test.0", "test.1"]
    assert [(e.id, e.name, e.description, e.type) for e in dataset.entities[:2]] == [
        ("Detroit Lions", "Detroit Lions", "A team.", "Organization"),
        ("Lion", "Lion", "A cat.", "Species"),
    ]


def test_wikidiverse_an_entitys_type_is_the_kbs_never_the_mentions(diverse):
    before = diverse.load().entities
    for records in diverse.splits.values():
        records[:] = [Wikidiverse.mention(type="Person") for _ in records]
    assert diverse.load().entities == before
    diverse.types = {"Organization": ["Lion"], "Species": ["lion"]}
    assert [e.type for e in diverse.load().entities] == [None, "Organization|Species", None, None]
    (diverse.folder / "type2entity.json").unlink()
    diverse.types = None
    assert {e.type for e in diverse.load().entities} == {None}


@pytest.mark.parametrize("entity", ["nil", "NIL", "", None])
def test_wikidiverse_nil(diverse, entity):
    assert diverse.first(entity=entity).gold is None


@pytest.mark.parametrize(
    ("written", "title"),
    [
        (WIKI + "Detroit_Lions", "Detroit Lions"),
        ("nhttps://en.wikipedia.org/wiki/Detroit_Lions", "Detroit Lions"),
        ("https://en.wikipedia.org//wiki/Detroit_Lions#History", "Detroit Lions"),
        ("Detroit Lions", "Detroit Lions"),
        (WIKI + "detroit_lions", "Detroit Lions"),
        (WIKI + "Catch-22", "Catch 22"),  # the description files write a blank for the hyphen
        (WIKI + "Beyonc%C3%A9", "Beyoncé"),
        (WIKI + "AC/DC", "AC/DC"),
        (WIKI + "Up-side", "Up-side"),  # two titles are as near: neither
        (WIKI + "Not_there", "Not there"),
    ],
)
def test_wikidiverse_titles_are_found_in_every_spelling(diverse, written, title):
    diverse.desc |= {"Catch 22": "A book.", "Beyoncé": "A singer.", "AC/DC": "A band.", "Up side": "", "up side": ""}
    mention = diverse.first(entity=written, candidates=[written])
    assert mention.gold == title and mention.given == (title,)


def test_wikidiverse_redirects_are_aliases_and_lead_to_their_entity(diverse):
    redirects = {
        "The_Lions_(Detroit)": "Detroit_Lions",
        "Motown Lions": "The Lions (Detroit)",  # through another one
        "Lion": "Detroit Lions",  # an entity itself
        "Elsewhere": "Nowhere",
        "Round": "About",
        "About": "Round",
    }
    (diverse.write() / "redirects.json").write_text(json.dumps(redirects))
    dataset = diverse.load()
    aliases = {entity.id: entity.aliases for entity in dataset.entities if entity.aliases}
    assert aliases == {"Detroit Lions": ("The Lions (Detroit)", "Motown Lions")}
    assert diverse.first(entity=WIKI + "Motown_Lions", candidates=[WIKI + "Round"]).gold == "Detroit Lions"
    assert diverse.first(entity=WIKI + "Round").gold == "Round"
    assert diverse.folder / "redirects.json" in dataset.sources


def test_wikidiverse_the_kb_is_what_the_description_files_name_first_description_first(diverse):
    diverse.write()
    (diverse.folder / "entities").mkdir()
    tsv = (
        "entity@@@@description\nLion@@@@Another text.\nIron_Man@@@@A man\nin iron.\n\n"
        "Mercury_(planet)@@@@A @@@@ planet.\n"
    )
    (diverse.folder / "entities" / "wikipedia_entity2desc_filtered.tsv").write_text(tsv)
    (diverse.folder / "entities" / "entity2brief_train.json").write_text(
        json.dumps({"Iron_Man": "x", "Sun": "A star."})
    )
    found = {e.id: e.description for e in load("toy", diverse.folder).entities}
    added = {"Iron Man": "A man in iron.", "Mercury (planet)": "A @@@@ planet.", "Sun": "A star."}
    assert found == diverse.desc | added and list(found)[:1] == ["Detroit Lions"]


@pytest.mark.parametrize(
    ("url", "there", "expected"),
    [
        ("https://x/a/Run.jpg", None, digest("Run.jpg") + ".jpg"),
        ("https://x/a/Run.SVG", None, digest("Run.SVG") + ".png"),
        ("https://x/a/R%C3%BCn.PNG", None, digest("R%C3%BCn.PNG") + ".PNG"),
        ("https://x/a/Run.gif", digest("Run.gif") + ".png", digest("Run.gif") + ".png"),  # converted
        ("https://x/a/Run.jpg", digest("https://x/a/Run.jpg") + ".jpg", digest("https://x/a/Run.jpg") + ".jpg"),
        ("https://x/a/Run", None, digest("Run")),
        ("https://x/a/..", None, digest("..")),
        ("https://x/a/b\0c.jpg", None, digest("b\0c.jpg") + ".jpg"),
        (" ", None, None),
        (None, None, None),
    ],
)
def test_wikidiverse_a_picture_is_named_by_the_md5_of_its_urls_file_name(diverse, url, there, expected):
    if there:
        (diverse.folder / "wikinewsImgs" / there).write_bytes(b"x")
    assert diverse.first(image=url).image == expected


def test_wikidiverse_pictures_that_leave_the_folder_are_refused(diverse, tmp_path_factory):
    (diverse.folder / "wikinewsImgs" / (digest("Run.jpg") + ".jpg")).symlink_to(
        tmp_path_factory.mktemp("outside") / "b.jpg"
    )
    assert "train_w_10cands.json: record 1 ('Lions')" in diverse.error(follow_links=False)


@pytest.mark.parametrize(
    "address",
    [
        "https://en.wikipedia.org/wiki/Lion?oldid=3",
        "https://en.m.wikipedia.org/wiki/Lion?oldid=3#Life",
        "https://en.wikipedia.org/wiki/Lion#Life?",
        "https://en.wikipedia.org/w/index.php?title=Lion&oldid=3",
        "https://en.wikipedia.org/w/index.php?oldid=3&title=Lion",
    ],
)
def test_wikidiverse_an_address_may_name_a_revision_or_a_section(diverse, address):
    assert diverse.first(entity=address).gold == "Lion"


def test_wikidiverse_entity_pictures_that_are_there_count(diverse):
    diverse.write()
    (diverse.folder / "images").mkdir()
    (diverse.folder / "wikipedia_entity2imgs.tsv").write_text(
        "entity@@@@images\nLion@@@@https://x/1.jpg[AND]https://x/2.svg[AND]https://x/3.png\nGone@@@@https://x/1.jpg\n"
    )
    for name in (digest("1.jpg") + ".jpg", digest("2.svg") + ".png"):
        (diverse.folder / "images" / name).write_bytes(b"x")
    images = {e.id: e.images for e in load("toy", diverse.folder).entities}
    assert images.pop("Lion") == (digest("1.jpg") + ".jpg", digest("2.svg") + ".png") and set(images.values()) == {()}


@pytest.mark.parametrize(
    ("changes", "span"),
    [
        ({}, (4, 9)),
        ({"mention": "lions"}, (4, 9)),
        ({"mention": "the", "start": 18, "end": 20}, (17, 20)),  # off by one: the nearest place
        ({"mention": "Lionz"}, (4, 9)),  # misspelt, as long as what the offsets cover
        ({"mention": "Bears", "start": 4, "end": 6}, None),
        ({"mention": "Bears", "start": 99, "end": 104}, None),
    ],
)
def test_wikidiverse_offsets_are_checked(diverse, changes, span):
    assert diverse.first(**changes).span == span


def test_wikidiverse_folders_of_the_release(diverse):
    diverse.write()
    for place in ("wikidiverse_w_cands", "candidates"):
        (diverse.folder / place).mkdir()
        for path in diverse.folder.rglob("*_w_10cands.json"):
            path.rename(diverse.folder / place / path.name)
        assert len(load("toy", diverse.folder).mentions) == 6 and layout(diverse.folder).__name__.endswith(
            "wikidiverse"
        )


WIKIDIVERSE_ERRORS = {
    "annotations without candidates": (
        lambda data: data.splits.update(test=[["The Lions.", "x.jpg", "sports", []]]),
        ["test_w_10cands.json: record 1", "a list of 4", "11 fields", "10 candidates"],
    ),
    "record is an object": (
        lambda data: data.splits["test"].append({}),
        ["test_w_10cands.json: record 3", "found dict"],
    ),
    "split is an object": (
        lambda data: data.splits.update(test={"a": 1}),
        ["test_w_10cands.json", "dict", "list of mentions"],
    ),
    "empty split": (lambda data: data.splits.update(test=[]), ["test_w_10cands.json", "an empty list"]),
    "phrase is a number": (lambda data: data.splits.update(test=[data.mention(mention=7)]), ["record 1", "int 7"]),
    "half a character": (
        lambda data: data.splits.update(test=[data.mention(sentence="\ud800")]),
        ["record 1 ('Lions')", "surrogate"],
    ),
    "offsets are text": (
        lambda data: data.splits.update(test=[data.mention(start="4")]),
        ["record 1 ('Lions')", "'start' holds str '4'", "expected an integer"],
    ),
    "candidates are text": (
        lambda data: data.splits.update(test=[data.mention(candidates="x")]),
        ["record 1 ('Lions')", "'candidates'", "list of entity URLs"],
    ),
    "candidate is a list": (
        lambda data: data.splits.update(test=[data.mention(candidates=[["x"]])]),
        ["record 1 ('Lions')", "'candidates'"],
    ),
    "half a candidate": (
        lambda data: data.splits.update(test=[data.mention(candidates=["\ud800"])]),
        ["record 1 ('Lions')", "surrogate"],
    ),
    "URL is a number": (
        lambda data: data.splits.update(test=[data.mention(entity=3)]),
        ["record 1 ('Lions')", "'entity URL'", "int 3"],
    ),
    "half an image": (
        lambda data: data.splits.update(test=[data.mention(image="\ud800.jpg")]),
        ["record 1 ('Lions')", "surrogate"],
    ),
    "description is a list": (lambda data: data.desc.update(Lion=["x"]), ["entity2desc.json", "'Lion'", "list ['x']"]),
    "entity without a name": (lambda data: data.desc.update({"_": "x"}), ["entity2desc.json", "without a name", "'x'"]),
    "half an entity": (lambda data: data.desc.update({"\ud800": "x"}), ["entity2desc.json", "surrogate"]),
    "type is text": (lambda data: data.types.update(Works="Lion"), ["type2entity.json", "'Works'", "list of entities"]),
    "half a type": (lambda data: data.types.update({"\ud800": ["Lion"]}), ["type2entity.json", "surrogate"]),
    "descriptions are a list": (lambda data: setattr(data, "desc", ["x"]), ["entity2desc.json", "found list"]),
}


@pytest.mark.parametrize("fault", WIKIDIVERSE_ERRORS)
def test_wikidiverse_faults_name_file_record_and_remedy(diverse, fault):
    break_it, parts = WIKIDIVERSE_ERRORS[fault]
    break_it(diverse)
    message = diverse.error()
    for part in [str(diverse.folder), *parts]:
        assert part in message


def test_wikidiverse_files_that_are_not_there_or_not_readable_are_named(diverse):
    path = diverse.write() / "valid_w_10cands.json"
    text = path.read_text()
    path.write_text("\n" + text[:-3])
    assert f"{path}:2:" in refused(lambda: load("toy", diverse.folder))
    path.unlink()
    assert "dev_w_10cands.json (valid for dev), found none" in refused(lambda: load("toy", diverse.folder))
    path.write_text(text)
    (diverse.folder / "entity2desc.json").unlink()
    assert "no file that describes the entities; add entity2desc.json" in refused(lambda: load("toy", diverse.folder))
    tsv = diverse.folder / "wikipedia_entity2desc_filtered.tsv"
    tsv.write_text("Lion\tA cat.\n")
    assert f"{tsv}: no line of the form entity@@@@text" in refused(lambda: load("toy", diverse.folder))
    tsv.write_bytes(b"Lion@@@@A cat.\n\xff\n")
    assert f"{tsv}:2: not UTF-8" in refused(lambda: load("toy", diverse.folder))
    tsv.write_bytes(b"\xef\xbb\xbfLion@@@@A cat.\n")
    assert [e.id for e in load("toy", diverse.folder).entities] == ["Lion"]


def test_wikidiverse_a_malformed_redirect_is_left_out_and_listed(diverse):
    diverse.write()
    (diverse.folder / "redirects.json").write_text(json.dumps({"Tiger": 7, "King of beasts": "Lion"}))
    raw = load("toy", diverse.folder, max_bad_records=0.5)
    assert "redirects.json: 'Tiger'" in raw.rejects[0] and len(raw.rejects) == 1
    assert {e.id: e.aliases for e in raw.entities}["Lion"] == ("King of beasts",)
