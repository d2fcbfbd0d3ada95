"""What the fields of a key may hold: the same for the command line, the admin API and the library.

Whatever passes here can be stored by both databases, shown by every door and computed with.
"""

from __future__ import annotations

import math
import re
import time
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime

from embedserve.catalogue import ASYNC_MODELS, MODELS
from embedserve.errors import EmbedserveError

ANY_WORKSPACE = "*"
"""The workspace of a key that may name any; without a name its work counts under ``default``."""

WORKSPACE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
KEY_ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")

NAME_LIMIT = 200
COUNT_LIMIT = 2**31 - 1
BUDGET_LIMIT = 1e12
FIRST_MOMENT = datetime(1, 1, 1, tzinfo=UTC).timestamp()
LAST_MOMENT = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()
"""Seconds since 1970. The calendar goes no further."""


def check_name(name: str) -> str:
    if len(name) > NAME_LIMIT:
        raise refuse(f"The name has {len(name)} characters; {NAME_LIMIT} are the most.")
    for character in name:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise refuse(
                f"The name holds U+{ord(character):04X}: line breaks, control characters and halves of "
                "surrogate pairs cannot be in it."
            )
    return name


def check_workspace(workspace: str) -> str:
    if workspace != ANY_WORKSPACE and not WORKSPACE_PATTERN.fullmatch(workspace):
        raise refuse(
            f"{show(workspace)} is no workspace: use up to 64 letters, digits, - and _, beginning with a "
            "letter or digit, or * for any."
        )
    return workspace


def check_count(label: str, value: int | None) -> int | None:
    """Of ``rpm`` and ``tpm``."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise refuse(f"{label} is {show(value)}: it is a whole number.")
    if not 1 <= value <= COUNT_LIMIT:
        raise refuse(f"{label} is {show(value)}: it lies between 1 and {COUNT_LIMIT}; none for no limit.")
    return value


def check_budget(value: float | None) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise refuse(f"budget is {show(value)}: it is a number.")
    if not 0 <= value <= BUDGET_LIMIT:  # nor is NaN between the two
        raise refuse(f"budget is {show(value)}: it lies between 0 and {BUDGET_LIMIT:g}; none for no limit.")
    return float(value) + 0.0  # of -0.0 too


def check_expiry(value: float | None) -> float | None:
    """Seconds since 1970."""
    if value is None:
        return None
    if not value <= LAST_MOMENT:
        raise refuse("The expiry lies beyond 9999-12-31T23:59:59Z; none for a key that does not expire.")
    if value <= time.time():
        raise refuse(f"The expiry {format_time(value)} lies in the past.")
    return float(value)


def check_models(models: Iterable[str] | None) -> list[str] | None:
    """An allow-list, sorted. Names are those that are sold: others would let nothing through."""
    if models is None:
        return None
    chosen = sorted(set(models))
    if not chosen:
        raise refuse("models is empty: name at least one, or none for every model.")
    known = known_models()
    if unknown := [name for name in chosen if name not in known]:
        raise refuse(f"There is no model {show(unknown[0])}: choose from {', '.join(sorted(known))}.")
    return chosen


def known_models() -> frozenset[str]:
    """Every name under which work can be counted."""
    return frozenset((*MODELS, *ASYNC_MODELS))


def is_key_id(text: str) -> bool:
    """Whether a key may have this id; anything else need not be looked up."""
    return bool(KEY_ID_PATTERN.fullmatch(text))


def is_workspace(text: str) -> bool:
    return bool(WORKSPACE_PATTERN.fullmatch(text))


def format_time(seconds: float) -> str:
    """ISO, UTC, in whole seconds; what lies outside the calendar becomes its first or last moment."""
    bounded = min(max(seconds, FIRST_MOMENT), LAST_MOMENT)
    return datetime.fromtimestamp(bounded, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def read_figure(stored: float | None, last: float = math.inf) -> float | None:
    """A number as it is stored; earlier releases let some through that are none, and moments too late."""
    if stored is None or math.isnan(stored):
        return None
    if math.isinf(stored) and math.isinf(last):
        return None
    return min(stored, last)


def show(value: object) -> str:
    """A value for a message: short and printable, whatever it was."""
    try:
        return ascii(value) if len(ascii(value)) <= 66 else f"{ascii(value)[:60]}…"
    except ValueError:  # an int of thousands of digits
        return "a number of thousands of digits"


def explain(place: str, value: object, wrong: str) -> str:
    """One sentence from what pydantic says is wrong with a value."""
    wrong = re.sub(r"^Value error, ", "", wrong).replace("Input should be", "it should be")
    wrong = re.sub(r"a valid dictionary or instance of \w+", "a table", wrong)
    return f"{place} is {show(value)}: {wrong}"


def refuse(message: str) -> EmbedserveError:
    return EmbedserveError(message, openai_type="invalid_request_error")
