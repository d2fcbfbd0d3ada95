"""Which format a file has: by its name or by what the caller says, never by a guess.

A name or a flag is ``FORMAT`` or ``FORMAT.COMPRESSION``: ``jsonl``, ``csv.gz``. The first bytes are looked at
only to refuse a file that is something else than it is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath

from embedserve.errors import EmbedserveError


class Format(StrEnum):
    TXT = "txt"
    CSV = "csv"
    TSV = "tsv"
    JSON = "json"
    JSONL = "jsonl"
    PARQUET = "parquet"
    ARROW = "arrow"
    NPY = "npy"
    NPZ = "npz"


class Compression(StrEnum):
    NONE = ""
    GZIP = "gz"
    ZSTD = "zst"


@dataclass(frozen=True, slots=True)
class Kind:
    """A format and how it is compressed."""

    format: Format
    compression: Compression = Compression.NONE

    @property
    def suffix(self) -> str:
        return f".{self.format}" + (f".{self.compression}" if self.compression else "")

    @property
    def columnar(self) -> bool:
        return self.format in (Format.PARQUET, Format.ARROW)


READ = (Format.TXT, Format.CSV, Format.TSV, Format.JSON, Format.JSONL, Format.PARQUET, Format.ARROW)
WRITTEN = (Format.JSONL, Format.NPY, Format.NPZ, Format.PARQUET, Format.ARROW)

_NAMES = {str(format): format for format in Format} | {
    "text": Format.TXT,
    "tab": Format.TSV,
    "ndjson": Format.JSONL,
    "jsonlines": Format.JSONL,
    "pq": Format.PARQUET,
    "parq": Format.PARQUET,
    "arrows": Format.ARROW,
    "ipc": Format.ARROW,
    "feather": Format.ARROW,
}
_COMPRESSIONS = {
    "gz": Compression.GZIP,
    "gzip": Compression.GZIP,
    "zst": Compression.ZSTD,
    "zstd": Compression.ZSTD,
}

HEAD_BYTES = 512
"""How much of a file :func:`check_head` wants to see."""
_MAGIC = (
    (b"\x1f\x8b", "gzip", "gz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zst"),
    (b"\x50\x2a\x4d\x18", "zstd", "zst"),  # a frame to skip comes first, as pzstd writes it
    (b"PAR1", "Parquet", "parquet"),
    (b"ARROW1", "Arrow", "arrow"),
    (b"BZh", "bzip2", "unpack it first: bunzip2 {name}"),
    (b"\xfd7zXZ\x00", "xz", "unpack it first: unxz {name}"),
    (b"%PDF", "a PDF", "save its text first: pdftotext {name}"),
    (b"PK\x03\x04", "a zip archive (as .docx and .xlsx are)", "save its text or table as .txt or .csv first"),
    (b"\xd0\xcf\x11\xe0", "an old Office file", "save its text or table as .txt or .csv first"),
    (
        b"SQLite format 3",
        "an SQLite database",
        'export a table first: sqlite3 -csv -header {name} "SELECT …"',
    ),
    (b"\x93NUMPY", "a NumPy array", "give the texts that it was made of"),
)
"""Beginnings of files -> what they are, and the name that would be right, or what to do first."""


def find_kind(name: str) -> Kind | None:
    """What a file's name says, whatever its letter case; None: nothing that is known here."""
    return parse_kind(PurePath(name).name) if PurePath(name).suffix else None


def parse_kind(words: str) -> Kind | None:
    """``csv``, ``csv.gz``, ``2024.csv.gz``: what the last one or two words say."""
    first, _, last = words.lower().rpartition(".")
    if compression := _COMPRESSIONS.get(last):
        format = _NAMES.get(first.rpartition(".")[2])
        return Kind(format, compression) if format else None
    return Kind(_NAMES[last]) if last in _NAMES else None


def input_kind(name: str, said: str | None) -> Kind:
    """The kind of an input.

    Args:
        name: its path.
        said: ``--input-format``, if it was given.

    Raises:
        EmbedserveError: not known, or nothing that can be read here.
    """
    kind = parse_kind(said) if said else find_kind(name)
    readable = ", ".join(READ)
    if kind is None or kind.format not in READ:
        if said:
            raise EmbedserveError(
                f"--input-format is {said!r}, it should be one of {readable}, also with .gz or .zst behind it"
            )
        raise EmbedserveError(
            f"cannot tell what {name} holds by its name: readable are {readable}, also with .gz or .zst; "
            "if it is one of these, say so, e.g. --input-format txt"
        )
    if kind.columnar and kind.compression:
        raise EmbedserveError(
            f"{name} is {kind.format} inside {kind.compression}: {kind.format} compresses itself, unpack it "
            f"first: {'gunzip' if kind.compression is Compression.GZIP else 'unzstd'} {name}"
        )
    return kind


def output_kind(name: str | None, said: str | None) -> Kind:
    """The kind of an output: what its name or ``--format`` says; JSON lines where neither says anything.

    Raises:
        EmbedserveError: not known, nothing that can be written here, or the two contradict each other.
    """
    writable = ", ".join(WRITTEN)
    named = find_kind(name) if name else None
    told = parse_kind(said) if said else None
    if said and (told is None or told.format not in WRITTEN):
        raise EmbedserveError(
            f"--format is {said!r}, it should be one of {writable}, or jsonl.gz or jsonl.zst"
        )
    if told and named and told != named:
        raise EmbedserveError(f"{name} is called {named.suffix}, but --format says {told.suffix[1:]}")
    if named is None and told is None and name and PurePath(name).suffix:
        raise EmbedserveError(
            f"cannot tell the format of {name} by its name: writable are {writable}; "
            "name it so, or say --format jsonl"
        )
    kind = told or named or Kind(Format.JSONL)
    if kind.format not in WRITTEN:
        raise EmbedserveError(f"{name} cannot be written: writable are {writable}")
    if kind.compression and kind.format is not Format.JSONL:
        raise EmbedserveError(f"{name}: only jsonl is written as .{kind.compression}; leave it out")
    return kind


def check_head(name: str, kind: Kind, head: bytes) -> None:
    """Refuse a file whose first bytes are those of another kind. ``head`` is empty for an empty file.

    Raises:
        EmbedserveError: with what it is, and the command that helps.
    """
    expected = {
        Compression.GZIP: "gz",
        Compression.ZSTD: "zst",
        Compression.NONE: str(kind.format) if kind.columnar else "",
    }[kind.compression]
    for magic, what, remedy in _MAGIC:
        if head.startswith(magic):
            if remedy == expected:
                return
            if " " in remedy:
                raise EmbedserveError(f"{name} is {what}, not {kind.suffix[1:]}: {remedy.format(name=name)}")
            right = f"{kind.format}.{remedy}" if remedy in _COMPRESSIONS else remedy
            raise EmbedserveError(f"{name} is {what}, not {kind.suffix[1:]}: say --input-format {right}")
    if kind.compression and head:
        raise EmbedserveError(f"{name} is not compressed as its name says: say --input-format {kind.format}")
    if kind.format is Format.PARQUET:
        raise EmbedserveError(f"{name} is not Parquet: its first bytes are another format's, or it is empty")
