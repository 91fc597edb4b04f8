"""From nothing to a prepared KB with pictures, without one labelled mention: BuildKB, FetchImages, PrepareDataset, over
servers on loopback."""

from pathlib import Path

from enhance_world import QUICK
from loopback import serving
from test_kb_api import Wikidata
from test_kb_pictures import Commons

import mel_cache
from foundation import parquet
from pipeline.datasets.contracts import Limits
from pipeline.kb.contracts import Server


def test_a_kb_is_built_its_pictures_are_fetched_and_it_is_prepared(tmp_path: Path) -> None:
    kb = tmp_path / "kb"
    (tmp_path / "ids.txt").write_text("Q101\nQ102\n")
    with serving(Wikidata()) as wikidata, serving(Commons({"Ann Lee 1970.jpg": "cc-by-4.0"})) as commons:
        server = Server(api=f"{wikidata.address}/w/api.php", contact="a@b.org", rate=0, patience=QUICK)
        built = mel_cache.build_kb(mel_cache.KBJob(ids=tmp_path / "ids.txt", server=server, out=kb, processes=1))
        job = mel_cache.PicturesJob(
            list=kb / "pictures.jsonl",
            out=kb,
            contact="a@b.org",
            commons=f"{commons.address}/w/api.php",
            licences="free",
            private=("127.0.0.1",),
            limits=Limits(max_pixels=100_000, max_bytes=100_000),
            rate=0,
            patience=QUICK,
        )
        fetched = mel_cache.fetch_images(job)
        again = mel_cache.build_kb(mel_cache.KBJob(ids=tmp_path / "ids.txt", server=server, out=kb, processes=1))
    assert built == again and built.counts["entities"] == 2 and fetched.fetched == 1
    dataset = mel_cache.prepare(mel_cache.DatasetJob(name="mine", data_dir=kb, work_dir=tmp_path / "work"))
    account = dataset.account
    assert "entities" in dataset.text and not account.get("rejects")
    rows = parquet.read(dataset.folder / "entities.parquet").to_pylist()
    (ann,) = (row for row in rows if row["id"] == "Q101")
    assert ann["name"] == "Ann Lee" and "Occupation: actor." in ann["attributes"] and ann["type"] == "human"
    assert sum(1 for row in rows if any("images/" in str(value) for value in row.values())) == 1
