"""Words that options of several commands take."""

from __future__ import annotations

import csv
import io
from enum import StrEnum


class TextType(StrEnum):
    QUERY = "query"
    DOCUMENT = "document"


class OutputType(StrEnum):
    DENSE = "dense"
    SPARSE = "sparse"
    BOTH = "dense&sparse"


class DenseEncoding(StrEnum):
    FLOAT = "float"
    INT8 = "int8"
    BINARY = "binary"


class Truncate(StrEnum):
    NONE = "none"
    START = "start"
    END = "end"


def split_names(names: str | None) -> tuple[str, ...]:
    """``a,b`` as names; one with a comma in it stands in quotes."""
    if not names:
        return ()
    found = next(csv.reader(io.StringIO(names, newline=""), skipinitialspace=True), [])
    return tuple(name.strip() for name in found if name.strip())
