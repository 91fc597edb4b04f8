"""Who may ask: a token, or this machine alone; and web pages of which servers."""

import base64
import hmac
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from foundation.errors import UserError
from foundation.files import unreadable

TOKEN = "MEL_SERVICE_TOKEN"
"""The environment variable that may hold the token."""
SHORTEST = 16  # characters of a token
_LONGEST = 4096  # bytes of a token's file
_ORIGIN = re.compile(r"https?://[a-zA-Z0-9.\-]+(:\d{1,5})?|https?://\[[0-9a-fA-F:]+\](:\d{1,5})?")


@dataclass(frozen=True)
class Access:
    """token: that requests must bring; None: none. origins: of web pages that may ask. any_host: whether requests under
    any host name are answered; else those of this machine, because the page of a name that leads here (DNS rebinding)
    is somebody else's."""

    token: str | None
    origins: frozenset[str]
    any_host: bool

    def knows(self, host: str) -> bool:
        """Whether a request with this Host header is answered."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
        return self.any_host or loopback(name.lower().strip("[]"))

    def admits(self, authorization: str) -> bool:
        """Whether this Authorization header brings the token: as a bearer's, or as the password that a browser asks
        for."""
        if self.token is None:
            return True
        kind, _, given = authorization.partition(" ")
        if kind.lower() == "basic":
            given = _password(given)
        elif kind.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode(), self.token.encode())

    def refuses_page(self, headers: Mapping[str, str], own: str) -> bool:
        """Whether the request comes from a web page of another server. own: this one's origin."""
        origin = headers.get("origin")
        if origin is not None:
            return origin != own and origin not in self.origins
        return headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate"


def access(host: str, token_file: Path | None, origins: tuple[str, ...]) -> Access:
    """What holds for a service that listens at `host`. The token is that of the file, else of `MEL_SERVICE_TOKEN`.

    Raises `UserError` where others than this machine could ask without a token, and for a token that is too short.
    """
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise UserError(f"--allow-origins {origin!r:.80}: expected addresses such as https://example.org")
    token = _read(token_file) if token_file else os.environ.get(TOKEN, "").strip() or None
    place = f"--token-file {token_file}" if token_file else TOKEN
    if token is not None and (len(token) < SHORTEST or not token.isascii() or not token.isprintable()):
        raise UserError(
            f"{place}: the token must have at least {SHORTEST} printable ASCII characters; "
            "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    if token is None and not loopback(host):
        raise UserError(
            f"--host {host}: others than this machine could reach the service; set a token in the environment variable "
            f"{TOKEN} or in a file (--token-file), or leave --host out"
        )
    return Access(token, frozenset(origins), any_host=not loopback(host))


def loopback(host: str) -> bool:
    """Whether only this machine can reach what listens at `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _password(given: str) -> str:
    """Of Basic credentials, with any name; empty where there is none."""
    try:
        return base64.b64decode(given.strip(), validate=True).decode("utf-8").partition(":")[2]
    except ValueError:
        return ""


def _read(path: Path) -> str:
    try:
        with open(path, "rb") as handle:
            return handle.read(_LONGEST).decode("utf-8").strip()
    except OSError as error:
        raise UserError(f"--token-file {path}: {unreadable(error)}; name a file that holds the token") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--token-file {path}: not UTF-8; name a file that holds the token") from error
