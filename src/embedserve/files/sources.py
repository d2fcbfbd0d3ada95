"""The files that a command line names: single ones, globs, folders, standard input."""

from __future__ import annotations

import glob
import io
import os
import stat
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, cast

import orjson

from embedserve.errors import EmbedserveError
from embedserve.files.formats import HEAD_BYTES, Format, Kind, check_head, find_kind, input_kind

STDIN = "-"
MANIFEST = ".manifest"
PARTS = ".parts"
SIDECAR = ".rows.jsonl"
"""Behind an output's name: how it was made, an unfinished run of it (``unfinished.py``), and what a matrix
has no place for, a line for each of its rows."""


@dataclass(frozen=True, slots=True)
class Source:
    """One input.

    Attributes:
        name: as the caller wrote it; ``-`` is standard input.
        kind: what is in it.
        size: bytes; None where that is not known (pipes).
    """

    name: str
    kind: Kind
    size: int | None

    @property
    def repeatable(self) -> bool:
        """Whether it can be read a second time."""
        return self.size is not None

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Its bytes, the first of them checked against its kind.

        Raises:
            EmbedserveError: not readable, or not what it is called.
        """
        with _open(self.name) as file:
            try:
                head = file.peek(HEAD_BYTES)[:HEAD_BYTES]
            except OSError as error:
                raise _unreadable(self.name, error) from None
            check_head(self.name, self.kind, head)
            yield cast(BinaryIO, file)

    def identity(self) -> dict[str, object]:
        """Name, size and a digest that tells this content from another: of all bytes of a file up to 64 MiB,
        of 64 samples of a longer one."""
        digest = blake2b(digest_size=16)
        with _open(self.name) as file:
            size = os.fstat(file.fileno()).st_size
            step = max(_SAMPLE, (size - _SAMPLE) // (_SAMPLES - 1)) if size > _SAMPLE * _SAMPLES else _SAMPLE
            for at in range(0, size, step):
                file.seek(at)
                digest.update(file.read(_SAMPLE))
        return {"name": Path(self.name).name, "bytes": size, "digest": digest.hexdigest()}


_SAMPLE, _SAMPLES = 1 << 20, 64


@contextmanager
def _open(name: str) -> Iterator[io.BufferedReader]:
    if name == STDIN:
        yield cast(io.BufferedReader, sys.stdin.buffer)
        return
    try:
        file = Path(name).open("rb")  # noqa: SIM115 (entered below, outside of the try)
    except OSError as error:
        raise _unreadable(name, error) from None
    with file:
        yield file


def _unreadable(name: str, error: OSError) -> EmbedserveError:
    return EmbedserveError(f"cannot read {name}: {error.strerror or error}")


@dataclass(slots=True)
class Found:
    """What the names on a command line came to.

    Attributes:
        sources: in reading order.
        ignored: what was left out of folders: files whose names say nothing that can be read here, and
            links to other folders.
    """

    sources: list[Source] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    @property
    def once(self) -> str | None:
        """The first that cannot be read a second time; None if all can."""
        names = (source.name for source in self.sources if not source.repeatable)
        return next(("standard input" if name == STDIN else name for name in names), None)


def find_sources(names: Sequence[str], said: str | None = None, *, leave_out: Collection[Path] = ()) -> Found:
    """The files behind names.

    A folder stands for every file in it and below whose name says what it holds, in the order of their paths;
    hidden ones, and what this program wrote (files with a manifest), are left out. A name that is no file and
    has ``*``, ``?`` or ``[`` in it is a pattern; ``**`` crosses folders.

    Args:
        said: ``--input-format``; holds for every file.
        leave_out: files that the run itself is going to write.

    Raises:
        EmbedserveError: not there, not readable, a name twice, or of an unknown kind.
    """
    found = Found()
    places: set[tuple[int, int]] = set()
    for name in names:
        if name == STDIN:
            found.sources.append(Source(STDIN, input_kind("standard input", said or "txt"), None))
            continue
        for path in _expand(name, said, found, leave_out):
            status = _stat(path)
            if (place := (status.st_dev, status.st_ino)) in places:
                raise EmbedserveError(f"{path} is named twice among the inputs")
            places.add(place)
            found.sources.append(_source(path, status, said))
    if sum(source.name == STDIN for source in found.sources) > 1:
        raise EmbedserveError("standard input (-) is named twice among the inputs")
    return found


def _source(path: str, status: os.stat_result, said: str | None) -> Source:
    if stat.S_ISREG(status.st_mode):
        return Source(path, input_kind(path, said), status.st_size)
    return Source(path, input_kind(path, said or "txt" if find_kind(path) is None else said), None)


def _expand(name: str, said: str | None, found: Found, leave_out: Collection[Path]) -> list[str]:
    if os.path.isdir(name):
        inside = list(_walk(name, said, found, {path.resolve() for path in leave_out}))
        if not inside:
            raise EmbedserveError(f"{name} holds no file whose name says what can be read here")
        return inside
    if not os.path.lexists(name) and glob.has_magic(name):
        matches = [match for match in sorted(glob.glob(name, recursive=True)) if not os.path.isdir(match)]
        outputs = {path.resolve() for path in leave_out}
        matches = [match for match in matches if Path(match).resolve() not in outputs]
        if not matches:
            raise EmbedserveError(f"nothing matches {name}")
        return matches
    return [name]


def _walk(folder: str, said: str | None, found: Found, leave_out: Collection[Path]) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise EmbedserveError(f"cannot read {error.filename}: {error.strerror}") from None

    for place, folders, files in os.walk(folder, onerror=fail):
        folders[:] = sorted(each for each in folders if each[0] != "." and not _is_unfinished(place, each))
        found.ignored += (link for each in folders if os.path.islink(link := os.path.join(place, each)))
        made = {
            each.removesuffix(MANIFEST) + suffix
            for each in files
            if each.endswith(MANIFEST) and is_manifest(Path(place, each))
            for suffix in ("", SIDECAR, MANIFEST)
        }
        for file in sorted(files):
            path = os.path.join(place, file)
            if file[0] == "." or file in made or Path(path).resolve() in leave_out:
                continue
            kind = find_kind(file)
            if said or (kind and kind.format not in (Format.NPY, Format.NPZ)):
                yield path
            else:
                found.ignored.append(path)


def _is_unfinished(place: str, folder: str) -> bool:
    return folder.endswith(PARTS) and is_manifest(Path(place, folder, "manifest.json"))


def is_manifest(path: Path) -> bool:
    """Whether this program wrote it; other programs have files of that name, too."""
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.keys() >= {"state", "output"}


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError:  # a zero byte in a name
        raise EmbedserveError(f"cannot read {path!r}: no file has such a name") from None


def same_file(path: Path, sources: Sequence[Source]) -> str | None:
    """The input that this path is, through whatever links or spelling; None if it is none of them."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    for source in sources:
        try:
            given = os.fstat(sys.stdin.fileno()) if source.name == STDIN else os.stat(source.name)
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(given.st_mode) and os.path.samestat(status, given):
            return source.name
    return None
