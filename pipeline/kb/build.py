"""A KB from a dump of Wikidata, or from its API: the passes, one after the other."""

import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cache.identity import canonical_json
from foundation import machine
from foundation.checksums import file_sha256, remembered, write_sealed
from foundation.contracts import from_json, to_json
from foundation.errors import UserError
from foundation.files import explained, make_folder
from foundation.locks import locked
from pipeline.kb import by_api, where, wikipedia
from pipeline.kb.contracts import KBJob, KBReport
from pipeline.kb.dump import Dump
from pipeline.kb.labels import Labels, Numbers, lines, needed
from pipeline.kb.scan import LABELS_PART, MALFORMED, SEEN, TOO_LONG, Progress, Scan
from pipeline.kb.wikidata import Selection
from pipeline.kb.writing import FILES, Writer

VERSION = 1
"""Raised when the files of a KB change."""
ACCOUNT, LABELS = "account.json", "labels.tsv"
PARTS = ".parts"
"""Folder below the output for what a run has done so far."""
_ATTRIBUTE = re.compile(r"(P[1-9]\d{0,8})(?:\s*=\s*(\S.{0,99}))?")
_PROPERTY = re.compile(r"P[1-9]\d{0,8}")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z0-9]{2,12})*")
_STAMP = 1 << 20  # bytes at a dump's begin and end that name it: reading all of it takes an hour


def check(job: KBJob) -> None:
    """Raises `UserError` for options that cannot be meant, and where the folder holds another KB; reads no dump."""
    if (job.dump is None) == (job.ids is None):
        raise UserError("BuildKB: name a dump of Wikidata with --dump, or a file of QIDs with --ids; one of the two")
    if job.dump is not None:
        Dump(job.dump, job.out).check()
    if job.ids is not None and job.server is None:
        raise UserError("--ids: name the server that is asked, --wikidata-api https://www.wikidata.org/w/api.php")
    where.condition(job.where)
    attribute_names(job.attributes)
    for option, names in (("--pictures", job.pictures), ("--types", filter(None, [job.types]))):
        for name in names:
            if not _PROPERTY.fullmatch(name):
                raise UserError(f"{option} {name!r:.60}: expected a property of Wikidata, like P18")
    if not job.languages:
        raise UserError("--languages: name at least one, like en,de")
    for language in job.languages:
        if not _LANGUAGE.fullmatch(language):
            raise UserError(f"--languages {language!r:.60}: expected a code of Wikidata, like en or zh-hans")


def attribute_names(attributes: Sequence[str]) -> dict[str, str]:
    """Name of each attribute by its property, in their order; empty for one that has the property's label. Raises
    `UserError`.
    """
    names: dict[str, str] = {}
    for text in attributes:
        match = _ATTRIBUTE.fullmatch(text.strip())
        if not match or match[1] in names:
            raise UserError(
                f"--attributes {text!r:.60}: "
                + ("is given twice" if match else "expected a property, or one with its name, like P106 or P569=Born")
            )
        names[match[1]] = match[2] or ""
    return names


def build_kb(job: KBJob) -> KBReport:
    """Write entities.jsonl, pictures.jsonl, sitelinks.jsonl, labels.tsv and account.json of a KB to `job.out`.

    What is there already of the same request is kept: a killed run goes on where it was. Raises `UserError` for what
    its user must mend, and `PassingError` where a server fails.
    """
    check(job)
    folder = make_folder(job.out)
    with locked(folder / ".lock"):
        request = _request(job)
        account = remembered(folder / ACCOUNT)
        if account.get("request") == request and all((folder / name).exists() for name in FILES):
            _finish(folder)
            return from_json(KBReport, {**account["report"], "folder": str(folder)})
        refuse_other(folder, account)
        return _Build(job, folder, request).run()


def refuse_other(folder: Path, account: dict[str, Any]) -> None:
    """Raises `UserError` where a finished KB of other options, or somebody's entities.jsonl, would be replaced."""
    if account or any((folder / name).exists() for name in FILES):
        raise UserError(
            f"--out {folder}: holds a KB of another dump or of other options; name another folder, or delete this one"
        )


def _request(job: KBJob) -> str:
    """Hash of all that decides the KB's bytes."""
    held = to_json(job)
    for name in ("out", "processes", "server", "wikipedia"):
        held.pop(name)
    held["dump"] = _stamp(job.dump) if job.dump else None
    held["ids"] = file_sha256(by_api.readable(job.ids)) if job.ids else None
    held["server"] = job.server.api if job.ids and job.server else None
    held["labels"] = _stamp(job.labels) if job.labels else None
    held["wikipedia"] = [_stamp(path) for path in wikipedia.files(job.wikipedia, job.wiki)] if job.wikipedia else None
    return hashlib.sha256(canonical_json({"version": VERSION, **held}).encode()).hexdigest()


def _stamp(path: Path) -> list[Any]:
    """Name, size, and a hash of begin and end of a large file. Raises `UserError` where it cannot be read."""
    try:
        with open(path, "rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            digest = hashlib.sha256(handle.read(_STAMP))
            handle.seek(max(0, size - _STAMP))
            digest.update(handle.read(_STAMP))
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or '').lower()}; name a file that can be read") from None
    return [path.name, size, digest.hexdigest()]


class _Build:
    def __init__(self, job: KBJob, folder: Path, request: str) -> None:
        self.job, self.folder, self.request = job, folder, request
        self.parts = make_folder(folder / PARTS)
        self.names = attribute_names(job.attributes)

    def run(self) -> KBReport:
        dump = self.job.dump or by_api.fetched(self.job, self.parts)
        scan = Scan(self.parts, Dump(dump, self.parts / "dump.index"), self._selection(), self.request)
        progress = scan.run(self.job.processes or machine.cores())
        self._refuse_malformed(progress)
        counts, kept = Counter(progress.counts), scan.files["entities"]
        with contextlib.closing(self._labels(scan.files)) as labels, self._further(kept, counts) as further:
            writer = Writer(self.names, labels.get, further, counts)
            writer.write(kept, self.folder)
        report = KBReport(folder=self.folder, counts=_ordered(counts), examples=tuple(progress.examples))
        write_sealed(self.folder / ACCOUNT, {"request": self.request, "report": to_json(report)})
        _finish(self.folder)
        return report

    def _selection(self) -> Selection:
        job = self.job
        wikis = (job.wiki, *(f"{language.replace('-', '_')}wiki" for language in job.languages))
        return Selection(
            where=job.where,
            languages=job.languages,
            attributes=tuple(self.names),
            types=job.types,
            pictures=job.pictures,
            wikis=tuple(dict.fromkeys(wikis)),
            keep_labels=job.labels is None,
        )

    def _refuse_malformed(self, progress: Progress) -> None:
        bad = progress.counts[MALFORMED] + progress.counts[TOO_LONG]
        if bad > self.job.max_bad_records * max(progress.counts[SEEN], 1):
            raise UserError(
                f"{self.job.dump or self.job.ids}: {bad:,} of {progress.counts[SEEN]:,} records are malformed, at most "
                f"{self.job.max_bad_records:.1%} may be: --max-bad-records; {progress.examples[0]}"
            )

    def _labels(self, files: dict[str, Path]) -> Labels:
        """Labels of all that the entities refer to: a second pass, over the file of labels."""
        wanted = needed(files["entities"])
        path = self.parts / "labels.sqlite"
        path.unlink(missing_ok=True)
        labels = Labels(path)
        labels.fill(lines(self.job.labels or files["labels"]), wanted)
        if self.job.ids is not None:
            labels.fill(by_api.labels(self.job, self.parts, _absent(wanted, labels)), wanted)
        return labels

    @contextlib.contextmanager
    def _further(self, entities: Path, counts: Counter[str]) -> Iterator[Callable[[str], Sequence[str]]]:
        """Names that Wikipedia's redirects and disambiguation pages give, by QID."""
        if self.job.wikipedia is None:
            yield lambda _: ()
            return
        source = self.job.wikipedia, self.job.wiki
        with wikipedia.names(source, entities, self.parts, counts) as found:
            yield found


def _finish(folder: Path) -> None:
    """Give the file of labels its name, and remove what only a run needs; answers of a server stay."""
    parts = folder / PARTS
    if not parts.is_dir():
        return
    with explained(folder, "--out"):
        labels = parts / LABELS_PART
        if labels.exists() and labels.stat().st_size:
            os.replace(labels, folder / LABELS)
        for path in parts.iterdir():
            if not path.name.startswith(("entities-", "labels-", ".")):
                path.unlink()
        with contextlib.suppress(OSError):
            parts.rmdir()


def _absent(wanted: Numbers, labels: Labels) -> list[str]:
    return [name for name in wanted if labels.get(name) is None]


def _ordered(counts: Counter[str]) -> dict[str, int]:
    """Entities first, then by name."""
    return {"entities": counts["entities"], **{name: counts[name] for name in sorted(counts) if name != "entities"}}
