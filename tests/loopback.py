"""Real HTTP servers on loopback that answer as a wiki, a Wikidata and an OpenAI-compatible model do, also badly: slow,
failing, huge, malformed."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass
class Reply:
    """What is sent: a JSON value or raw bytes.

    wait: seconds before the first byte. drip: seconds between single bytes. endless: never ends.
    """

    body: object = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wait: float = 0.0
    drip: float = 0.0
    endless: bool = False
    cut: bool = False

    def encoded(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass
class Seen:
    """One request as it came in."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: dict | None
    at: float


class Server:
    """`answer(seen) -> Reply` behind an address; `seen` lists the requests.

    trouble: replies given first, one a request.
    """

    def __init__(self, answer: Callable[[Seen], Reply]) -> None:
        self.answer, self.most, self._now = answer, 0, 0
        self.seen: list[Seen] = []
        self.trouble: list[Reply] = []
        self._guard = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def _handle(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
                seen = Seen(
                    parts.path,
                    query,
                    {name.title(): value for name, value in self.headers.items()},
                    json.loads(self.rfile.read(length)) if length else None,
                    time.monotonic(),
                )
                with outer._guard:
                    outer.seen.append(seen)
                    outer._now += 1
                    outer.most = max(outer.most, outer._now)
                    reply = outer.trouble.pop(0) if outer.trouble else None
                try:
                    with contextlib.suppress(OSError):
                        self._send(reply or outer.answer(seen))
                finally:
                    with outer._guard:
                        outer._now -= 1

            do_GET = do_POST = _handle

            def _send(self, reply: Reply) -> None:
                time.sleep(reply.wait)
                data = reply.encoded()
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                if reply.endless:
                    self.send_header("Connection", "close")
                    self.end_headers()
                    for _ in range(4096):
                        self.wfile.write(b"x" * 65536)
                    self.close_connection = True
                    return
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if reply.cut:
                    self.wfile.write(data[: len(data) // 2])
                    self.close_connection = True
                elif reply.drip:
                    for place in range(len(data)):
                        self.wfile.write(data[place : place + 1])
                        self.wfile.flush()
                        time.sleep(reply.drip)
                else:
                    self.wfile.write(data)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@contextlib.contextmanager
def serving(answer: Callable[[Seen], Reply]) -> Iterator[Server]:
    server = Server(answer)
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()


@dataclass
class Wiki:
    """Pages by title: {`extract`, `item`, `disambiguation`}; redirects: title → (title, section or None).

    links: QID → title, for wbgetentities.
    """

    pages: dict[str, dict] = field(default_factory=dict)
    redirects: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    links: dict[str, str | None] = field(default_factory=dict)

    def __call__(self, seen: Seen) -> Reply:
        actions = {"query": self.query, "parse": self.parse, "wbgetentities": self.entities}
        return Reply(actions[seen.query["action"]](seen.query))

    def _to(self, title: str) -> tuple[str, str | None]:
        return self.redirects.get(title, (title, None))

    def query(self, parameters: dict[str, str]) -> dict:
        titles = parameters["titles"].split("|")
        assert len(titles) <= 20, "more introductions than the API gives"
        redirects = [
            {"from": t, "to": self._to(t)[0], **({"tofragment": self._to(t)[1]} if self._to(t)[1] else {})}
            for t in titles
            if t in self.redirects
        ]
        listed, start = [], int(parameters.get("excontinue", 0))
        wanted = list(dict.fromkeys(self._to(t)[0] for t in titles))
        for place, title in enumerate(wanted):
            page = self.pages.get(title)
            if page is None:
                listed.append({"title": title, "missing": True, "ns": 0})
                continue
            properties = {
                **({"wikibase_item": page["item"]} if page.get("item") else {}),
                **({"disambiguation": ""} if page.get("disambiguation") else {}),
            }
            entry = {"pageid": place + 1, "ns": 0, "title": title, "pageprops": properties}
            if start <= place < start + 7:  # like a server that gives fewer extracts than asked for
                entry["extract"] = page["extract"]
            listed.append(entry)
        more = (
            {"continue": {"excontinue": start + 7, "continue": "||pageprops"}}
            if start + 7 < len(wanted)
            else {"batchcomplete": True}
        )
        return {**more, "query": {"redirects": redirects, "pages": listed}}

    def parse(self, parameters: dict[str, str]) -> dict:
        title, section = self._to(parameters["page"])
        page = self.pages.get(title)
        if page is None:
            return {"error": {"code": "missingtitle", "info": "The page you specified doesn't exist."}}
        text = (
            "<div>"
            + "".join(f"<p>{part}<sup class='reference'>[1]</sup></p>" for part in page["extract"].split("\n"))
            + "<table><tr><td><p>box</p></table></div>"
        )
        redirects = (
            [{"from": parameters["page"], "to": title, **({"tofragment": section} if section else {})}]
            if parameters["page"] in self.redirects
            else []
        )
        properties = {
            **({"wikibase_item": page["item"]} if page.get("item") else {}),
            **({"disambiguation": ""} if page.get("disambiguation") else {}),
        }
        return {"parse": {"title": title, "redirects": redirects, "text": text, "properties": properties}}

    def entities(self, parameters: dict[str, str]) -> dict:
        ids = parameters["ids"].split("|")
        assert len(ids) <= 50
        for qid in ids:
            if qid not in self.links:
                return {"error": {"code": "no-such-entity", "info": "no such entity", "id": qid}}
        site = parameters["sitefilter"]
        return {
            "entities": {
                q: {"id": q, "sitelinks": {site: {"site": site, "title": self.links[q]}} if self.links[q] else {}}
                for q in ids
            },
            "success": 1,
        }


def completion(
    text: str | None, finish: str = "stop", used: tuple[int, int] | None = (20, 10), **message: object
) -> dict:
    usage = (
        {"usage": {"prompt_tokens": used[0], "completion_tokens": used[1], "total_tokens": sum(used)}} if used else {}
    )
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], **usage}
