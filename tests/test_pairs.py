"""Pair features against plain loops over every pair: what is masked, what several rows give, what is refused."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rapidfuzz import fuzz

from cache.identity import Output, content_key, identity
from cache.inputs import Input, Want
from cache.shard import Status
from cache.store import Store
from foundation.contracts import from_json, to_json
from foundation.errors import UserError
from foundation.paths import Paths
from foundation.spelling import clean
from pipeline.candidates.contracts import CandidateLists
from pipeline.candidates.lists import RankedLists
from pipeline.datasets.prepared import Columns
from pipeline.extraction.contracts import Extraction, FeatureRows
from pipeline.pairs import _blocks, _products, registry
from pipeline.pairs.base import CandidatePairs
from pipeline.pairs.contracts import PairFeature, PairInput, PairJob
from pipeline.pairs.job import pair_job
from pipeline.pairs.names import NAME_SIMILARITY
from pipeline.pairs.objects import ENTITY_OBJECTS, MENTION_OBJECTS
from pipeline.pairs.roles import SERVED
from pipeline.pairs.stage import build_pairs
from pipeline.pairs.texts import Texts
from pipeline.pairs.values import RecordValues

M, N, K = 23, 17, 6
FEATURES = {want.feature for want in SERVED.values()}
CONFIDENCES = Output("confidences", (), "float32", True)
VECTORS, BOX = Output("vectors", (5,), ragged=True), Output("box", (), "int32", True)
PHRASES = [f"Person {i}" if i % 3 else f"the old, (person) {i}" for i in range(M)]
NAMES = [f"person {i}" if i % 2 else f"Old Person {i} of the Person" for i in range(N)]
SENTENCES = [
    f"In {1900 + i} {phrase} sang, {f'and old in {1950 + i}' if i % 2 else 'a song of a Person'}."
    for i, phrase in enumerate(PHRASES)
]
ATTRIBUTES = [
    f"Birth: {1850 + i}.{f' Death: {1930 + i}.' if i % 3 else ''} Work: song, songs" if i % 4 else "Sang."
    for i in range(N)
]
DESCRIPTIONS = [None if i % 2 else f"Old, no. {i}12345" for i in range(N)]


@pytest.fixture(scope="module")
def random():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, random):
    folder = tmp_path_factory.mktemp("pairs")
    starts = [len(f"In {1900 + i} ") if i % 5 else -1 for i in range(M)]
    ends = [start + len(phrase) for start, phrase in zip(starts, PHRASES, strict=True)]
    pq.write_table(
        pa.table({"phrase": PHRASES, "sentence": SENTENCES, "start": starts, "end": ends}), folder / "mentions.parquet"
    )
    pq.write_table(
        pa.table({"name": NAMES, "attributes": ATTRIBUTES, "description": DESCRIPTIONS}), folder / "entities.parquet"
    )
    ids = np.stack([random.permutation(N)[:K] for _ in range(M)]).astype(np.int32)
    ids[3, 2:], ids[7] = -1, -1
    np.savez(folder / "candidates.npz", ids=ids, scores=np.where(ids < 0, 0, random.random((M, K))).astype(np.float32))
    return folder


def lists(folder):
    with np.load(folder / "candidates.npz") as saved:
        return saved["ids"], saved["scores"]


def stored(folder, want, columns, ok, counts=None):
    """An input: rows of `columns`, output -> values. Those not `ok` are broken pictures, the last has no key."""
    n = len(ok)
    keys = np.stack([np.frombuffer(content_key(want.feature, f"{want.column} {i}"), np.uint8) for i in range(n)])
    present = np.arange(n) < n - 1
    spec = {"column": want.column, "outputs": [output.to_json() for output in columns]}
    store = Store.create(folder / "cache", want.feature, spec)
    status = np.where(ok, Status.OK, Status.BROKEN).astype(np.uint8)
    order = np.random.default_rng(1).permutation(n - 1)
    rows = {output.name: [values[i] for i in order] for output, values in columns.items()}
    store.add(keys[order], status[order], ["" if good else "cut off" for good in ok[order]], rows)
    path = folder / f"{want.column}.npz"
    several = {} if counts is None else {"counts": counts}
    np.savez(path, keys=keys, present=present, span=np.full((n, 2), -1), **several)
    return Input(**vars(want), store=store.folder, keys=path)


def served(name, inputs):
    """The inputs in the roles that the pair function names."""
    by_column = {read.column: read for read in inputs}
    roles = [role for role in registry.pair_function(name).roles if SERVED[role].column in by_column]
    return tuple(
        PairInput(**vars(by_column[SERVED[role].column]), role=role, output=SERVED[role].output) for role in roles
    )


def job(folder, name, inputs=(), **more):
    more = {"candidates": folder / "candidates.npz", "out": folder / f"{name}.npz", **more}
    return PairJob(name=name, dataset=folder, inputs=served(name, inputs), digest="0" * 64, **more)


def built(folder, name, inputs=(), **more):
    report = build_pairs(job(folder, name, inputs, **more))
    with np.load(folder / f"{name}.npz", allow_pickle=False) as saved:
        assert saved["values"].shape == report.shape and tuple(saved["names"].tolist()) == report.names
        assert saved["values"].dtype == np.float32
        return saved["values"]


def cosine(a, b):
    a, b = np.float32(a), np.float32(b)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def expected(ids, score):
    """score(mention, entity) for every listed pair, NaN where it gives None."""
    out = np.full(ids.shape, np.nan, np.float32)
    for i in range(len(ids)):
        for j, entity in enumerate(ids[i]):
            value = score(i, entity) if entity >= 0 else None
            out[i, j] = np.nan if value is None else value
    return out


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few mentions and of a few pairs of faces, so that their borders are crossed."""
    monkeypatch.setattr(_blocks, "BLOCK_BYTES", 700)


@pytest.fixture(params=["in memory", "in a file"])
def held(request, monkeypatch):
    """Vectors of the entities in memory, or in a mapped file as where they are many."""
    if request.param == "in a file":
        monkeypatch.setattr(_products, "HELD_BYTES", 0)


@pytest.mark.usefixtures("small_blocks", "held")
@pytest.mark.parametrize("name", ["clip_ti", "clip_it", "text_cls"])
def test_cosines_are_those_of_every_pair_and_masked_where_a_side_is_absent(folder, tmp_path, random, name):
    inputs, vectors, ok = [], [], []
    for want in registry.wants(name, FEATURES):
        n = M if want.side == "mention" else N
        vectors.append(random.normal(size=(n, 5)).astype(np.float16))
        ok.append(random.random(n) > 0.2)
        inputs.append(stored(tmp_path, want, {Output("pooled", (5,)): vectors[-1]}, ok[-1]))
        ok[-1][-1] = False
    values = built(folder, name, inputs)
    ids, _ = lists(folder)
    np.testing.assert_allclose(
        values,
        expected(ids, lambda i, e: cosine(vectors[0][i], vectors[1][e]) if ok[0][i] and ok[1][e] else None),
        atol=1e-3,
    )
    assert np.isnan(values).any() and np.isfinite(values).any()


def objects(random, n, most=4):
    """Boxes' confidences, then vectors of the crops kept of them (-1: of the whole picture), for n pictures."""
    confidences = [random.random(random.integers(0, most + 1)).astype(np.float32) for _ in range(n)]
    confidences[0], confidences[1] = np.zeros(2, np.float32), np.zeros(0, np.float32)
    boxes = [
        np.flatnonzero(random.random(len(c)) > 0.2).astype(np.int32) if len(c) else np.int32([-1]) for c in confidences
    ]
    boxes[0] = np.int32([0, 1])
    return confidences, boxes, [random.normal(size=(len(b), 5)).astype(np.float16) for b in boxes]


@pytest.mark.usefixtures("small_blocks", "held")
def test_the_object_relation_is_the_weighted_mean_of_all_pairs_of_objects(folder, tmp_path, random):
    sides, inputs, ok = {}, [], {}
    for side, n in (("mention", M), ("entity", N)):
        confidences, boxes, vectors = sides[side] = objects(random, n)
        ok[side] = random.random(n) > 0.1
        ok[side][:2] = True
        columns = {"objects": {CONFIDENCES: confidences}, "object_resnet": {VECTORS: vectors, BOX: boxes}}
        for feature, values in columns.items():
            inputs.append(stored(tmp_path, Want(side=side, feature=feature, view="image"), values, ok[side]))
        ok[side][-1] = False

    def relation(i, e):
        total = above = 0.0
        most = {"mention": MENTION_OBJECTS, "entity": ENTITY_OBJECTS}
        kept = {}
        for side, row in (("mention", i), ("entity", e)):
            if not ok[side][row]:
                return None
            confidences, boxes, vectors = (values[row] for values in sides[side])
            kept[side] = [
                (1.0 if b < 0 else float(confidences[b]), v)
                for b, v in zip(boxes[: most[side]], vectors[: most[side]], strict=True)
            ]
        for s, v in kept["mention"]:
            for t, w in kept["entity"]:
                above, total = above + s * t * cosine(v, w), total + s * t
        return above / total if total else None

    values = built(folder, "object_relation", inputs)
    ids, _ = lists(folder)
    np.testing.assert_allclose(values, expected(ids, relation), atol=2e-3)
    assert np.isnan(values[0]).all() and np.isnan(values[:, :][ids == 0]).all(), (
        "confidences that are all zero are masked"
    )
    assert np.isfinite(values[1]).any(), "a picture without objects is one object of confidence 1"


def test_face_match_is_the_best_cosine_over_all_faces_of_all_pictures_of_an_entity(folder, random, small_blocks):
    first, second = registry.wants("face_match", FEATURES)
    ours = [random.normal(size=(random.integers(0, 4), 5)).astype(np.float16) for _ in range(M)]
    our_ok = random.random(M) > 0.2
    inputs = [stored(folder / "faces", first, {VECTORS: ours}, our_ok)]
    our_ok[-1] = False
    counts = random.integers(0, 4, N)
    counts[-1] = 1
    theirs = [random.normal(size=(random.integers(0, 3), 5)).astype(np.float16) for _ in range(counts.sum())]
    their_ok = random.random(len(theirs)) > 0.2
    inputs.append(stored(folder / "faces", second, {VECTORS: theirs}, their_ok, counts))
    their_ok[-1] = False
    starts = counts.cumsum() - counts

    def match(i, e):
        faces = [face for p in range(starts[e], starts[e] + counts[e]) if their_ok[p] for face in theirs[p]]
        return max((cosine(a, b) for a in ours[i] for b in faces), default=None) if our_ok[i] else None

    values = built(folder, "face_match", inputs)
    ids, _ = lists(folder)
    np.testing.assert_allclose(values, expected(ids, match), atol=2e-3)
    assert np.isnan(values).any() and np.isfinite(values).any()


def test_name_similarity_is_rapidfuzz_on_cleaned_strings_from_0_to_1(folder, small_blocks):
    values = built(folder, "name_similarity", workers=1)
    ids, _ = lists(folder)
    assert values.shape == (M, K, len(NAME_SIMILARITY.names))
    for number, measure in enumerate(NAME_SIMILARITY.names[:4]):
        score = getattr(fuzz, measure)
        np.testing.assert_allclose(
            values[..., number],
            expected(ids, lambda i, e, score=score: score(clean(PHRASES[i]), clean(NAMES[e])) / 100),
            atol=1e-6,
        )
    np.testing.assert_array_equal(values[..., 5], expected(ids, lambda i, e: PHRASES[i].lower() == NAMES[e].lower()))
    assert np.nanmin(values) >= 0 and np.nanmax(values) <= 1 and values[..., 5][ids >= 0].any()


def test_name_similarity_takes_the_best_of_an_entitys_names(folder, tmp_path, small_blocks):
    others = [
        [f"{NAMES[e]} the {word}" for word in ("Elder", "Younger")[: e % 3]] + PHRASES[e : e + 9 * (e % 2)]
        for e in range(N)
    ]
    pq.write_table(pq.read_table(folder / "mentions.parquet"), tmp_path / "mentions.parquet")
    pq.write_table(
        pq.read_table(folder / "entities.parquet").append_column("aliases", pa.array(others, pa.list_(pa.string()))),
        tmp_path / "entities.parquet",
    )
    values = built(tmp_path, "name_similarity", workers=1, candidates=folder / "candidates.npz")
    ids, _ = lists(folder)
    known = [[clean(name) for name in (NAMES[e], *others[e])] for e in range(N)]
    for number, measure in enumerate(NAME_SIMILARITY.names[:4]):
        score = getattr(fuzz, measure)
        best = expected(ids, lambda i, e, score=score: max(score(clean(PHRASES[i]), name) for name in known[e]) / 100)
        np.testing.assert_allclose(values[..., number], best, atol=1e-6)
    np.testing.assert_array_equal(values[..., 5], expected(ids, lambda i, e: clean(PHRASES[i]) in known[e]))
    alone = built(folder, "name_similarity", workers=1)
    assert (values[ids >= 0] >= alone[ids >= 0]).all() and (values[..., 5] > alone[..., 5]).any()


def test_retrieval_is_the_lists_own_score_and_place(folder):
    values = built(folder, "retrieval")
    ids, scores = lists(folder)
    np.testing.assert_array_equal(values[..., 0][ids >= 0], scores[ids >= 0])
    np.testing.assert_allclose(values[0, :, 1], 1 / np.arange(1, K + 1))
    assert np.isnan(values[ids < 0]).all()


def test_years_are_those_between_a_sentence_and_the_first_and_last_year_of_an_entitys_text(folder):
    def born(e):
        return 1850 + e if e % 4 else np.nan

    def died(e):
        return 1930 + e if e % 4 and e % 3 else np.nan

    values = built(folder, "years")
    ids, _ = lists(folder)
    np.testing.assert_array_equal(values[..., 0], expected(ids, lambda i, e: 1900 + i - born(e)))
    np.testing.assert_array_equal(
        values[..., 1], expected(ids, lambda i, e: (1950 + i if i % 2 else 1900 + i) - died(e))
    )
    np.testing.assert_array_equal(values[..., 2], expected(ids, lambda i, e: born(e)))
    assert np.isnan(values[ids >= 0]).any() and np.isfinite(values).any()


def words(text):
    return set("".join(c if c.isalnum() else " " for c in text.lower()).split())


def test_word_overlap_weighs_rare_words_and_leaves_the_phrase_out(folder):
    texts = [
        words(f"{attributes} {description or ''}")
        for attributes, description in zip(ATTRIBUTES, DESCRIPTIONS, strict=True)
    ]
    names = [words(name) for name in NAMES]

    def around(i):
        return words(SENTENCES[i].replace(PHRASES[i], " ", 1) if i % 5 else SENTENCES[i])

    def weight(word, sets):
        return np.log(N / sum(word in own for own in sets))

    values = built(folder, "word_overlap")
    ids, _ = lists(folder)
    np.testing.assert_allclose(
        values[..., 0], expected(ids, lambda i, e: sum(weight(word, texts) for word in around(i) & texts[e])), rtol=1e-5
    )
    np.testing.assert_array_equal(values[..., 1], expected(ids, lambda i, e: len(around(i) & texts[e])))
    np.testing.assert_allclose(
        values[..., 2],
        expected(ids, lambda i, e: sum(weight(word, names) for word in around(i) & names[e])),
        rtol=1e-5,
        atol=1e-7,
    )
    assert len(np.unique(values[ids >= 0][:, 0])) > 2 and values[ids >= 0][:, 2].any()


def test_text_length_counts_the_words_about_an_entity(folder):
    ids, _ = lists(folder)
    counted = [
        len("".join(c if c.isalnum() else " " for c in f"{a} {d or ''}").split())
        for a, d in zip(ATTRIBUTES, DESCRIPTIONS, strict=True)
    ]
    np.testing.assert_allclose(
        built(folder, "text_length"), expected(ids, lambda i, e: np.log1p(counted[e])), rtol=1e-6
    )


def test_pairs_of_a_kb_without_any_face_are_all_masked(folder):
    none = np.zeros((0, 5), np.float16)
    inputs = [
        stored(folder / "none", want, {VECTORS: [none] * n}, np.ones(n, bool))
        for want, n in zip(registry.wants("face_match", FEATURES), (M, N), strict=True)
    ]
    assert np.isnan(built(folder, "face_match", inputs)).all()


def test_what_a_pair_feature_reads_is_listed_and_a_profile_that_lacks_it_is_refused():
    assert registry.wants("retrieval", []) == registry.wants("name_similarity", []) == []
    assert registry.wants("face_match", ["face_embedding", "faces"]) == [
        Want(side="mention", feature="face_embedding", view="image"),
        Want(side="entity", feature="face_embedding", view="images"),
    ]
    assert [want.column for want in registry.wants("object_relation", FEATURES)] == [
        *("mention.objects.image", "mention.object_resnet.image"),
        *("entity.objects.image", "entity.object_resnet.image"),
    ]
    with pytest.raises(UserError, match="needs clip_image, which the profile does not have"):
        registry.wants("clip_ti", ["clip_text"])
    with pytest.raises(UserError, match="face_match"):
        registry.wants("face_macth", [])
    assert registry.possible(["clip_text", "clip_image"]) == [
        "clip_ti",
        "clip_it",
        "name_similarity",
        "retrieval",
        "word_overlap",
        "years",
        "text_length",
        "clip_ti_best",
        "clip_ti_mean",
    ]


def test_an_input_that_is_not_there_and_lists_of_another_dataset_end_in_one_line(folder, tmp_path):
    with pytest.raises(UserError, match=r"clip_ti: no input serves 'sentence\.joint'"):
        build_pairs(job(folder, "clip_ti"))
    np.savez(tmp_path / "candidates.npz", ids=np.zeros((M + 1, 2), np.int32), scores=np.zeros((M + 1, 2), np.float32))
    with pytest.raises(UserError, match="lists do not fit"):
        build_pairs(job(folder, "retrieval", candidates=tmp_path / "candidates.npz", out=tmp_path / "retrieval.npz"))
    assert not (tmp_path / "retrieval.npz").exists()


def test_a_role_may_be_served_by_another_feature_than_the_usual_one(folder, tmp_path, random):
    vectors = {side: random.normal(size=(n, 3)).astype(np.float16) for side, n in (("mention", M), ("entity", N))}
    inputs = []
    for role, side in zip(registry.pair_function("text_cls").roles, vectors, strict=True):
        want, rows = Want(side=side, feature="my_texts", view="mine"), vectors[side]
        read = stored(tmp_path, want, {Output("mean", (3,)): rows}, np.ones(len(rows), bool))
        inputs.append(PairInput(**vars(read), role=role, output="mean"))
    build_pairs(dataclasses.replace(job(folder, "text_cls", out=tmp_path / "out.npz"), inputs=tuple(inputs)))
    values, (ids, _) = np.load(tmp_path / "out.npz")["values"], lists(folder)
    has = {side: np.arange(len(rows)) < len(rows) - 1 for side, rows in vectors.items()}
    np.testing.assert_allclose(
        values,
        expected(
            ids,
            lambda i, e: (
                cosine(vectors["mention"][i], vectors["entity"][e]) if has["mention"][i] and has["entity"][e] else None
            ),
        ),
        atol=1e-3,
    )


# Several pictures of an entity


def over(values, how):
    """The best or the mean of those that are there."""
    there = [value for value in values if value is not None]
    return (max(there) if how == "best" else sum(there) / len(there)) if there else None


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("how", ["best", "mean"])
def test_over_pictures_a_pair_has_the_best_or_the_mean_of_its_numbers_with_each(folder, tmp_path, random, how):
    """Entities have up to five pictures; some are broken, some entities have none."""
    counts = np.array([entity % 4 + 2 * (entity == 1) for entity in range(N)])
    last, total = counts.cumsum(), int(counts.sum())
    ok = {"mention": random.random(M) > 0.2, "entity": random.random(total) > 0.3}
    has = {"mention": ok["mention"] & (np.arange(M) < M - 1), "entity": ok["entity"] & (np.arange(total) < total - 1)}
    sides = {"mention": ("image", M, None), "entity": ("images", total, counts)}
    pooled = {"mention": random.normal(size=(M, 5)), "entity": random.normal(size=(total, 5))}
    found = {side: objects(random, n) for side, (_, n, _) in sides.items()}
    inputs = []
    for side, (view, _, several) in sides.items():
        confidences, boxes, crops = found[side]
        columns = {
            "objects": {CONFIDENCES: confidences},
            "object_resnet": {VECTORS: crops, BOX: boxes},
            "clip_text" if side == "mention" else "clip_image": {Output("pooled", (5,)): pooled[side]},
        }
        for feature, rows in columns.items():
            want = Want(side=side, feature=feature, view="sentence" if feature == "clip_text" else view)
            inputs.append(stored(tmp_path, want, rows, ok[side], several))

    def each(entity):
        return [picture for picture in range(last[entity] - counts[entity], last[entity]) if has["entity"][picture]]

    def text_to_picture(mention, entity):
        return over([cosine(pooled["mention"][mention], pooled["entity"][picture]) for picture in each(entity)], how)

    values = built(folder, f"clip_ti_{how}", inputs)
    ids, _ = lists(folder)
    wanted = expected(ids, lambda i, e: text_to_picture(i, e) if has["mention"][i] else None)
    np.testing.assert_allclose(values, wanted, atol=2e-3)
    assert np.isnan(wanted[ids >= 0]).any() and np.isfinite(wanted).any()

    def of_each(role):  # each picture as an entity of its own
        role = role.replace("entity_objects", "entity_pictures_objects")
        (read,) = [read for read in inputs if read.column == SERVED[role].column]
        return RecordValues.open(PairInput(**vars(read), role=role, output=SERVED[role].output)).each_key

    pictures = np.tile(np.arange(total, dtype=np.int32), (M, 1))
    alone = registry.pair_function("object_relation")(
        CandidatePairs({}, None, RankedLists(pictures, np.zeros(pictures.shape, np.float32)), of_each)
    )
    wanted = expected(
        ids, lambda i, e: over([None if np.isnan(alone[i, p]) else float(alone[i, p]) for p in each(e)], how)
    )
    np.testing.assert_allclose(built(folder, f"object_relation_{how}", inputs), wanted, atol=1e-5)
    assert np.isfinite(wanted).any()


@pytest.mark.parametrize("name", ["clip_ti", "object_relation"])
def test_with_one_picture_the_best_and_the_mean_are_the_pair_feature_itself(folder, values_of, name):
    plain = computed(folder, name, values_of)

    def of_one(role):
        return values_of(role.replace("entity_pictures_objects", "entity_objects").replace("pictures", "picture"))

    for how in ("best", "mean"):
        function, (ids, scores) = registry.pair_function(f"{name}_{how}"), lists(folder)
        pairs = CandidatePairs({}, None, RankedLists(ids, scores), of_one)
        np.testing.assert_array_equal(function(pairs), plain)


# What every pair function keeps


@pytest.fixture(scope="module")
def values_of(tmp_path_factory, random):
    """From a role to its rows, any of them absent now and then."""
    folder = tmp_path_factory.mktemp("roles")
    inputs = {}
    for side, n in (("mention", M), ("entity", N)):
        confidences, boxes, crops = objects(random, n)
        faces = [random.normal(size=(random.integers(0, 3), 5)).astype(np.float16) for _ in range(n)]
        columns = {
            "objects": {CONFIDENCES: confidences},
            "object_resnet": {VECTORS: crops, BOX: boxes},
            "face_embedding": {VECTORS: faces},
        }
        ok = random.random(n) > 0.2
        wants = [want for name in registry.FUNCTIONS for want in registry.wants(name, FEATURES) if want.side == side]
        for want in dict.fromkeys(wants):
            pooled = {Output("pooled", (5,)): random.normal(size=(n, 5)).astype(np.float16)}
            inputs[want.column] = stored(folder, want, columns.get(want.feature, pooled), ok)

    def values(role):
        read = inputs[SERVED[role].column]
        return RecordValues.open(PairInput(**vars(read), role=role, output=SERVED[role].output))

    return values


def computed(folder, name, values_of, order=None):
    """Values of a pair function that may read its own roles alone; `order`: of the candidates in each list."""
    function, (ids, scores) = registry.pair_function(name), lists(folder)
    if order is not None:
        ids, scores = ids[:, order], scores[:, order]

    def values(role):
        assert role in function.roles, f"{role} is not among its roles"
        return values_of(role)

    mentions, entities = Columns(folder / "mentions.parquet"), Columns(folder / "entities.parquet")
    return function(CandidatePairs(mentions, Texts(entities), RankedLists(ids, scores), values, workers=1))


@pytest.mark.parametrize("name", registry.FUNCTIONS)
def test_every_pair_function_keeps_the_contract(folder, values_of, name):
    function, (ids, _) = registry.pair_function(name), lists(folder)
    assert function.name == name and function.VERSION >= 1 and set(function.roles) <= set(SERVED)
    values = computed(folder, name, values_of)
    assert values.dtype == np.float32
    assert values.shape == ((M, K, len(function.names)) if function.names else (M, K))
    assert len(set(function.names)) == len(function.names)
    assert np.isnan(values[ids < 0]).all() and np.isfinite(values[ids >= 0]).any() and not np.isinf(values).any()


@pytest.mark.parametrize("name", registry.FUNCTIONS)
def test_every_pair_function_gives_the_same_in_small_blocks(folder, values_of, name, small_blocks):
    with pytest.MonkeyPatch.context() as large:
        large.setattr(_blocks, "BLOCK_BYTES", 64 << 20)
        whole = computed(folder, name, values_of)
    np.testing.assert_allclose(computed(folder, name, values_of), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in registry.FUNCTIONS if name != "retrieval"])
def test_the_number_of_a_pair_does_not_depend_on_its_place_in_the_list(folder, values_of, name):
    order = np.random.default_rng(3).permutation(K)
    straight, mixed = computed(folder, name, values_of), computed(folder, name, values_of, order)
    np.testing.assert_allclose(mixed, straight[:, order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", registry.FUNCTIONS)
def test_a_pair_job_travels_as_json_and_its_receipt_is_read_as_it_was_written(folder, tmp_path, name, values_of):
    request = job(folder, name, out=tmp_path / "out.npz")
    assert from_json(PairJob, json.loads(json.dumps(to_json(request)))) == request
    if not registry.pair_function(name).roles:
        feature = build_pairs(request)
        written = json.dumps(to_json(feature))
        assert from_json(PairFeature, json.loads(written)) == feature
        assert list(json.loads(written)) == [
            *("file", "digest", "name", "shape", "names", "listed", "present", "seconds")
        ]


def test_the_digest_of_a_pair_feature_is_that_of_earlier_versions(tmp_path):
    """Pair features made before stay in use: what is hashed, and how, must not change unseen."""
    (tmp_path / "a.npz").write_bytes(b"keys")
    rows = FeatureRows(identity="1" * 64, store="face_embedding-1", rows=1, extracted=0, verdicts={})
    columns = dict.fromkeys(["mention.face_embedding.image", "entity.face_embedding.images"], "a.npz")
    extraction = Extraction(features={"face_embedding": rows}, columns=columns)
    shape = {"k": 1, "merge": "append", "mentions": 1, "entities": 1, "recall": {}, "seconds": {}}
    candidates = CandidateLists(file=Path("c.npz"), digest="2" * 64, mentions_per_second={}, **shape)
    request = pair_job("face_match", extraction, candidates, tmp_path / "d", Paths(tmp_path))
    keys = hashlib.sha256(b"keys").hexdigest()
    assert request.digest == identity(
        {
            "pair": "face_match",
            "version": 1,
            "candidates": "2" * 64,
            "features": {"face_embedding": "1" * 64},
            "rows": dict.fromkeys(columns, keys),
        }
    )
    assert request.out == tmp_path / "d" / f"pairs-face_match-{request.digest[:12]}.npz"
    assert [read.role for read in request.inputs] == ["mention_faces", "entity_faces"]
    assert {read.store for read in request.inputs} == {tmp_path / "cache" / "face_embedding-1"}
