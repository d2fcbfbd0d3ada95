"""From a file's bytes to its characters: unpacked, its encoding found, wrong bytes marked where they are.

A wrong byte does not end the reading: it becomes a character that no right text has (a lone low surrogate, as
Python's ``surrogateescape`` does it), so that whoever reads lines can name the line and go on with the next.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from typing import IO, BinaryIO, cast

from embedserve.errors import EmbedserveError
from embedserve.files.errors import Unreadable
from embedserve.files.formats import Compression

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WRONG = re.compile("[\udc00-\udcff]")
ERRORS = "embedserve.mark"
"""The error handler's name."""


def _mark(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return chr(0xDC00 + error.object[error.start]), error.end


codecs.register_error(ERRORS, _mark)


def find_wrong(text: str) -> tuple[int, int] | None:
    """(byte, character it came after) of the first wrong byte in a line that was read here."""
    found = _WRONG.search(text)
    return (ord(found[0]) - 0xDC00, found.start()) if found else None


def show(text: str) -> str:
    """A line as it can be shown: wrong bytes become U+FFFD."""
    return _WRONG.sub("\ufffd", text)


def check_encoding(name: str) -> str:
    """Raises EmbedserveError unless Python knows it as an encoding of text."""
    try:
        info = codecs.lookup(name)
    except (LookupError, ValueError):
        info = None
    if info is None or not getattr(info, "_is_text_encoding", True) or info.name in ("idna", "undefined"):
        raise EmbedserveError(
            f"--encoding-in is {name!r}, it should be an encoding such as utf-8, utf-16, gb18030, shift_jis, "
            "big5, latin-1 or cp1252"
        )
    return info.name


def unpack(file: BinaryIO, compression: Compression) -> BinaryIO:
    """The bytes inside. What is damaged or cut short raises on reading: see :func:`translate`."""
    if compression is Compression.GZIP:
        return cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb"))
    if compression is Compression.ZSTD:
        try:
            import pyarrow
        except ImportError:
            raise EmbedserveError("zstd needs pyarrow: pip install 'embedserve[parquet]'") from None
        return cast(BinaryIO, io.BufferedReader(_Raw(pyarrow.CompressedInputStream(file, "zstd"))))
    return file


class _Raw(io.RawIOBase):
    """An Arrow stream as Python's buffers want one."""

    def __init__(self, stream: object) -> None:
        self._stream: IO[bytes] = cast("IO[bytes]", stream)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer)).cast("B")
        block = self._stream.read(len(view))
        view[: len(block)] = block
        return len(block)


DAMAGE = (OSError, EOFError, zlib.error)
"""What reading packed bytes may raise."""


def translate(name: str, error: Exception) -> Unreadable:
    """An error of the file as a whole, in words."""
    if isinstance(error, EOFError) or "Truncated" in str(error):
        return Unreadable(
            f"{name} is cut short: it ends in the middle of its compressed data; fetch it again"
        )
    if isinstance(error, zlib.error | gzip.BadGzipFile) or "ZSTD" in str(error):
        return Unreadable(f"{name} is damaged: {error}; fetch it again")
    strerror = getattr(error, "strerror", None)
    return Unreadable(f"cannot read {name}: {strerror or str(error).splitlines()[0]}")


def open_text(name: str, file: BinaryIO, encoding: str | None) -> io.TextIOWrapper:
    """The characters; line ends stay as they are, and a byte order mark is left out.

    Args:
        encoding: the caller's word; without it UTF-8, or what a byte order mark says.

    Raises:
        EmbedserveError: the bytes are no text in this encoding.
    """
    buffered = (
        file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, file), 1 << 17)
    )
    try:
        head = buffered.peek(512)[:512]
    except DAMAGE as error:
        raise translate(name, error) from None
    marked = next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)
    family = (marked or "").removesuffix("-sig")
    if encoding and not codecs.lookup(encoding).name.startswith(family):
        raise EmbedserveError(
            f"{name} begins with the mark of {family.upper()}, --encoding-in says {encoding}: leave it out"
        )
    encoding = marked or encoding or "utf-8"
    if encoding == "utf-8" and (told := _describe_zeros(head)):
        raise EmbedserveError(f"{name} {told}")
    return io.TextIOWrapper(buffered, encoding, errors=ERRORS, newline="")


def _describe_zeros(head: bytes) -> str | None:
    """What zero bytes say about a file; a few of them may be characters of its text."""
    even, odd, pairs = head[0::2].count(0), head[1::2].count(0), len(head) // 2
    if pairs >= 4 and max(even, odd) > pairs // 3 and not min(even, odd):
        order = "le" if odd else "be"
        return f"looks like UTF-16 without a byte order mark: say --encoding-in utf-16-{order}"
    if pairs >= 32 and even + odd > pairs // 2:
        return "is no text: many of its bytes are zero; save its text as .txt, .csv or .jsonl first"
    return None
