"""Fetches the pictures of a list: thumbnails of Commons, or files at any public address, each once, with author and
licence."""

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from foundation.errors import PassingError, UserError
from foundation.files import make_folder, read_lines, write_atomic
from foundation.output import writing
from foundation.progress import Bar
from pipeline.datasets.images import ImageError, decoding
from pipeline.kb import commons, picture_list
from pipeline.kb.contracts import PicturesJob, PicturesReport
from pipeline.kb.picture_list import Listed
from pipeline.servers.fetching import STOPPED_AFTER, Fetcher
from pipeline.servers.guarded import Guarded, Private
from pipeline.servers.mediawiki import ITEMS, Api, store_name, user_agent
from pipeline.servers.patience import (
    NO_CONTACT,
    PASSING,
    Again,
    OutOfTries,
    Pace,
    TooLarge,
    brief,
    check_address,
    persist,
    read,
    retry_after,
)
from pipeline.servers.store import AnswerStore, answer_store
from pipeline.servers.titles import possible

TABLE, ENTITIES, IMAGES, KEPT = "pictures.tsv", "entities.jsonl", "images", ".fetched"
_COLUMNS = (
    *("id", "picture", "path", "without", "author", "licence", "licence_url", "page", "address"),
    *("width", "height", "bytes"),
)
_MOST_HOPS = 5
_ENDINGS = {b"\xff\xd8": "jpg", b"\x89P": "png", b"GI": "gif", b"RI": "webp", b"BM": "bmp", b"II": "tif", b"MM": "tif"}
_MISSING = {404: "missing at its address", 410: "missing at its address"}
NOT_FREE, UNKNOWN_LICENCE = "licence is not free", "licence is not known"


def check(job: PicturesJob) -> list[Listed]:
    """The list. Raises `UserError` for options that cannot be meant; asks nobody."""
    listed = picture_list.read(job.list)
    if not job.contact.strip():
        raise UserError(NO_CONTACT)
    if job.licences not in ("all", "free"):
        raise UserError(f"--licences {job.licences!r:.40}: expected all or free")
    if job.commons is not None:
        check_address("--commons-api", job.commons)
    elif any(one.file for one in listed):
        raise UserError(
            f"--list {job.list}: names files of Commons; name the server that is asked, --commons-api "
            "https://commons.wikimedia.org/w/api.php"
        )
    return listed


def fetch_images(job: PicturesJob) -> PicturesReport:
    """Write the pictures of a list below `job.out`, a table of them, and their paths into entities.jsonl where it is
    there.

    What was fetched, or found to be missing or broken, is not asked for again. Raises `UserError`, and `PassingError`
    where servers failed for more than `job.max_failed` pictures.
    """
    listed = check(job)
    kept = make_folder(job.out / KEPT)
    settings = (str(job.width), str(job.limits), ",".join(sorted(job.private)))
    with answer_store(kept / store_name("pictures", *settings)) as store:
        fetch = _Fetch(job, store)
        known = fetch.describe(kept, sorted({one.file for one in listed if one.file}))
        wanted = fetch.wanted(listed, known)
        fetch.fetch(wanted)
        outcomes = {key: fetch.outcome(key, known) for key in dict.fromkeys(one.key for one in listed)}
    still = sum(outcome is None for outcome in outcomes.values())
    if still > job.max_failed:
        raise PassingError(
            f"{still:,} of {len(outcomes):,} pictures could not be fetched now: {fetch.failure}; the same command asks "
            f"for these alone, and --max-failed {still} goes on without them"
        )
    rows = {key: outcome or {"without": "not fetched"} for key, outcome in outcomes.items()}
    _write_table(job.out / TABLE, listed, rows)
    _write_entities(job.out / ENTITIES, listed, rows)
    without = Counter(row["without"] for row in rows.values() if row.get("without"))
    return PicturesReport(
        folder=job.out / IMAGES,
        table=job.out / TABLE,
        listed=len(rows),
        fetched=sum("path" in row for row in rows.values()),
        without=dict(sorted(without.items())),
        requests=fetch.requests,
        reused=len(rows) - len(wanted),
    )


class _Fetch:
    """requests: how many were made. failure: why the last picture that stays open does."""

    def __init__(self, job: PicturesJob, store: AnswerStore) -> None:
        self.job, self.store, self.requests, self.failure = job, store, 0, ""
        self.agent = user_agent("pictures of a knowledge base for entity linking", job.contact)
        self.pace = Pace(job.rate)
        self.patience = replace(job.patience, bytes=job.limits.max_bytes)
        self._failed: Counter[str] = Counter()
        self._guard = threading.Lock()

    def describe(self, kept: Path, files: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What Commons says of its files, by their names."""
        if self.job.commons is None:
            return {}
        place = kept / store_name("commons", self.job.commons, str(self.job.width))
        with (
            answer_store(place) as said,
            closing(Api(self.job.commons, self.agent, Pace(self.job.rate), self.job.patience)) as api,
        ):
            fetcher = Fetcher(dry=False)
            names = [name for name in files if possible(f"File:{name}")]
            fetcher.fill(said, names, ITEMS, lambda group: commons.describe(api, group, self.job.width), "descriptions")
            self.requests += api.requests
            self.failure = fetcher.failure
            known = {name: said.get(name) for name in names if name in said}
        return {**{name: {"none": "name that no file can have"} for name in files if name not in names}, **known}

    def wanted(self, listed: Sequence[Listed], known: dict[str, dict[str, Any]]) -> dict[str, str]:
        """Address by key of the pictures that are still to be fetched."""
        found = {}
        for one in listed:
            info = known.get(one.file, {}) if one.file else {"address": one.address}
            if "address" not in info or self._refused(one.key, known):
                continue
            outcome = self.store.get(one.key)
            if outcome is None or ("path" in outcome and not (self.job.out / outcome["path"]).is_file()):
                found[one.key] = info["address"]
        return found

    def _refused(self, key: str, known: dict[str, dict[str, Any]]) -> str | None:
        """Why a picture is not fetched for its licence; None where it is."""
        if self.job.licences == "all":
            return None
        info = known.get(key, {})
        if commons.is_free(info):
            return None
        return NOT_FREE if info.get("licence") or info.get("code") else UNKNOWN_LICENCE

    def outcome(self, key: str, known: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
        """A row of the table; None for a picture that stays open."""
        info = {name: value for name, value in known.get(key, {}).items() if name not in ("code", "none")}
        if "none" in known.get(key, {}):
            return {"without": known[key]["none"]}
        if refused := self._refused(key, known):
            return {**info, "without": refused}
        stored = self.store.get(key)
        return None if stored is None else {**info, **stored}

    def fetch(self, wanted: dict[str, str]) -> None:
        """Fetch the pictures; what becomes of each is kept at once."""
        headers = {"User-Agent": self.agent, "Accept-Encoding": "identity", "Accept": "image/*"}
        with (
            httpx.Client(
                transport=Guarded(self.job.private),
                headers=headers,
                timeout=self.job.patience.timeout,
                follow_redirects=False,
                trust_env=False,
            ) as self.client,
            Bar(len(wanted), "pictures", "picture") as bar,
            ThreadPoolExecutor(max(1, self.job.concurrency)) as pool,
        ):

            def one(entry: tuple[str, str]) -> None:
                self._one(*entry)
                with self._guard:
                    bar.update()

            try:
                for _ in pool.map(one, wanted.items()):
                    pass
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _one(self, key: str, address: str) -> None:
        host = _host(address)
        if self._failed[host] >= STOPPED_AFTER:
            return  # the server is not there; others are asked on
        try:
            outcome = self._picture(key, address)
        except OutOfTries as error:
            with self._guard:
                self._failed[host] += 1
                self.failure = str(error)
            return
        self._failed[host] = 0
        self.store.put(key, outcome)

    def _picture(self, key: str, address: str) -> dict[str, Any]:
        """Fetch a picture and write it, or say why not. Raises `OutOfTries`."""
        try:
            final, data = self._data(address)
            with decoding(data, self.job.limits) as (_, size):
                width, height = size
        except _Refused as error:
            return {"without": str(error), "address": address}
        except TooLarge:
            return {"without": "too many bytes", "address": address}
        except ImageError as error:
            return {"without": error.cause, "address": address}
        name = hashlib.sha256(key.encode()).hexdigest()[:24]
        path = Path(IMAGES) / name[:2] / f"{name}.{_ENDINGS[data[:2]]}"
        write_atomic(self.job.out / path, data)
        return {"path": path.as_posix(), "address": final, "width": width, "height": height, "bytes": len(data)}

    def _data(self, address: str) -> tuple[str, bytes]:
        """The address that a picture was found at, and its bytes; redirects are followed a few times."""
        for _ in range(_MOST_HOPS):
            if not _is_address(address):
                raise _Refused("no address of a picture")
            target, data = persist(lambda: self._once(address), self.pace, self.patience)  # noqa: B023 - called at once
            if target is None:
                return address, data
            try:
                address = urljoin(address, target)
            except ValueError:
                raise _Refused("no address of a picture") from None
        raise _Refused("redirects that do not end")

    def _once(self, address: str) -> tuple[str | None, bytes]:
        """Where an address redirects to, or None and the bytes there."""
        started = time.monotonic()
        with self._guard:
            self.requests += 1
        try:
            with self.client.stream("GET", address) as answer:
                if answer.is_redirect:
                    return answer.headers["location"], b""
                if answer.status_code in PASSING:
                    raise Again(f"{_host(address)} answers {answer.status_code}", retry_after(answer.headers))
                if answer.status_code != 200:
                    raise _Refused(_MISSING.get(answer.status_code, f"refused: {answer.status_code}"))
                return None, read(answer.iter_raw(), self.patience, started)
        except Private:
            raise _Refused("address in a private network") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError):
            raise _Refused("no address of a picture") from None
        except httpx.HTTPError as error:
            raise Again(f"{_host(address)}: {type(error).__name__} {brief(error)}".rstrip()) from None


class _Refused(Exception):
    """Why a picture is not there, and will not be another time."""


def _is_address(address: str) -> bool:
    """Whether it is of the web, and without a user's name or password."""
    try:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        return False


def _host(address: str) -> str:
    return brief(urlsplit(address).netloc, 100) if _is_address(address) else ""


def _write_table(path: Path, listed: Sequence[Listed], rows: dict[str, dict[str, Any]]) -> None:
    plain = str.maketrans("\t\r\n", "   ")
    with writing([path], "--out") as (table,):
        table.write("\t".join(_COLUMNS) + "\n")
        for one in listed:
            row = {"id": one.id, "picture": one.key, **rows[one.key]}
            table.write("\t".join(str(row.get(name, "")).translate(plain) for name in _COLUMNS) + "\n")


def _write_entities(path: Path, listed: Sequence[Listed], rows: dict[str, dict[str, Any]]) -> None:
    """Give the entities of a KB beside the pictures their paths; whatever else their lines hold stays."""
    if not path.is_file():
        return
    images: dict[str, list[str]] = {}
    for one in listed:
        if "path" in rows[one.key]:
            images.setdefault(one.id, []).append(rows[one.key]["path"])
    with writing([path], "--out") as (file,):
        for line in _with_images(path, images):
            file.write(line)


def _with_images(path: Path, images: dict[str, list[str]]) -> Iterator[str]:
    for number, text in read_lines(path):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            name = str(line["id"])
            line.pop("images", None)
            found = {**line, **({"images": images[name]} if name in images else {})}
            whole = json.dumps(found, ensure_ascii=False) + "\n"
            whole.encode()  # halves of characters, which no file takes
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(f"{path}:{number}: no line of an entity; build the KB again, or move this file") from None
        yield whole
