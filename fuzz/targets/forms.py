"""Multipart forms: refused with 4xx, or a file of the size that is told, whatever the pieces."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from fuzz.requests import cut, loop, request_of
from fuzz.targets.bodies import check_refusal

from embedserve.errors import EmbedserveError
from embedserve.http.multipart import MAX_FIELD, MAX_FIELDS, Upload, receive_upload

LIMIT = 3000
_TYPE = b"multipart/form-data; boundary=b\n"
_PURPOSE = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
_FILE = b'--b\r\ncontent-disposition: form-data; name="file"; filename="f.jsonl"\r\n\r\n{}\n\r\n'
SEEDS = [
    b"\x00" + _TYPE + _PURPOSE + _FILE + b"--b--\r\n",
    b"\x05" + _TYPE + _FILE + _FILE + b"--b--",
    b"\x01" + _TYPE + _PURPOSE * 40 + b"--b--\r\n",
    b"\x00multipart/form-data; boundary=" + b"b" * 300 + b"\n--",
    b"\x00multipart/form-data; boundary*=utf-8''%62; boundary=\"\\\"\n--b\r\n\r\n\r\n--b--",
    b"\x00"
    + _TYPE
    + b'--b\r\ncontent-disposition: form-data; name="file"; filename*=x\r\n\r\n'
    + b"x" * 4000
    + b"\r\n--b--",
]
_path = Path(tempfile.gettempdir()) / f"embedserve-fuzz-form-{os.getpid()}"


def receive(content_type: str, pieces: list[bytes]) -> Upload | EmbedserveError:
    request = request_of(pieces, {"content-type": content_type})
    try:
        return loop.run_until_complete(receive_upload(request, _path, limit=LIMIT))
    except EmbedserveError as error:
        return error


def check(data: bytes) -> None:
    head, _, body = data[1:].partition(b"\n")
    content_type = head.decode("latin-1")
    try:
        got = receive(content_type, [body] if body else [])
        if isinstance(got, EmbedserveError):
            check_refusal(got)
            return
        assert len(got.fields) <= MAX_FIELDS
        assert all(len(value) <= MAX_FIELD for value in got.fields.values())
        for text in (got.filename or "", *got.fields, *got.fields.values()):
            text.encode()
        assert got.size <= LIMIT
        assert _path.stat().st_size == got.size
        written = _path.read_bytes()
        again = receive(content_type, cut(body, data[:1]))
        assert again == got, "other pieces, another form"
        assert _path.read_bytes() == written
    finally:
        _path.unlink(missing_ok=True)
