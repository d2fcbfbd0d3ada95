"""What an operator wrote to name a model, checked without loading anything: mistakes end the start."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from embedserve.catalogue import MODELS
from embedserve.embedding.checkpoint import Checkpoint
from embedserve.embedding.models.store import ModelStore
from embedserve.errors import ModelLoadError

TABLE = "models.toml"
PROMPTS_NONE = "prompts=none"
"""Behind a remote model's name: the other server puts the prompts before texts itself."""


def read_table(data_dir: Path) -> dict[str, str]:
    """The ``[models]`` table of ``models.toml``: public name -> path, id or address.

    Raises:
        ModelLoadError: not TOML, or not names with texts.
    """
    path = data_dir / TABLE
    if not path.is_file():
        return {}
    try:
        table = tomllib.loads(path.read_text("utf-8")).get("models", {})
    except UnicodeDecodeError:
        raise ModelLoadError(f"{path} is not UTF-8: save it as UTF-8") from None
    except ValueError as error:
        raise ModelLoadError(f"{path} is not TOML: {error}") from error
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(table, dict):
        raise ModelLoadError(
            f'{path}: models must be a table: [models], and below it NAME = "PATH, ID OR URL"'
        )
    if wrong := [name for name, reference in table.items() if not isinstance(reference, str)]:
        raise ModelLoadError(f'{path}: {wrong[0]} must be written {wrong[0]} = "PATH, ID OR URL"')
    return dict(table)


def is_remote(reference: str) -> bool:
    return reference.startswith(("http://", "https://"))


def check_references(references: Mapping[str, str], source: str, store: ModelStore) -> None:
    """That each names a model that is there, or an address that could be: one that is away is no mistake.

    Args:
        references: public name -> path, id or address.
        source: where the operator wrote them, for the message.

    Raises:
        ModelLoadError: one sentence.
    """
    for name, reference in references.items():
        if name not in MODELS:
            known = ", ".join(sorted(MODELS))
            raise ModelLoadError(f"{source}: {name[:60]!r} is not a name that is sold: models serve {known}")
        try:
            if is_remote(reference):
                split_address(reference)
            else:
                folder, _, _ = store.find(reference)
                Checkpoint(folder)
        except ModelLoadError as error:
            raise ModelLoadError(f"{source}: {name}: {error.message}") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no path"
            raise ModelLoadError(f"{source}: {name}: {reference[:60]!r} cannot be read: {reason}") from None


def split_address(reference: str) -> tuple[str, str, str]:
    """(base URL, model's name, option) of ``https://host/v1#name``. Raises ModelLoadError, without the URL:
    it may hold a password."""
    url, _, fragment = reference.partition("#")
    name, _, option = fragment.partition("?")
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not name or option not in ("", PROMPTS_NONE):
        raise ModelLoadError(
            f"the address is not like https://host/v1#MODEL-NAME or https://host/v1#MODEL-NAME?{PROMPTS_NONE}"
        )
    return url, name, option


def shown(text: str) -> str:
    """A reference, or a message with one, as it may be told: addresses without user and password."""
    return re.sub(r"(https?://)[^/\s@]*@", r"\1", text)
