"""``embedserve serve`` as its operator meets it: keys, privacy, ports, the end."""

from __future__ import annotations

import contextlib
import errno
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from embedserve import Embedder
from embedserve.cli.listener import explain, listen
from embedserve.errors import EmbedserveError
from serving import Server

V4 = "text-embedding-v4"
SECRET_TEXT = "zanzibar quixotic marmalade"


def ask(server: Server, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    body = {"model": V4, "input": SECRET_TEXT}
    return httpx.post(f"{server.openai_url}/embeddings", json=body, headers=headers, timeout=60).status_code


def stored(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_the_first_start_makes_a_key_and_shows_it_once(tmp_path: Path) -> None:
    with Server(key=None, data_dir=tmp_path / "data") as first:
        found = re.findall(r"export DASHSCOPE_API_KEY=(sk-\S{20,})", first.log)
        assert len(found) == 1
        key = found[0]
        assert ask(first, key) == 200
        assert ask(first, key[:-1]) == 401
        first.stop()
    with Server(key=None, data_dir=tmp_path / "data") as second:
        assert key not in second.log
        assert "sk-" not in second.log
        assert ask(second, key) == 200
        second.stop()
    assert key.encode() not in stored(tmp_path)


@pytest.mark.parametrize("variable", ["DASHSCOPE_API_KEY", "EMBEDSERVE_API_KEY"])
def test_a_key_of_the_environment_is_adopted_and_nothing_of_it_or_the_texts_is_kept(
    variable: str, tmp_path: Path
) -> None:
    key = "sk-environment-0123456789abcdef"
    environment = {variable: key, "EMBEDSERVE_LOG_LEVEL": "debug"}
    with Server(key=None, data_dir=tmp_path / "data", environment=environment) as server:
        assert ask(server, key) == 200
        assert ask(server, key + "x") == 401
        refused = {"model": V4, "input": [SECRET_TEXT] * 11, "dimensions": 3}
        headers = {"Authorization": f"Bearer {key}"}
        httpx.post(f"{server.openai_url}/embeddings", json=refused, headers=headers)
        httpx.post(f"{server.openai_url}/embeddings", content=SECRET_TEXT.encode(), headers=headers)
        httpx.get(f"{server.url}/{SECRET_TEXT.replace(' ', '/')}", headers=headers)
        metrics = httpx.get(f"{server.url}/metrics").text
        server.stop()
        kept = stored(tmp_path).decode("latin-1") + server.log + metrics
    for secret in (key, *SECRET_TEXT.split()):
        assert secret not in kept


def test_an_empty_variable_counts_as_none_and_a_line_end_is_no_part_of_a_key(tmp_path: Path) -> None:
    environment = {"EMBEDSERVE_API_KEY": "", "DASHSCOPE_API_KEY": "sk-from-the-other-variable\r"}
    with Server(key=None, data_dir=tmp_path / "data", environment=environment) as server:
        assert ask(server, "sk-from-the-other-variable") == 200


def test_sigterm_answers_what_was_accepted(tmp_path: Path) -> None:
    with Server(data_dir=tmp_path / "data") as server:
        text = "a rather long text " * 1500
        replies: list[httpx.Response] = []
        started = threading.Event()

        def body() -> object:
            yield b'{"model": "text-embedding-v4", "input": "'
            started.set()
            yield text.encode() + b'"}'

        def send() -> None:
            url = f"{server.openai_url}/embeddings"
            with contextlib.suppress(httpx.ConnectError):  # who came after the end was not accepted
                replies.append(httpx.post(url, content=body(), headers=server.headers, timeout=120))  # type: ignore[arg-type]

        senders = [threading.Thread(target=send) for _ in range(3)]
        for sender in senders:
            sender.start()
        started.wait(30)
        code = server.stop()
        for sender in senders:
            sender.join(60)
        answered = [reply.status_code for reply in replies]
        assert answered
        assert set(answered) == {200}
        assert code in (0, -15)
        assert "Traceback" not in server.log


def test_a_port_that_is_taken_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = serve("--port", str(port), "--data-dir", str(tmp_path))
    assert done.returncode != 0
    assert done.stderr.strip().splitlines() == [
        f"embedserve: cannot listen on 127.0.0.1:{port}: the port is taken, perhaps by another embedserve; "
        f"choose another: --port {port + 1}"
    ]


def test_under_make_the_remedy_is_one_for_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["embedserve", "serve"])
    monkeypatch.setenv("MAKELEVEL", "1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EmbedserveError, match=f"EMBEDSERVE_PORT={port + 1} make run"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("no-such-host.invalid", "no address is known for 'no-such-host.invalid'.*--host 127.0.0.1"),
        ("a" * 70 + ".invalid", "no address is known"),
        ("192.0.2.1", "192.0.2.1 is no address of this machine"),
        ("::ffff:192.0.2.1%", "cannot listen"),
    ],
    ids=["unknown", "label too long", "another machine's", "malformed"],
)
def test_a_host_that_cannot_be_is_explained(host: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["embedserve", "serve", "--host", host])
    with pytest.raises(EmbedserveError, match=words):
        listen(host, 0)


def test_a_port_for_root_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["embedserve", "serve", "--port", "80"])
    told = explain(PermissionError(errno.EACCES, "Permission denied"), "127.0.0.1", 80)
    assert "below 1024 are for root; choose another, e.g. --port 8080" in told


@pytest.mark.parametrize("words", [["-h"], ["serve", "-h"], ["keys", "-h"], ["keys", "create", "-h"]])
def test_help_has_a_short_form_everywhere(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "embedserve", *words], capture_output=True, timeout=60)
    assert done.returncode == 0
    assert b"Usage:" in done.stdout
    assert (b"--version" in done.stdout) == (words == ["-h"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--limits", "loose"), "limits is 'loose'"),
        (("--port", "70000"), "port is 70000"),
        (("--threads", "0"), "threads is 0"),
        (("--recipe", "magic"), "recipe is 'magic'"),
        (("--data-dir", "/proc/nowhere"), "/proc/nowhere"),
    ],
)
def test_a_setting_that_will_not_do_is_one_clear_line(arguments: tuple[str, ...], words: str) -> None:
    done = serve("--port", "0", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "embedserve", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_it_listens_on_this_machine_alone(server: Server) -> None:
    assert server.url.startswith("http://127.0.0.1:")


def test_doctor_says_what_works(embedder: Embedder) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "embedserve", "doctor"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"first vector +[\d.]+ ms, 1024 dimensions", done.stdout)
    assert embedder.backbone.name in done.stdout
