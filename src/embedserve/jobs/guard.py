"""Which URLs this server may fetch or call on a caller's behalf.

A URL in a request is an attempt, until shown otherwise, to make this server speak to something that only it
can reach (CWE-918). So: http and https only, hosts the operator has listed, and no address that is not
public, checked on the very address that is connected to (:mod:`.download`), so that a name which
resolves differently the second time gains nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from embedserve.errors import EmbedserveError

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Sequence[str]]
"""Host and port to the addresses behind it, as text."""

MAX_URL = 4096
_PORTS = {"http": 80, "https": 443}
_NAT64 = IPv6Network("64:ff9b::/96")


def refused(reason: str, code: str = "InvalidURL") -> EmbedserveError:
    return EmbedserveError(reason, code=code, openai_code="invalid_url", openai_type="invalid_request_error")


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be fetched, and the one address to connect to."""

    url: SplitResult
    host: str
    port: int
    address: str

    @property
    def path(self) -> str:
        return (self.url.path or "/") + (f"?{self.url.query}" if self.url.query else "")


def resolve_host(host: str, port: int) -> list[str]:
    """The system's answer. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class UrlGuard:
    """Lets pass what the operator listed.

    Args:
        hosts: ``name``, ``name:port`` or ``*.domain``; a name without port stands for ports 80 and 443.
        networks: private networks that the operator opened on purpose, e.g. ``10.1.0.0/16``; link-local,
            multicast and unspecified addresses stay closed whatever is listed.
        setting: name of the setting to tell the caller about.
    """

    def __init__(
        self, hosts: Sequence[str], networks: Sequence[str], setting: str, resolve: Resolve = resolve_host
    ) -> None:
        self._hosts = [host.strip().lower().rstrip(".") for host in hosts if host.strip()]
        self._networks: list[IPv4Network | IPv6Network] = [
            ip_network(n.strip()) for n in networks if n.strip()
        ]
        self._setting = setting
        self._resolve = resolve

    def check(self, url: str) -> tuple[SplitResult, str, int]:
        """What the URL alone tells: (parts, host, port). Raises EmbedserveError (400 InvalidURL)."""
        if len(url) > MAX_URL:
            raise refused(f"The url has {len(url)} characters, it may have {MAX_URL}.")
        if any(character <= " " or character in "\\\x7f" for character in url) or not url.isascii():
            raise refused(
                "The url contains blanks, backslashes or characters outside ASCII: percent-encode them."
            )
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip("."), parts.port
        except ValueError:
            raise refused("The url is malformed.") from None
        if parts.scheme not in _PORTS or not host:
            raise refused("The url must start with http:// or https:// and name a host.")
        if "@" in parts.netloc:
            raise refused("The url must not contain a user name or password.")
        chosen = _PORTS[parts.scheme] if port is None else port
        if not any(self._matches(entry, host, chosen) for entry in self._hosts):
            raise refused(
                f"The host {host[:253]} is not on this server's list: ask the operator to add it to "
                f"{self._setting}, or upload the file to this server and name its content URL."
            )
        if (literal := _literal(host)) is not None and not self.allows(literal):
            raise refused("The url points to an address that is not public.")
        return parts, host, chosen

    def admit(self, url: str) -> Target:
        """:meth:`check`, then resolve once; every address behind the name must be allowed.

        Raises:
            EmbedserveError: InvalidURL, InvalidURL.ConnectionRefused when the name does not resolve.
        """
        parts, host, port = self.check(url)
        try:
            addresses = self._resolve(host, port)
        except OSError:
            addresses = []
        if not addresses:
            raise refused(f"The host {host} cannot be resolved.", "InvalidURL.ConnectionRefused")
        if not all(self.allows(ip_address(address)) for address in addresses):
            raise refused("The url points to an address that is not public.")
        return Target(parts, host, port, addresses[0])

    def allows(self, address: Address) -> bool:
        """Whether to connect there; an address wrapped in another (IPv4 in IPv6) counts as what is inside."""
        address = _unwrap(address)
        if address.is_link_local or address.is_multicast or address.is_unspecified:
            return False
        if any(address in network for network in self._networks):
            return True
        return address.is_global and not address.is_reserved and not address.is_loopback

    def _matches(self, entry: str, host: str, port: int) -> bool:
        name, _, listed = entry.partition(":") if entry.count(":") == 1 else (entry, "", "")
        if name.startswith("["):  # [::1]:8080
            name, _, rest = entry[1:].partition("]")
            listed = rest.lstrip(":")
        if (port != int(listed)) if listed else (port not in _PORTS.values()):
            return False
        return host.endswith(name[1:]) if name.startswith("*.") else host == name


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _unwrap(address: Address) -> Address:
    if isinstance(address, IPv6Address):
        if inner := address.ipv4_mapped or address.sixtofour:
            return inner
        if address.teredo:
            return address.teredo[1]
        if address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 1):
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address
