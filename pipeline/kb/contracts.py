"""Contracts of the room that makes a KB: jobs and reports. No torch."""

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from foundation.contracts import contract
from pipeline.datasets.contracts import MAX_BAD_RECORDS, Limits
from pipeline.servers.contracts import Patience

ATTRIBUTES = (
    *("P21", "P27", "P106", "P39", "P108", "P102", "P54", "P569", "P19", "P570"),
    *("P17", "P131", "P571", "P159", "P452", "P136", "P57", "P50", "P577"),
)
"""Statements that are read by default: of persons, organisations, places and works."""
LONGEST_RECORD = 16 << 20
"""Bytes of one entity in a dump that are read. The largest of Wikidata have about 4 MB."""
PICTURE_LIMITS = Limits(max_pixels=16_000_000, max_bytes=10_000_000)
"""Of a picture that is fetched; thumbnails are far below."""
LONGEST_NAME = 500
"""Characters of a label, and of a value. Wikidata allows 250 for a label."""


@contract
class Server:
    """A MediaWiki's api.php. contact: e-mail or web address of the user, sent with each request. rate: requests a
    second, 0: no limit.
    """

    api: str
    contact: str
    rate: float = 1.0
    patience: Patience = Patience()


@contract
class KBJob:
    """A KB to make from Wikidata.

    out: folder that it is written to. dump: Wikidata in JSON (.json, .json.gz, .json.bz2), or ids: file of QIDs, a
    line each, which are asked for at `server`; one of the two.
    where: which entities, as `P31=Q5 and sitelinks>=3`; empty: all. languages: of names and descriptions, the first
    that an entity has counts. attributes: properties that become readable text, as `P106` or `P569=Born`; types:
    property of an entity's type; pictures: properties of picture files.
    labels: file of labels (QID, tab, label) for values; None: those of the dump or of the server.
    wikipedia: folder with a wiki's dumps of redirects and disambiguation pages, for further names; wiki: its name.
    processes: that read the dump, 0: one a core. max_bad_records: share of the records that may be malformed.
    """

    out: Path
    dump: Path | None = None
    ids: Path | None = None
    server: Server | None = None
    where: str = ""
    languages: tuple[str, ...] = ("en",)
    attributes: tuple[str, ...] = ATTRIBUTES
    types: str = "P31"
    pictures: tuple[str, ...] = ("P18",)
    labels: Path | None = None
    wikipedia: Path | None = None
    wiki: str = "enwiki"
    processes: int = 0
    max_bad_records: float = MAX_BAD_RECORDS


@contract
class KBReport:
    """What is in a KB. folder: of its files. counts: of entities, names and what was left out, by what they count.
    examples: of records that were left out, with their cause.
    """

    folder: Path
    counts: Mapping[str, int]
    examples: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        lines = [f"{self.folder}: {self.counts['entities']:,} entities"]
        lines += [f"  {name}: {count:,}" for name, count in self.counts.items() if name != "entities" and count]
        return "\n".join([*lines, *(f"  for example {example}" for example in self.examples)])


@contract
class PicturesJob:
    """Pictures to fetch.

    list: pictures.jsonl of a KB, or lines of (id, address): JSON with `id` and `file` or `url`, or .tsv. out: folder
    that they are written below; an entities.jsonl there gets their paths. commons: api.php that files of Commons are
    asked for at. width: pixels of a thumbnail. contact: as `Server.contact`.
    licences: `all` or `free`. limits: of one picture. private: hosts that may lie in a private network. rate: requests
    a second, 0: no limit. concurrency: requests at once. max_failed: pictures that may stay open because a server
    failed.
    """

    list: Path
    out: Path
    contact: str
    commons: str | None = None
    width: int = 500
    licences: str = "all"
    limits: Limits = PICTURE_LIMITS
    private: tuple[str, ...] = ()
    rate: float = 2.0
    concurrency: int = 2
    max_failed: int = 0
    patience: Patience = Patience()


@contract
class PicturesReport:
    """What became of the pictures of a list.

    folder: of the pictures. table: file with a row for each. listed: pictures in the list, each once. fetched: those
    that are there. without: the others, by cause. requests: made by this run; reused: known from earlier ones.
    """

    folder: Path
    table: Path
    listed: int
    fetched: int
    without: Mapping[str, int] = field(default_factory=dict)
    requests: int = 0
    reused: int = 0

    @property
    def text(self) -> str:
        lines = [f"{self.folder}: {self.fetched:,} of {self.listed:,} pictures"]
        lines += [f"  without, {cause}: {count:,}" for cause, count in self.without.items()]
        return "\n".join([*lines, f"  requests: {self.requests:,}, known before: {self.reused:,}", f"{self.table}"])
