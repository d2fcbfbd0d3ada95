"""What a caller may make this server fetch: nothing that only this server can reach."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedserve.errors import EmbedserveError
from embedserve.jobs.download import download, notify
from embedserve.jobs.guard import UrlGuard

pytestmark = pytest.mark.quick

PRIVATE = [
    "127.0.0.1",
    "127.9.9.9",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fc00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2001:db8::1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",  # Teredo around 127.0.0.1
    "2001:0:4136:e378:8000:63bf:f7f7:f7f7",  # and around 8.8.8.8: nobody's server is behind one
    "192.0.0.8",
    "192.0.0.170",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "100.127.255.255",
    "168.63.129.16",  # credentials of machines in a cloud
    "100::1",
    "100:0:0:1::1",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2002:808:808::1",
    "2002:c0a8:101::1",
    "2002:a9fe:a9fe::",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::c0a8:101",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "::ffff:192.0.0.8",
    "fec0::1",
    "fdff:ffff::1",
    "fd00:ec2::254",
    "fe80::1%1",
    "febf::1",
    "2606:2800:220:1:0:5efe:10.0.0.1",  # ISATAP around a private one
]


def guard(
    *addresses: str, hosts: tuple[str, ...] = ("data.example.org",), networks: tuple[str, ...] = ()
) -> UrlGuard:
    return UrlGuard(hosts, networks, "THE_SETTING", lambda host, port: addresses)


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_that_leads_to_a_private_address_is_refused(address: str) -> None:
    with pytest.raises(EmbedserveError, match="not public"):
        guard("93.184.216.34", address).admit("https://data.example.org/a.txt")


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_in_the_url_is_refused_even_if_listed(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(EmbedserveError) as caught:
        guard(address, hosts=(address, host)).admit(f"http://{host}/a.txt")
    assert caught.value.code == "InvalidURL"


@pytest.mark.parametrize(
    "address",
    [
        "93.184.216.34",
        "192.0.1.1",
        "100.128.0.1",
        "172.32.0.1",
        "198.20.0.1",
        "2606:2800:220:1:248:1893:25c8:1946",
        "2001:4860:4860::8888",
        "64:ff9b::808:808",
    ],
)
def test_a_public_address_is_let_through_and_pinned(address: str) -> None:
    target = guard(address).admit("https://data.example.org/a.txt?x=1")
    assert (target.host, target.port, target.address) == ("data.example.org", 443, address)
    assert target.path == "/a.txt?x=1"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://data.example.org/a.txt",
        "gopher://data.example.org:70/_x",
        "//data.example.org/a.txt",
        "data.example.org/a.txt",
        "http://",
        "http:///a.txt",
        "http://other.example.org/a.txt",
        "http://data.example.org.evil.net/a.txt",
        "http://evil.net/data.example.org",
        "http://data.example.org@evil.net/",
        "http://user:secret@data.example.org/",
        "http://evil.net\\@data.example.org/",
        "http://evil.net#@data.example.org/",
        "http://data.example.org:22/",
        "http://data.example.org:99999/",
        "http://data.example.org/\r\nHost: evil.net",
        "http://data.example.org/ a",
        "http://ｄata.example.org/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://[::1",
        "http://data.example.org/" + "a" * 5000,
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(EmbedserveError) as caught:
        guard("93.184.216.34").admit(url)
    assert (caught.value.status, caught.value.code) == (400, "InvalidURL")


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "0", "localhost", "[::ffff:7f00:1]"]
)
def test_other_spellings_of_a_private_address_are_refused_even_if_listed(host: str) -> None:
    """By the system's own resolver, which takes them all."""
    with pytest.raises(EmbedserveError) as caught:
        UrlGuard((host,), (), "THE_SETTING").admit(f"http://{host}/")
    assert caught.value.code in ("InvalidURL", "InvalidURL.ConnectionRefused")


def test_what_is_open_to_everybody_is_so_on_every_python() -> None:
    """What a newer Python calls private is private here; ours is the longer list."""
    import ipaddress
    import random

    from embedserve.jobs.addresses import is_public

    dice = random.Random(5)
    for _ in range(20_000):
        old, new = ipaddress.IPv4Address(dice.getrandbits(32)), ipaddress.IPv6Address(dice.getrandbits(128))
        for address in (old, new):
            assert not is_public(address) or (address.is_global and not address.is_multicast)


@pytest.mark.parametrize("address", ["100.100.100.200", "169.254.169.254", "fd00:ec2::254", "fd20:ce::254"])
def test_where_clouds_keep_credentials_stays_closed_whatever_is_opened(address: str) -> None:
    everything = ("0.0.0.0/0", "::/0")
    with pytest.raises(EmbedserveError, match="not public"):
        guard(address, networks=everything).admit("http://data.example.org/a")
    assert guard("10.0.0.1", networks=everything).admit("http://data.example.org/a")


def test_hosts_are_listed_with_ports_and_wildcards() -> None:
    some = guard("93.184.216.34", hosts=("one.example.org:8443", "*.example.net"))
    some.admit("https://one.example.org:8443/a")
    some.admit("http://deep.er.example.net/a")
    for url in ("https://one.example.org/a", "https://example.net/a", "https://notexample.net/a"):
        with pytest.raises(EmbedserveError, match="THE_SETTING"):
            some.admit(url)


def test_without_a_list_nothing_is_fetched() -> None:
    with pytest.raises(EmbedserveError, match="THE_SETTING"):
        guard("93.184.216.34", hosts=()).admit("https://data.example.org/a.txt")


def test_a_network_may_be_opened_on_purpose_but_never_link_local() -> None:
    assert guard("10.1.2.3", networks=("10.1.0.0/16",)).admit("http://data.example.org/a")
    for address in ("10.2.0.1", "169.254.169.254", "0.0.0.0"):
        with pytest.raises(EmbedserveError, match="not public"):
            guard(address, networks=("10.1.0.0/16", "169.254.0.0/16", "0.0.0.0/32")).admit(
                "http://data.example.org/a"
            )


class Site(http.server.BaseHTTPRequestHandler):
    """Answers by path; notes the Host header."""

    hosts: list[str]

    def do_GET(self) -> None:
        hosts.append(self.headers["Host"])
        body = b"line\n" * 1000
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
        elif self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
        elif self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", str(len(body) + 1))
            self.end_headers()
            self.wfile.write(body)
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(body)
            except OSError:
                pass
        elif self.path == "/trickle":  # a header that never ends
            try:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Header: ")
                while not released.wait(0.05):
                    self.wfile.write(b"x")
            except OSError:
                pass
        elif self.path == "/silent":
            released.wait(10)
        elif self.path == "/file":
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        else:
            self.send_error(404)

    do_POST = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


hosts: list[str] = []
released = threading.Event()


@pytest.fixture(scope="module")
def site() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    released.set()
    server.shutdown()
    server.server_close()


def opened(port: int) -> UrlGuard:
    """A guard whose name resolves to the test's own site."""
    return UrlGuard(
        (f"data.example.org:{port}",), ("127.0.0.0/8",), "THE_SETTING", lambda host, port: ["127.0.0.1"]
    )


def test_a_file_is_fetched_from_the_pinned_address(site: int, tmp_path: Path) -> None:
    hosts.clear()
    size = download(f"http://data.example.org:{site}/to//file", tmp_path / "f", opened(site), limit=10_000)
    assert size == 5000 == (tmp_path / "f").stat().st_size
    assert set(hosts) == {f"data.example.org:{site}"}  # a name that no resolver knows: it was not asked again


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/to/http://169.254.169.254/latest/meta-data", "InvalidURL"),
        ("/to/file:///etc/passwd", "InvalidURL"),
        ("/to/http://127.0.0.1:22/", "InvalidURL"),
        ("/loop", "BadRequest.InputDownloadFailed"),
        ("/short", "BadRequest.InputDownloadFailed"),
        ("/missing", "BadRequest.InputDownloadFailed"),
        ("/endless", "BadRequest.TooLarge"),
        ("/silent", "InvalidURL.Timeout"),
    ],
)
def test_what_goes_wrong_on_the_way_has_a_code(site: int, tmp_path: Path, path: str, code: str) -> None:
    with pytest.raises(EmbedserveError) as caught:
        download(
            f"http://data.example.org:{site}{path}", tmp_path / "f", opened(site), limit=1_000_000, idle=0.5
        )
    assert caught.value.code == code


@pytest.mark.parametrize("path", ["/endless", "/trickle"])
def test_an_endless_trickle_ends_by_the_clock(site: int, tmp_path: Path, path: str) -> None:
    url = f"http://data.example.org:{site}{path}"
    with pytest.raises(EmbedserveError) as caught:
        download(url, tmp_path / "f", opened(site), limit=2**40, seconds=0.2)
    assert caught.value.code == "InvalidURL.Timeout"


def test_a_callback_that_trickles_ends_by_the_clock(site: int) -> None:
    assert notify(f"http://data.example.org:{site}/trickle", b"{}", opened(site), seconds=0.2)


def test_each_redirect_resolves_anew_and_is_checked(site: int, tmp_path: Path) -> None:
    """A name that turns private after the first look gains nothing."""
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    rebinding = UrlGuard(
        (f"data.example.org:{site}",), ("127.0.0.0/8",), "S", lambda host, port: next(answers)
    )
    with pytest.raises(EmbedserveError, match="not public"):
        download(f"http://data.example.org:{site}/to//file", tmp_path / "f", rebinding, limit=10_000)
