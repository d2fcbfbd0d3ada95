"""A run that is not done yet: its parts and its manifest in ``FILE.parts``, and what becomes of them.

``FILE.parts/manifest.json`` says what the run was asked for, which inputs and which model, and how many parts
are whole; anything else in the folder is from a moment that did not last. When the run is done, the parts
become ``FILE``, and the manifest ``FILE.manifest`` beside it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import orjson

from embedserve.errors import EmbedserveError
from embedserve.files.outputs import Output, concatenate
from embedserve.files.places import cannot_write, manifest_of, parts_of, put, sync_folder
from embedserve.files.sources import is_manifest

try:
    import fcntl
except ImportError:  # Windows: nothing stops two runs from writing to one output
    fcntl = None  # type: ignore[assignment]

ERRORS = ".errors.jsonl"
MANIFEST_NAME = "manifest.json"
VERSION = 1


@dataclass(slots=True)
class Counts:
    """What a run has done. ``read`` is the sum of ``written``, ``skipped`` and ``errors``."""

    parts: int = 0
    read: int = 0
    written: int = 0
    skipped: int = 0
    errors: int = 0
    cut: int = 0
    tokens: int = 0
    digest: str = ""
    """Of all rows that were read, each chained to those before it."""
    ended: bool = False
    """Whether the inputs were read to their end."""


class Unfinished:
    """The folder of a run's parts, held by this process alone.

    Args:
        path: the output.
        wanted: what decides the output's bytes: options, model, inputs. See :func:`find_difference`.

    Attributes:
        counts: of the parts that are whole.
    """

    def __init__(self, path: Path, wanted: Mapping[str, Any]) -> None:
        self.path = path
        self.folder = parts_of(path)
        self.wanted = {"version": VERSION, **wanted}
        self.counts = Counts()
        self._lock: Any = None
        self._ours = False

    def open(self, *, resume: bool, restart: bool) -> None:
        """Take the folder; with ``resume``, what an earlier run has left in it.

        Raises:
            EmbedserveError: another run holds it, it cannot be written, an earlier run would be lost, or it
                was asked for something else.
        """
        try:
            self.folder.mkdir(exist_ok=True)
            self._check_ours()
            self._take_lock()
            earlier = read_manifest(self.folder / MANIFEST_NAME)
        except OSError as error:
            raise cannot_write(self.path, error) from None
        if earlier and earlier["counts"]["parts"]:
            self._meet(earlier, resume=resume, restart=restart)
        self._ours = True
        self._sweep()
        self.save()

    def _check_ours(self) -> None:
        """Refuse a folder that only happens to have this name: what is in it would be removed."""
        if not is_manifest(self.folder / MANIFEST_NAME):
            begun = {"lock", MANIFEST_NAME + ".draft"}
            if other := next((each.name for each in self.folder.iterdir() if each.name not in begun), None):
                raise EmbedserveError(
                    f"{self.folder} is no folder of an interrupted run (it holds {other}), and a run to "
                    f"{self.path} needs that name: write to another file"
                )

    def _take_lock(self) -> None:
        self._lock = (self.folder / "lock").open("a+b")
        if fcntl is None:
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise EmbedserveError(
                f"another run is writing {self.path}: wait for it, or end it first"
            ) from None
        if not (self.folder / "lock").exists():  # that run finished in this very moment
            raise EmbedserveError(f"another run has just finished {self.path}: start again")

    def _meet(self, earlier: Mapping[str, Any], *, resume: bool, restart: bool) -> None:
        done = earlier["counts"]["written"]
        if restart:
            return
        if not resume:
            raise EmbedserveError(
                f"an interrupted run has left {done:,} rows of {self.path}: go on with --resume, or start "
                "anew with --overwrite"
            )
        if difference := find_difference(earlier["wanted"], self.wanted):
            raise EmbedserveError(
                f"{self.path} was begun with {difference}: resume with what it was begun with, or start anew "
                "with --overwrite"
            )
        self.counts = Counts(**earlier["counts"])

    def _sweep(self) -> None:
        """Remove what is not of a whole part."""
        for entry in self.folder.iterdir():
            number = entry.name.partition(".")[0]
            if entry.name not in ("lock", MANIFEST_NAME) and not (
                number.isdigit() and int(number) < self.counts.parts
            ):
                entry.unlink()

    def stem(self, number: int) -> Path:
        return self.folder / f"{number:06d}"

    @property
    def stems(self) -> list[Path]:
        return [self.stem(number) for number in range(self.counts.parts)]

    def save(self) -> None:
        """Write the manifest; a part counts from here on."""
        content = {"state": "unfinished", "output": self.path.name, "wanted": self.wanted}
        write_manifest(self.folder / MANIFEST_NAME, content | {"counts": asdict(self.counts)})

    def finish(self, output: Output, errors: Path | None) -> None:
        """The parts as the output, its sidecar, the file of errors; nothing is left of the folder."""
        drafts = self.folder / "output"
        output.assemble(self.stems, drafts)
        if errors is not None:
            wrong = self.folder / "errors"
            concatenate([path for stem in self.stems if (path := _errors_of(stem)).exists()], wrong)
            _move(wrong, errors)
        for suffix in reversed(output.suffixes):  # the output itself last
            put(drafts.with_name(drafts.name + suffix), self.path.with_name(self.path.name + suffix))
        content = {"state": "finished", "output": self.path.name, "bytes": self.path.stat().st_size}
        content |= {"wanted": self.wanted, "counts": asdict(self.counts)}
        write_manifest(manifest_of(self.path), content)
        self._remove()
        sync_folder(self.path.parent)
        self._lock.close()

    def _remove(self) -> None:
        """The folder; until it is gone its manifest says whose it is, and that nothing in it counts."""
        self.counts = Counts()
        self.save()
        self._sweep()
        shutil.rmtree(self.folder)

    def leave(self) -> None:
        """Let go of the folder; of a run of ours without a whole part, nothing is left."""
        if self._ours and not self.counts.parts:
            shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None and not self._lock.closed:
            self.leave()


def _errors_of(stem: Path) -> Path:
    return stem.with_name(stem.name + ERRORS)


def _move(draft: Path, path: Path) -> None:
    """To its place, which may be on another disk."""
    beside = path.with_name(f".{path.name}.draft")
    shutil.copyfile(draft, beside)
    put(beside, path)


def read_manifest(path: Path) -> dict[str, Any] | None:
    """A manifest; None where there is none, or none that can be understood."""
    try:
        found = orjson.loads(path.read_bytes())
        Counts(**found["counts"])
        found["wanted"]["version"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise EmbedserveError(f"{path} is not a manifest of embedserve: remove it to start anew") from None
    return dict(found)


def write_manifest(path: Path, content: Mapping[str, Any]) -> None:
    draft = path.with_name(path.name + ".draft")
    with draft.open("wb") as file:
        file.write(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def find_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first thing that is not as it was, with both values: ``--dimension 64, this run has 128``."""
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if name == "inputs":
            return _compare_inputs(old or [], new or [])
        return f"{name} {_show(old)}, this run has {name} {_show(new)}"
    return None


def _show(value: Any) -> str:
    if value is None or value == []:
        return "not given"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _compare_inputs(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> str:
    if len(before) != len(now):
        return f"{len(before)} input files, this run has {len(now)}"
    for old, new in zip(before, now, strict=True):
        if (old["bytes"], old["digest"]) != (new["bytes"], new["digest"]):
            same_size = old["bytes"] == new["bytes"]
            more = f" (digest {old['digest'][:8]}, now {new['digest'][:8]})" if same_size else ""
            return f"the input {_tell(old)}, this run has {_tell(new)}{more}"
    return "other inputs"


def _tell(file: dict[str, Any]) -> str:
    return f"{file['name']} of {file['bytes']:,} bytes"
