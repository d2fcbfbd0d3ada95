"""Rows prepared for the network, a group at a time, cut into parts at places that only the rows decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from embedserve.embedding.embedder import Embedder, Options, Prepared
from embedserve.errors import ENGINE_PREFIX, RowError
from embedserve.files.errors import BadRow
from embedserve.files.json_output import dump_value
from embedserve.files.rows import Row

GROUP_ROWS = 512
GROUP_CHARACTERS = 1 << 17
"""Rows prepared at a time: enough to fill the network, little enough for a queue of them."""
PART_ROWS = 4096
PART_TOKENS = 1 << 15
"""What a part holds at most, give or take a group: a kill costs that much work, some seconds of it."""


@dataclass(slots=True)
class Group:
    """Some rows on their way.

    Attributes:
        rows, prepared: those that have a text, and what the network gets of it.
        bad: those that cannot be taken.
        read: all of them, missing ones too.
        digest: of all rows up to the end of this group.
        closes: whether a part ends here.
        bytes_read: of the inputs, by then.
    """

    rows: list[Row] = field(default_factory=list)
    prepared: list[Prepared] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    read: int = 0
    digest: str = ""
    closes: bool = False
    bytes_read: float = 0.0

    @property
    def skipped(self) -> int:
        return self.read - len(self.rows) - len(self.bad)

    @property
    def tokens(self) -> int:
        return sum(item.tokens for item in self.prepared)


class Chain:
    """A digest of rows, each chained to those before it: equal only if all of them were equal."""

    def __init__(self) -> None:
        self._digest = blake2b(digest_size=16)

    def add(self, row: Row | BadRow) -> None:
        if isinstance(row, BadRow):
            self._digest.update(b"\2" + row.reason.encode("utf-8", "surrogatepass"))
            return
        text = b"\1" if row.text is None else b"\0" + row.text.encode("utf-8", "surrogatepass")
        self._digest.update(len(text).to_bytes(8, "little") + text)
        if row.carried:
            self._digest.update(b"".join(map(dump_value, row.carried)) + b"\3")

    @property
    def value(self) -> str:
        return self._digest.hexdigest()


def make_groups(rows: Iterator[Row | BadRow]) -> Iterator[tuple[list[Row | BadRow], bool]]:
    """(rows, whether they come from files whose columns have other types than the ones before)."""
    group: list[Row | BadRow] = []
    characters, types = 0, None
    for row in rows:
        if isinstance(row, Row):
            if types is not None and types != row.origin.types and group:
                yield group, True
                group, characters = [], 0
            types = row.origin.types
            characters += len(row.text or "")
        group.append(row)
        if len(group) >= GROUP_ROWS or characters >= GROUP_CHARACTERS:
            yield group, False
            group, characters = [], 0
    if group:
        yield group, False


def prepare_group(embedder: Embedder, rows: Sequence[Row | BadRow], options: Options) -> Group:
    """Tokens and windows of every row that has a text; what is over-long is bad, what is empty is missing."""
    group = Group(read=len(rows), bad=[row for row in rows if isinstance(row, BadRow)])
    texts = [row for row in rows if isinstance(row, Row) and row.text is not None]
    try:
        group.prepared = embedder.prepare([row.text or "" for row in texts], options)
        group.rows = texts
    except RowError:  # there may be more than one: each by itself tells
        for row in texts:
            _prepare_one(embedder, row, options, group)
    return group


def _prepare_one(embedder: Embedder, row: Row, options: Options, group: Group) -> None:
    try:
        group.prepared += embedder.prepare([row.text or ""], options)
        group.rows.append(row)
    except RowError as error:
        if error.tokens:  # without a token it is a missing text
            group.bad.append(
                row.reject(
                    f"has {error.tokens:,} tokens ({error.message.removeprefix(ENGINE_PREFIX)}): cut such "
                    "texts with --truncate end"
                )
            )


def check_options(embedder: Embedder, options: Options) -> None:
    """Refuse what no text could be embedded with, before the first one is read. Raises EmbedserveError."""
    embedder.prepare(["text"], options)


ERROR_FIELDS = ["file", "place", "reason", "index", "row"]
"""Of a line of the file of errors."""


def error_line(row: BadRow) -> bytes:
    """A bad row as a line of the file of errors."""
    return dump_value({name: getattr(row, name) for name in ERROR_FIELDS}) + b"\n"
