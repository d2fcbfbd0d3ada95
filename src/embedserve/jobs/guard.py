"""Which URLs this server may fetch or call on a caller's behalf.

A URL in a request is an attempt, until shown otherwise, to make this server speak to something that only it
can reach (CWE-918). So: http and https only, hosts the operator has listed, and no address that is not
public, checked on the very address that is connected to (:mod:`.download`), so that a name which
resolves differently the second time gains nothing.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from ipaddress import ip_network
from urllib.parse import SplitResult, urlsplit

from embedserve.errors import EmbedserveError
from embedserve.jobs.addresses import Address, Network, is_closed, is_public, is_within, parse_address

Resolve = Callable[[str, int], Sequence[str]]
"""Host and port to the addresses behind it, as text."""

MAX_URL = 4096
RESOLVE_SECONDS = 15.0
"""Longest wait for the resolver."""
_PORTS = {"http": 80, "https": 443}
_MAX_HOST = 253
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""A last label like this makes the host an IPv4 address to some resolver, in a spelling of the seventies."""


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
    """The system's answer. Raises OSError, also when it takes longer than RESOLVE_SECONDS."""
    answer: Future[list[str]] = Future()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answer.set_result(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=ask, name="embedserve-resolve", daemon=True).start()
    return answer.result(RESOLVE_SECONDS)


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
        self._networks: list[Network] = [ip_network(n.strip()) for n in networks if n.strip()]
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
        literal = parse_address(host)
        if literal is None or "%" in host:
            _check_name(host)
        chosen = _PORTS[parts.scheme] if port is None else port
        if not any(self._matches(entry, host, chosen) for entry in self._hosts):
            raise refused(
                f"The host {host} is not on this server's list: ask the operator to add it to "
                f"{self._setting}, or upload the file to this server and name its content URL."
            )
        if literal is not None and not self.allows(literal):
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
        except (OSError, ValueError):  # the codec of names raises a ValueError for those it cannot spell
            addresses = []
        if not addresses:
            raise refused(f"The host {host} cannot be resolved.", "InvalidURL.ConnectionRefused")
        parsed = [parse_address(address) for address in addresses]
        if not all(address is not None and self.allows(address) for address in parsed):
            raise refused("The url points to an address that is not public.")
        return Target(parts, host, port, addresses[0])

    def allows(self, address: Address) -> bool:
        """Whether to connect there."""
        return not is_closed(address) and (is_public(address) or is_within(address, self._networks))

    def _matches(self, entry: str, host: str, port: int) -> bool:
        name, _, listed = entry.partition(":") if entry.count(":") == 1 else (entry, "", "")
        if name.startswith("["):  # [::1]:8080
            name, _, rest = entry[1:].partition("]")
            listed = rest.lstrip(":")
        if (str(port) != listed) if listed else (port not in _PORTS.values()):
            return False
        return host.endswith(name[1:]) if name.startswith("*.") else host == name


def _check_name(host: str) -> None:
    """Raises EmbedserveError for what is no name in the domain name system."""
    labels = host.split(".")
    if len(host) > _MAX_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        raise refused(f"The host of the url, {host[:80]}, is no valid name.")
    if _NUMBER.fullmatch(labels[-1]):
        raise refused(
            f"The host of the url, {host[:80]}, is neither a name nor an address in its usual form."
        )
