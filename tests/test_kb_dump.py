"""A KB from a dump of Wikidata: the same bytes from every form of it, from any number of processes, and after a kill;
damaged dumps are said."""

import bz2
import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from wikidata_world import WORLD, by_id, dump, entity, lines, people

from foundation.errors import UserError
from pipeline.kb import bzipped, scan
from pipeline.kb import dump as dumps
from pipeline.kb.build import build_kb
from pipeline.kb.contracts import KBJob, KBReport

ROOT = Path(__file__).resolve().parents[1]
FORMS = (".json", ".json.gz", ".json.bz2")


def build(folder: Path, path: Path, **more: Any) -> KBReport:
    return build_kb(KBJob(**{"out": folder, "dump": path, "where": "P31=Q5", "processes": 1, **more}))


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.[jt]s*"))}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Dumps of 400 entities in each form, and the KB's hashes."""
    folder = tmp_path_factory.mktemp("dumps")
    paths = {form: dump(folder / f"dump{form}", [*WORLD, *people(400)]) for form in FORMS}
    plain = paths[".json"].read_bytes()
    parts = [plain[start : start + 700_000] for start in range(0, len(plain), 700_000)]
    paths[".json.gz"].write_bytes(b"".join(gzip.compress(part, 1) for part in parts))  # of several members
    build(folder / "kb", paths[".json"])
    return paths, hashes(folder / "kb")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("processes", [1, 2])
def test_every_form_of_a_dump_and_any_number_of_processes_give_the_same_bytes(
    written, tmp_path, monkeypatch, form, processes
):
    paths, expected = written
    monkeypatch.setattr(dumps, "PIECE", 50_000)  # many pieces, whose borders cut lines
    monkeypatch.setattr(bzipped, "_TOGETHER", 1)
    report = build(tmp_path / "kb", paths[form], processes=processes)
    kept = hashes(tmp_path / "kb")
    assert kept.pop("account.json") and kept == {name: of for name, of in expected.items() if name != "account.json"}
    assert report.counts["entities in the dump"] == 400 + len(WORLD)
    assert report.counts["entities"] == len(by_id(tmp_path / "kb")) > 100


def test_a_bz2_of_several_streams_and_one_whose_marks_lie_at_any_bit_are_read(written, tmp_path):
    paths, expected = written
    plain = paths[".json"].read_bytes()
    middle = len(plain) // 3
    path = tmp_path / "dump.json.bz2"
    path.write_bytes(bz2.compress(plain[:middle], 9) + bz2.compress(b"") + bz2.compress(plain[middle:], 2))
    build(tmp_path / "kb", path)
    assert hashes(tmp_path / "kb")["entities.jsonl"] == expected["entities.jsonl"]
    blocks = list(bzipped.groups(paths[".json.bz2"], 0))
    assert len({one.start % 8 for one in blocks} | {one.end % 8 for one in blocks}) > 1
    assert b"".join(bzipped.decompressed(paths[".json.bz2"], one) for one in blocks) == plain


def test_a_gz_is_entered_where_its_last_member_began(written, tmp_path):
    path = written[0][".json.gz"]
    plain = gzip.decompress(path.read_bytes())
    pieces = dumps.Dump(path, tmp_path / "index").pieces(0)
    first, note = next(pieces)
    assert plain.startswith(first.held)
    for last, note in pieces:  # noqa: B007 - of the last one
        pass
    note()
    middle = len(plain) - 100_000
    (piece, _), *rest = dumps.Dump(path, tmp_path / "index").pieces(middle)
    assert (piece.place, piece.held) == (middle, plain[middle:]) and not rest


def test_a_mark_that_stands_by_chance_inside_a_block_changes_nothing(written, monkeypatch):
    paths, _ = written
    (first, *_) = bzipped.groups(paths[".json.bz2"], 0)
    odd = bzipped.Blocks(first.start, first.end, (*first.crcs[:1], 12345, *first.crcs[1:]))
    assert bzipped.decompressed(paths[".json.bz2"], odd) == bzipped.decompressed(paths[".json.bz2"], first)


RUN = """
import sys
from pathlib import Path
from pipeline.kb import bzipped, dump
from pipeline.kb.build import build_kb
from pipeline.kb.contracts import KBJob
dump.PIECE, bzipped._TOGETHER = 50_000, 1
dump._FEED = 10_000
build_kb(KBJob(out=Path(sys.argv[1]), dump=Path(sys.argv[2]), where="P31=Q5", processes=1))
"""


@pytest.mark.parametrize("form", FORMS)
def test_a_killed_run_goes_on_where_it_was_and_leaves_the_same_bytes(written, tmp_path, form):
    paths, expected = written
    words = [sys.executable, "-c", RUN, str(tmp_path / "kb"), str(paths[form])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for passing in (4, 3):
        done = subprocess.run(words, env={**environment, "MEL_FAULT": f"kb-noted:{passing}"}, check=False)
        assert done.returncode == -signal.SIGKILL
        assert not (tmp_path / "kb" / "entities.jsonl").exists()
    noted = dumps.Dump(paths[form], tmp_path / "none")
    place = json.loads((tmp_path / "kb" / ".parts" / "scan.json").read_text())["place"]
    assert place > 0 and next(noted.pieces(place))[0].place >= place
    subprocess.run(words, env=environment, check=True)
    kept = hashes(tmp_path / "kb")
    assert kept.pop("account.json") and kept == {name: of for name, of in expected.items() if name != "account.json"}


@pytest.mark.parametrize(("seconds", "behind_each"), [(0.0, True), (1000.0, False)])
def test_a_note_stands_behind_each_piece_unless_notes_take_long(written, tmp_path, monkeypatch, seconds, behind_each):
    paths, _ = written
    pieces, notes, times = [], [], []
    take, keep = scan.Scan._take, scan.Scan._keep
    monkeypatch.setattr(dumps, "PIECE", 50_000)
    monkeypatch.setattr(scan.Scan, "_take", lambda self, *given: (pieces.append(1), take(self, *given)))

    def kept(self):
        notes.append(1)
        times.append(seconds)  # what a note takes
        keep(self)

    monkeypatch.setattr(scan.Scan, "_keep", kept)
    monkeypatch.setattr(scan.time, "monotonic", lambda: sum(times))
    build(tmp_path / "kb", paths[".json"])
    assert len(pieces) > 10 and len(notes) == (len(pieces) + 1 if behind_each else 2)


def test_a_finished_kb_is_not_built_again_and_another_one_is_not_written_over_it(written, tmp_path):
    paths, _ = written
    first = build(tmp_path / "kb", paths[".json"])
    before = (tmp_path / "kb" / "entities.jsonl").stat().st_mtime_ns
    assert build(tmp_path / "kb", paths[".json"]) == first
    assert (tmp_path / "kb" / "entities.jsonl").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="holds a KB of another dump or of other options"):
        build(tmp_path / "kb", paths[".json"], where="P31=Q4830453")


def test_labels_of_another_kb_stand_for_those_that_the_dump_has(written, tmp_path):
    paths, _ = written
    (tmp_path / "labels.tsv").write_text("Q33999\tperformer\nP106\tjob\n")
    build(tmp_path / "kb", paths[".json"], labels=tmp_path / "labels.tsv")
    assert by_id(tmp_path / "kb")["Q101"]["attributes"]["Job"] == ["performer"]
    assert not (tmp_path / "kb" / "labels.tsv").exists()
    (tmp_path / "bad.tsv").write_text("Q33999\tperformer\nactor\n")
    with pytest.raises(UserError, match=r"bad.tsv:2: b'actor\\n': expected a QID"):
        build(tmp_path / "other", paths[".json"], labels=tmp_path / "bad.tsv")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.3, 0.97])
def test_a_dump_that_ends_early_is_said_and_leaves_no_kb(written, tmp_path, form, share):
    data = written[0][form].read_bytes()
    path = tmp_path / f"cut{form}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match="ends early"):
        build(tmp_path / "kb", path)
    assert not (tmp_path / "kb" / "entities.jsonl").exists()


@pytest.mark.parametrize("form", [".json.gz", ".json.bz2"])
def test_a_damaged_dump_is_said(written, tmp_path, form):
    data = bytearray(written[0][form].read_bytes())
    place = len(data) // 2
    data[place : place + 40] = bytes(40)
    path = tmp_path / f"bad{form}"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"damaged|ends early"):
        build(tmp_path / "kb", path)


def test_a_bomb_in_a_bz2_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(bzipped, "MOST_BYTES", 1 << 20)
    path = tmp_path / "bomb.json.bz2"
    path.write_bytes(bz2.compress(b" " * (40 << 20)))
    with pytest.raises(UserError, match="expands to more than 1,048,576 bytes"):
        build(tmp_path / "kb", path)


def test_records_that_cannot_be_read_are_counted_and_too_many_of_them_refused(tmp_path, monkeypatch):
    path = tmp_path / "dump.json"
    good = [entity(f"Q{n}", {"en": f"Name {n}"}) for n in range(1, 8)]
    dump(path, good)
    odd = [
        b'{"id": "Q9", "labels": {"en": 3}}',
        b'{"id": "Q10"',
        b"[" * 100_000,
        b'{"id":"Q11","labels":"' + b"x" * 9000,
    ]
    text = path.read_bytes().replace(b"\n]", b"".join(b",\n" + line for line in odd) + b"\n]")
    path.write_bytes(text)
    monkeypatch.setattr("pipeline.kb.scan.LONGEST_RECORD", 5000)
    with pytest.raises(
        UserError, match=r"4 of 11 records are malformed, at most 1.0% may be: --max-bad-records; malformed"
    ):
        build(tmp_path / "kb", path, where="")
    report = build(tmp_path / "kb", path, where="", max_bad_records=0.5)
    assert report.counts["entities"] == 7 == len(by_id(tmp_path / "kb"))
    assert sum(count for name, count in report.counts.items() if name.startswith("malformed")) == 4
    assert len(report.examples) == 4


def test_lines_longer_than_a_piece_take_no_more_memory_than_one_record_may_have(tmp_path, monkeypatch):
    monkeypatch.setattr(dumps, "PIECE", 1000)
    monkeypatch.setattr("pipeline.kb.scan.LONGEST_RECORD", 20_000)
    long = entity("Q7", {"en": "x" * 100_000})
    report = build(
        tmp_path / "kb",
        dump(tmp_path / "dump.json", [entity("Q6", {"en": "A"}), long, entity("Q8", {"en": "B"})]),
        where="",
        max_bad_records=1.0,
    )
    assert [line["id"] for line in lines(tmp_path / "kb" / "entities.jsonl")] == ["Q6", "Q8"]
    assert any("longer than" in name and count == 1 for name, count in report.counts.items())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"dump": None}, "name a dump of Wikidata with --dump, or a file of QIDs with --ids"),
        ({"dump": Path("x.zip")}, r"--dump x.zip: expected a file ending in \.json"),
        ({"dump": Path("none.json")}, "--dump none.json: no such file"),
        ({"languages": ()}, "--languages: name at least one"),
        ({"languages": ("english please",)}, "--languages 'english please': expected a code"),
        ({"attributes": ("born",)}, "--attributes 'born': expected a property"),
        ({"attributes": ("P1", "P1=One")}, "--attributes 'P1=One': is given twice"),
        ({"pictures": ("Q18",)}, "--pictures 'Q18': expected a property"),
        ({"where": "P31=Q5 and"}, "--where 'P31=Q5 and': cannot be read at 'its end'"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(tmp_path, more, message):
    path = dump(tmp_path / "dump.json", WORLD)
    with pytest.raises(UserError, match=message):
        build(tmp_path / "kb", **{"path": path, **more} if "dump" not in more else {"path": more["dump"]})
