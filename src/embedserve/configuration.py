"""Settings read as an operator gave them; what is wrong with one is one sentence, and no secret in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import AliasChoices, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from embedserve.errors import EmbedserveError
from embedserve.settings import Settings

PREFIX = "EMBEDSERVE_"
OTHERS = ("EMBEDSERVE_URL", "EMBEDSERVE_REMOTE_API_KEY")
"""Variables of commands and engines that are no settings of a server."""
_SHOWN = 60
_SECRET = re.compile(r"key|token|secret|password|database_url|redis_url|models")


def read_settings(**options: Any) -> Settings:
    """Options over environment over defaults.

    Args:
        options: by the setting's name, as the command line gave them; None counts as not given.

    Raises:
        EmbedserveError: one sentence that names the variable or option, its value and what it should be.
    """
    check_names(os.environ)
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        told = [_explain(item, given) for item in error.errors(include_url=False)]
        raise EmbedserveError("; ".join(dict.fromkeys(told))) from None
    except (SettingsError, RecursionError) as error:  # JSON, of the one field that is a table
        found = re.search(r'field "(\w+)"', str(error))
        name = variable(found[1]) if found else variable("models")
        raise EmbedserveError(
            f"{name} is no JSON: it should be like "
            '{"text-embedding-v4": "Qwen/Qwen3-Embedding-0.6B"}, in single quotes in a shell'
        ) from None


def check_names(environment: Iterable[str]) -> None:
    """Raises EmbedserveError for a variable of ours that does not exist: it would be ignored in silence."""
    known = {variable(name) for name in Settings.model_fields} | set(OTHERS)
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            near = get_close_matches(name.upper(), known, 1, 0.6)
            remedy = f"did you mean {near[0]}?" if near else "the README lists those there are; unset it"
            raise EmbedserveError(f"{name} is no setting: {remedy}")


def variable(name: str) -> str:
    """The variable of a setting."""
    alias = Settings.model_fields[name].validation_alias if name in Settings.model_fields else None
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else PREFIX + name.upper()


def source_of(name: str, options: Mapping[str, Any]) -> str:
    """How the operator gave a setting: ``--port`` or ``EMBEDSERVE_PORT``."""
    if name in options:
        return "--model" if name == "models" else "--" + name.replace("_", "-")
    return variable(name)


def _explain(item: ErrorDetails, options: Mapping[str, Any]) -> str:
    place = str(item["loc"][0]) if item["loc"] else ""
    name = place.removeprefix(PREFIX).lower() if place.startswith(PREFIX) else place
    if place == "DASHSCOPE_API_KEY":
        name = "api_key"
    source = source_of(name, options)
    if place == "DASHSCOPE_API_KEY" or (name == "api_key" and not os.environ.get(variable(name))):
        source = "DASHSCOPE_API_KEY"
    value = "" if _SECRET.search(name) else f" is {_show(item['input'])}"
    return f"{source}{value}: {_hide_passwords(_reason(item))}"


def _reason(item: ErrorDetails) -> str:
    reason = item["msg"].removeprefix("Value error, ")
    reason = re.sub(r"^(Input|Value|String) should", "it should", reason)
    reason = reason.replace(", unable to parse string as an integer", "").replace(
        "valid integer", "whole number"
    )
    return reason.replace(", unable to parse string as a number", "").replace("interpret input", "be read")


def _hide_passwords(told: str) -> str:
    return re.sub(r"//[^/@]*@", "//…@", told)


def _show(value: object) -> str:
    shown = _hide_passwords(ascii(value))
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
