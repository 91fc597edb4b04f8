"""Commands that make a KB from Wikidata, and fetch its pictures."""

from dataclasses import replace
from pathlib import Path

import luigi

from foundation import child, logs
from foundation.errors import UserError
from mel_cache.commands.dataset import PrepareDataset
from mel_cache.commands.enhance import EnhanceEntities
from mel_cache.commands.parameters import Choice, Number, Renamed, Whole, setting
from mel_cache.commands.task import Tool
from pipeline.datasets.contracts import Limits
from pipeline.kb.contracts import ATTRIBUTES, PICTURE_LIMITS, KBJob, KBReport, PicturesJob, PicturesReport, Server
from pipeline.servers.contracts import Patience


class OnServers(Tool):
    """Parameters of what asks a wiki."""

    wiki_contact = EnhanceEntities.wiki_contact
    wiki_rate = EnhanceEntities.wiki_rate
    server_timeout = EnhanceEntities.server_timeout
    tries = EnhanceEntities.tries

    def patience(self) -> Patience:
        usual = Patience()
        return replace(usual, tries=self.tries, timeout=self.server_timeout or usual.timeout)

    def server(self, api: str) -> Server | None:
        """The server at this address; None where none is given."""
        if not api:
            return None
        return Server(api=api, contact=self.wiki_contact, rate=self.wiki_rate, patience=self.patience())


class BuildKB(OnServers):
    """Makes a KB from Wikidata: --dump latest-all.json.bz2 --where 'P31=Q5 and sitelinks>=3' --out kb.

    Writes entities.jsonl (names, aliases, descriptions, types, attributes), pictures.jsonl (for FetchImages),
    sitelinks.jsonl (pages and popularity), labels.tsv (of everything in the dump) and account.json. A killed command
    goes on where it was. --ids FILE asks Wikidata's API for some entities instead of reading a dump.
    """

    dump = luigi.Parameter(default="", description="dump of Wikidata in JSON: .json, .json.gz or .json.bz2")
    ids = luigi.Parameter(default="", description="file of QIDs, a line each, that --wikidata-api is asked for instead")
    where = luigi.Parameter(
        default="",
        description="which entities: P31=Q5, P18, sitelinks>=3, joined by and, or, not and brackets; empty: all",
    )
    out = luigi.Parameter(description="folder that the KB is written to")
    languages = luigi.Parameter(
        default="en", description="comma-separated languages of names and descriptions, the first that is there counts"
    )
    attributes = luigi.Parameter(
        default=",".join(ATTRIBUTES),
        description="comma-separated properties that become readable attributes, as P106 or with a name as P569=Born",
    )
    types = luigi.Parameter(default="P31", description="property whose values are an entity's type; empty: none")
    pictures = luigi.Parameter(default="P18", description="comma-separated properties of picture files")
    labels = luigi.Parameter(
        default="",
        description="labels.tsv of another KB: labels of values are taken from there, and none are gathered",
    )
    wikipedia = luigi.Parameter(
        default="",
        description="folder with a Wikipedia's dumps, for further names: tables page and redirect, and for "
        "disambiguation pages page_props, pagelinks and linktarget",
    )
    wiki_site = EnhanceEntities.wiki_site
    wikidata_api = EnhanceEntities.wikidata_api
    processes = Whole(least=0, default=0, description="processes that read the dump, 0: one a core")
    max_bad_records = PrepareDataset.max_bad_records

    def check(self) -> None:
        from pipeline.kb import build

        self.job = KBJob(
            out=_path(self.out),
            dump=_path(self.dump) if self.dump else None,
            ids=_path(self.ids) if self.ids else None,
            server=self.server(self.wikidata_api),
            where=self.where,
            languages=_listed(self.languages),
            attributes=_listed(self.attributes),
            types=self.types.strip(),
            pictures=_listed(self.pictures),
            labels=_path(self.labels) if self.labels else None,
            wikipedia=_path(self.wikipedia) if self.wikipedia else None,
            wiki=self.wiki_site,
            processes=self.processes,
            max_bad_records=self.max_bad_records,
        )
        if not self.out:
            raise UserError("--out: name the folder that the KB is written to")
        build.check(self.job)

    def brief(self) -> str:
        return f" {self.out}"

    def act(self) -> None:
        logs.say(child.run("pipeline.kb.build:build_kb", self.job, KBReport).text)


class FetchImages(OnServers):
    """Fetches the pictures of a KB: --list kb/pictures.jsonl --commons-api https://commons.wikimedia.org/w/api.php.

    Writes them below the list's folder (images/), a table with author, licence and address of each (pictures.tsv), and
    their paths into the entities.jsonl there. What is there, missing or broken is not asked for again. No address leads
    into a private network, unless --allow-private names its host.
    """

    list_file = Renamed("--list", description="pictures.jsonl of a KB, or a .tsv of ids and addresses")
    out = luigi.Parameter(default="", description="folder that pictures and table are written to; empty: the list's")
    commons_api = setting(
        "commons_api", "", "api.php that is asked for files of Commons, https://commons.wikimedia.org/w/api.php"
    )
    width = Whole(least=16, most=4000, default=500, description="pixels of a thumbnail's width, of files of Commons")
    licences = Choice(
        default="all", choices=("all", "free"), description="free: leave out what has no free licence, or none known"
    )
    max_image_bytes = Whole(least=1, default=PICTURE_LIMITS.max_bytes, description="most bytes of a picture")
    max_image_pixels = Whole(least=1, default=PICTURE_LIMITS.max_pixels, description="most pixels of a picture")
    allow_private = luigi.Parameter(default="", description="comma-separated hosts that may lie in a private network")
    image_rate = setting("image_rate", 2.0, "pictures a second, 0: no limit", Number, least=0, significant=False)
    connections = Whole(least=1, most=32, default=2, description="pictures that are fetched at once")
    max_failed = EnhanceEntities.max_failed

    def check(self) -> None:
        from pipeline.kb import fetch

        path = _path(self.list_file)
        self.job = PicturesJob(
            list=path,
            out=_path(self.out) if self.out else path.parent,
            contact=self.wiki_contact,
            commons=self.commons_api or None,
            width=self.width,
            licences=self.licences,
            limits=Limits(max_pixels=self.max_image_pixels, max_bytes=self.max_image_bytes),
            private=_listed(self.allow_private),
            rate=self.image_rate,
            concurrency=self.connections,
            max_failed=self.max_failed,
            patience=self.patience(),
        )
        fetch.check(self.job)

    def brief(self) -> str:
        return f" {self.list_file}"

    def act(self) -> None:
        logs.say(child.run("pipeline.kb.fetch:fetch_images", self.job, PicturesReport).text)


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
