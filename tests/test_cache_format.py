"""What docs/cache-format.md says of the files, against files that the pipeline wrote: read here from the page's words
alone, with hashlib, json, h5py and numpy."""

import fnmatch
import hashlib
import json
import re
from pathlib import Path

import documents
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import small_world

import mel_cache
from cache.shard import Status

PAGE = documents.ROOT / "docs" / "cache-format.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder with a prepared dataset, a text and a picture feature, candidate lists and a pair feature."""
    root = tmp_path_factory.mktemp("format")
    data = small_world.write(root / "data")
    (data / "kb" / "e1.png").write_bytes(b"not a picture")
    records = [json.loads(line) for line in (data / "entities.jsonl").read_text().splitlines()]
    records[0]["images"] = ["kb/e0.png", "kb/e2.png"]
    (data / "entities.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (data / "mentions" / "m1.png").write_bytes((data / "mentions" / "m0.png").read_bytes()[:90])
    job = mel_cache.DatasetJob(
        name="small",
        data_dir=data,
        work_dir=root / "work",
        profile=str(small_world.profile(root)),
        max_bad_images=1,
    )
    dataset = mel_cache.prepare(job)
    mel_cache.extract(mel_cache.FeaturesJob(dataset=dataset, features=("clip_text", "clip_image")))
    candidates = mel_cache.build_candidates(mel_cache.CandidatesJob(dataset=dataset, k=5))
    mel_cache.build_pairs(mel_cache.PairsJob(candidates=candidates, names=("name_similarity",)))
    return root / "work"


def key(kind: str, *contents: bytes) -> bytes:
    """From the page: BLAKE2b, digest of 16 bytes, a personalisation; before each byte string its length, 8 bytes,
    little-endian."""
    joined = b"".join(len(part).to_bytes(8, "little") + part for part in (kind.encode("ascii"), *contents))
    return hashlib.blake2b(joined, digest_size=16, person=b"mel content key").digest()


def column(work: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(next(work.glob(f"datasets/*/columns-*/{name}.npz"))) as saved:
        return dict(saved)


def row(work: Path, feature: str, wanted: bytes) -> dict[str, object]:
    """The row of a key, as the page says: the shard whose name sorts first, ragged outputs between their offsets."""
    for path in sorted(work.glob(f"cache/{feature}-*/*.h5")):
        with h5py.File(path, "r") as shard:
            places = np.flatnonzero((shard["keys"][:] == np.frombuffer(wanted, np.uint8)).all(1))
            if not len(places):
                continue
            place = int(places[0])
            found: dict[str, object] = {"status": int(shard["status"][place])}
            found["cause"] = shard.attrs["causes"][shard["cause"][place]].decode()
            for name, item in shard.items():
                if isinstance(item, h5py.Group):
                    start, end = item["offsets"][place : place + 2]
                    found[name] = item["values"][start:end]
                elif name not in ("keys", "status", "cause"):
                    found[name] = item[place]
            return found
    raise AssertionError(f"no row of {feature} has the key {wanted.hex()}")


def test_keys_computed_from_the_page_s_words_are_those_in_the_store(work):
    mentions = pq.read_table(next(work.glob("datasets/*/mentions.parquet"))).to_pydict()
    texts, pictures = column(work, "mention.clip_text.mention_sep_sentence"), column(work, "mention.clip_image.image")
    checked = 0
    for number, (phrase, sentence, image) in enumerate(
        zip(mentions["phrase"], mentions["sentence"], mentions["image"], strict=True)
    ):
        string = f"{phrase} [SEP] {sentence}"
        if bytes(texts["keys"][number]) == key("text", string.encode()):
            checked += 1
            start, end = texts["span"][number]
            assert string[start:end] == phrase
            assert row(work, "clip_text", key("text", string.encode()))["status"] == 0
        if image is not None:
            data = (work.parent / "data" / image).read_bytes()
            assert bytes(pictures["keys"][number]) == key("image", data)
            assert row(work, "clip_image", key("image", data))["pooled"].any() == (image != "mentions/m1.png")
    assert checked > 10, "texts that were not cut"
    namespace = {"picture_path": str(work.parent / "data" / "mentions" / "m0.png")}
    exec(compile(next(b.text for b in documents.blocks(PAGE) if b.mark == "run"), str(PAGE), "exec"), namespace)
    assert namespace["of_text"] == key("text", b"Powers [SEP] Powers plays the guitar.")
    assert namespace["of_picture"] == key("image", Path(namespace["picture_path"]).read_bytes())


def test_key_columns_have_the_arrays_of_the_page(work):
    for path in work.glob("datasets/*/columns-*/*.npz"):
        side, feature, _ = path.stem.split(".")
        with np.load(path) as saved:
            kinds = {name: (saved[name].dtype.name, saved[name].shape[1:]) for name in saved.files}
            records = pq.read_metadata(path.parents[1] / f"{'mentions' if side == 'mention' else 'entities'}.parquet")
            assert "counts" in kinds or len(saved["keys"]) == records.num_rows
            assert not saved["keys"][~saved["present"]].any()
        kinds.pop("counts", None)
        assert kinds.pop("tokens", None) == (("int32", ()) if feature == "clip_text" else None)
        assert kinds == {"keys": ("uint8", (16,)), "present": ("bool", ()), "span": ("int32", (2,))}, path.name
        assert feature in ("clip_text", "clip_image")


def test_rows_and_verdicts_read_as_the_page_says(work):
    data = work.parent / "data"
    broken = row(work, "clip_image", key("image", (data / "mentions" / "m1.png").read_bytes()))
    assert broken["status"] == 2 and broken["cause"] == "truncated" and not broken["pooled"].any()
    text = row(work, "clip_text", bytes(column(work, "entity.clip_text.name_sep_attributes")["keys"][2]))
    assert (text["status"], text["cause"]) == (0, "") and text["tokens"].dtype == np.float16
    assert text["tokens"].shape[1] == 16 and 2 < len(text["tokens"]) <= 32 and text["pooled"].shape == (24,)
    listed = dict(re.findall(r"(\d) (ok|broken|too large|missing)", TEXT.replace("as 1, missing", "1 missing")))
    assert {int(code): name.replace(" ", "_").upper() for code, name in listed.items()} == {
        status.value: status.name for status in Status
    }
    written = {int(code) for path in work.glob("cache/*/*.h5") for code in np.unique(h5py.File(path)["status"][:])}
    assert written <= {0, 2, 3}


def test_a_shard_is_laid_out_as_the_page_says(work):
    for path in work.glob("cache/*/*.h5"):
        data = path.read_bytes()
        text = data[:4096].split(b"\n")
        assert text[1].endswith(hashlib.sha256(data[4096:]).hexdigest().encode())
        brief = text[2].removeprefix(b"contents: ")
        assert text[3].endswith(hashlib.sha256(brief).hexdigest().encode()) and not text[4].strip(b"\0")
        contents = json.loads(brief)
        assert contents["bytes"] == len(data)
        with h5py.File(path, "r") as shard:
            assert set(contents["arrays"]) >= {"keys", "status"} and set(contents["attributes"]) == set(shard.attrs)
            for name, (dtype, shape, start) in contents["arrays"].items():
                assert (shard[name].dtype.name, list(shard[name].shape)) == (dtype, shape)
                assert start == (shard[name].id.get_offset() if shard[name].size else None)
            assert set(shard.attrs) == {"layout", "feature", "identity", "causes"} and shard.attrs["layout"] == 1
            assert shard.attrs["causes"][0] == b"" and path.parent.name.startswith(shard.attrs["feature"].decode())
            arrays: list[h5py.Dataset] = []
            shard.visititems(lambda name, item, arrays=arrays: arrays.append(item) if hasattr(item, "dtype") else None)
            for array in arrays:
                assert array.chunks is None and array.compression is None
                assert array.size == 0 or array.id.get_offset() % 4096 == 0
                assert array.attrs["sha256"].decode() == hashlib.sha256(array[()].tobytes()).hexdigest()


def test_a_folder_s_name_is_the_hash_of_the_spec_in_clear(work):
    for path in work.glob("cache/*/spec.json"):
        content = json.loads(path.read_text())
        canonical = json.dumps(content["spec"], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        assert content["identity"] == hashlib.sha256(canonical.encode("ascii")).hexdigest()
        assert path.parent.name == f"{content['feature']}-{content['identity'][:16]}"
        assert set(content) == {"feature", "identity", "spec", "probe", "seal"} and content["probe"]
        outputs = {output["name"]: output for output in content["spec"]["outputs"]}
        with h5py.File(next(path.parent.glob("*.h5"))) as shard:
            assert set(shard) == {"keys", "status", "cause", *outputs}
            for name, output in outputs.items():
                stored = shard[f"{name}/values"] if output["ragged"] else shard[name]
                assert stored.dtype.name == output["dtype"] and list(stored.shape[1:]) == output["shape"]


def test_lists_and_pair_features_have_the_arrays_of_the_page(work):
    with np.load(next(work.glob("datasets/*/candidates-*.npz"))) as lists:
        ids, scores, rank = lists["ids"], lists["scores"], lists["gold_rank"]
        assert set(lists.files) == {"ids", "scores", "gold_rank", "retrieved", "forced", "by_heart"}
    gold = np.array(pq.read_table(next(work.glob("datasets/*/mentions.parquet")))["gold"])
    assert (ids.dtype, scores.dtype, rank.dtype) == (np.int32, np.float32, np.int64) and ids.shape == (40, 5)
    assert not scores[ids < 0].any()
    for place, (row_, answer) in enumerate(zip(ids.tolist(), gold.tolist(), strict=True)):
        listed = row_.index(answer) + 1 if answer in row_ else None
        assert rank[place] == listed if listed else rank[place] > sum(one >= 0 for one in row_) or rank[place] == -1
    with np.load(next(work.glob("datasets/*/pairs-name_similarity-*.npz"))) as pairs:
        assert set(pairs.files) == {"values", "names"} and pairs["values"].shape == (40, 5, len(pairs["names"]))
        assert pairs["values"].dtype == np.float32 and (np.isnan(pairs["values"]).all(2) == (ids < 0)).all()


def test_every_file_of_a_work_folder_is_on_the_page(work):
    named = [
        *("mentions.parquet", "entities.parquet", "given.parquet", "account.json", "account.txt"),
        *("columns-*/*.*.*.npz", "columns-*/.lock", "columns-*/chunks.parquet"),
        *("candidates-*.npz", "candidates-*.json", "pairs-*-*.npz"),
    ]
    for pattern in named:
        for word in pattern.replace("*", "\n").split("\n"):
            assert word.strip("-/.") in TEXT, pattern
    for path in work.glob("datasets/*/**/*"):
        inside = path.relative_to(next(work.glob("datasets/*"))).as_posix()
        assert path.is_dir() or any(fnmatch.fnmatch(inside, pattern) for pattern in named), inside
    folders = {path.name for path in work.iterdir() if path.is_dir()}
    assert all(f"`{name}/" in TEXT for name in folders), folders
    for path in work.glob("cache/*/*"):
        assert path.name in ("spec.json", "claims") or path.suffix == ".h5", path
