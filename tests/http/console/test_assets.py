"""The console's files: all there, all ours, locked down."""

from __future__ import annotations

import re
from importlib import resources

import httpx
import pytest

from serving import Server

pytestmark = pytest.mark.quick

FILES = sorted(file.name for file in resources.files("embedserve.http.console").joinpath("static").iterdir())
NAMESPACE = "http://www.w3.org/2000/svg"  # a name that nothing fetches


def read(name: str) -> str:
    return resources.files("embedserve.http.console").joinpath("static", name).read_text("utf-8")


def test_root_leads_to_the_console(server: Server) -> None:
    for path in ("/", "/console"):
        reply = httpx.get(server.url + path, follow_redirects=True)
        assert reply.status_code == 200
        assert str(reply.url) == f"{server.url}/console/"
        assert "<title>embedserve console</title>" in reply.text


@pytest.mark.parametrize("name", FILES)
def test_file_is_served_locked_down_and_revalidated(server: Server, name: str) -> None:
    url = f"{server.url}/console/" + ("" if name == "index.html" else name)
    reply = httpx.get(url)
    assert reply.status_code == 200
    assert reply.text == read(name)
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert reply.headers["content-type"].startswith(kinds[name.rpartition(".")[2]])
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert reply.headers["cache-control"] == "no-cache"
    policy = dict(part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    again = httpx.get(url, headers={"if-none-match": reply.headers["etag"]})
    assert again.status_code == 304
    assert not again.content
    assert again.headers["etag"] == reply.headers["etag"]


@pytest.mark.parametrize("name", ["index.html", "../assets.py", "%2e%2e/assets.py", "nothing.js", ".."])
def test_nothing_else_is_served(server: Server, name: str) -> None:
    with httpx.stream("GET", f"{server.url}/console/{name}") as reply:
        assert reply.status_code in (404, 307) or str(reply.url) == f"{server.url}/"


def test_a_page_that_is_not_there_is_told_as_an_error(server: Server) -> None:
    reply = httpx.get(f"{server.url}/console/nothing.js")
    assert reply.status_code == 404
    assert reply.headers["x-request-id"]


@pytest.mark.parametrize("name", FILES)
def test_no_file_points_outside(name: str) -> None:
    text = read(name).replace(NAMESPACE, "")
    assert not re.findall(r"""(?:https?:|["'(]\s*)//[a-z0-9]""", text, re.IGNORECASE)
    assert "@import" not in text
    assert not re.search(r"\b(innerHTML|outerHTML|insertAdjacentHTML|eval|localStorage)\b", text)


def test_page_and_modules_name_only_files_that_exist() -> None:
    page = read("index.html")
    named = set(re.findall(r'(?:src|href)="([^"#]+)"', page))
    for name in FILES:
        if name.endswith(".js"):
            named |= set(re.findall(r'from "\./([^"]+)"', read(name)))
    assert named == set(FILES) - {"index.html"}
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon[a-z]+=", page)


def test_every_control_has_a_name() -> None:
    page = read("index.html")
    for control in re.findall(r"<(?:input|select|textarea)\b[^>]*>", page):
        if 'type="radio"' in control:
            continue  # inside its label
        found = re.search(r'id="([^"]+)"', control)
        assert found, control
        assert f'<label for="{found[1]}">' in page
