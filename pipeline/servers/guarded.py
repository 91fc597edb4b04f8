"""Requests that do not lead into a private network, whatever a name resolves to."""

import ipaddress
import socket
from collections.abc import Collection

import httpx

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""Addresses that a gateway turns into the IPv4 address of their last 32 bits."""


class Private(Exception):
    """An address lies in a private network, or is none that a public server can have."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet; an IPv6 address that holds an IPv4 one is as that one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


class Guarded(httpx.BaseTransport):
    """Looks a host's name up once, refuses it where any of its addresses is private, and connects to the address that
    it has looked at: a name that resolves otherwise a moment later gains nothing.

    allowed: hosts, as addresses spell them, that may be private. Proxies of the environment are not used.
    """

    def __init__(self, allowed: Collection[str] = ()) -> None:
        self._allowed = frozenset(host.lower() for host in allowed)
        self._inner = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Raises `Private`, and what httpx raises."""
        host = request.url.host
        address = self._address(host.lower(), request.url.port or {"http": 80}.get(request.url.scheme, 443), request)
        return self._inner.handle_request(
            httpx.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,  # `Host` names the host
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
        )

    def _address(self, host: str, port: int, request: httpx.Request) -> str:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(f"no address of {host:.100}: {error}", request=request) from None
        addresses = [str(entry[4][0]) for entry in found]
        if host not in self._allowed and not all(map(is_public, addresses)):
            raise Private(f"{host:.100} lies in a private network")
        return addresses[0]

    def close(self) -> None:
        self._inner.close()
