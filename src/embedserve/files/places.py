"""Where a run writes: never over what it reads, and all at once.

A file is written beside its place and renamed when it is whole, so whoever looks sees the old one or the new
one. Standard output, pipes and devices have no such place: they are written as they are.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from embedserve.errors import EmbedserveError
from embedserve.files.sources import MANIFEST, PARTS, SIDECAR, Source, is_manifest, same_file


def resolve_place(given: Path, sources: Sequence[Source] = ()) -> Path | None:
    """The file behind the links of an output's name; None for what is no place for a file (a pipe, a device).

    Raises:
        EmbedserveError: it is an input or a folder, or cannot be written.
    """
    if name := same_file(given, sources):
        raise EmbedserveError(f"the output {given} is the input {name}: write to another file")
    try:
        if _is_descriptor(given):
            return None
        path = Path(os.path.realpath(given))
        if path.is_dir() or str(given).endswith(os.sep):
            raise EmbedserveError(f"the output {given} is a folder: name a file in it")
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            return None
        if not path.parent.is_dir():
            raise EmbedserveError(f"cannot write {given}: there is no folder {path.parent}")
        if not os.access(path.parent, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
            raise EmbedserveError(f"cannot write {given}: Permission denied")
    except (OSError, ValueError) as error:
        raise cannot_write(given, error) from None
    return path


def _is_descriptor(given: Path) -> bool:
    """An open file of a process, this one's standard output say, which is not renamed over."""
    return str(given).startswith(("/dev/std", "/dev/fd/", "/proc/"))


def check_replaceable(given: Path, path: Path, *, overwrite: bool) -> None:
    """Refuse to replace a file that this program did not make, or one beside it that would be written, too.

    Raises:
        EmbedserveError: naming it.
    """
    if overwrite or is_manifest(manifest_of(path)) or is_manifest(parts_of(path) / "manifest.json"):
        return
    for suffix in ("", SIDECAR, MANIFEST):
        with suppress(FileNotFoundError):
            if path.with_name(path.name + suffix).stat().st_size:
                raise EmbedserveError(
                    f"{given}{suffix} is there already, and is not an output of embedserve: name another "
                    "file, or add --overwrite to replace it"
                )


def manifest_of(path: Path) -> Path:
    return path.with_name(path.name + MANIFEST)


def parts_of(path: Path) -> Path:
    return path.with_name(path.name + PARTS)


def open_stream(given: Path | None, sources: Sequence[Source]) -> BinaryIO:
    """Standard output, a pipe or a device, to write to as it is.

    Raises:
        EmbedserveError: it cannot be opened, or leads back into an input.
    """
    try:
        if given is None:
            sys.stdout.flush()
            file = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
        else:
            file = given.open("ab" if _is_descriptor(given) else "wb")
    except OSError as error:
        raise cannot_write(given, error) from None
    status = os.fstat(file.fileno())
    for source in sources:
        with suppress(OSError):
            given_status = os.fstat(sys.stdin.fileno()) if source.name == "-" else os.stat(source.name)
            if stat.S_ISREG(status.st_mode) and os.path.samestat(status, given_status):
                raise EmbedserveError(f"standard output is the input {source.name}: write to another file")
    return file


def cannot_write(given: Path | None, error: Exception) -> EmbedserveError:
    name = "standard output" if given is None else given
    return EmbedserveError(f"cannot write {name}: {getattr(error, 'strerror', None) or error}")


def put(draft: Path, path: Path) -> None:
    """Give a finished draft its name, with the permissions of what it replaces."""
    with suppress(OSError):
        draft.chmod(stat.S_IMODE(path.stat().st_mode))
    draft.replace(path)


def sync_folder(folder: Path) -> None:
    """Make renames in it last."""
    with suppress(OSError):  # some file systems cannot
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_whole(given: Path, content: bytes | str) -> None:
    """A small file, whole or not at all. Raises EmbedserveError."""
    data = content.encode() if isinstance(content, str) else content
    try:
        path = resolve_place(given)
        if path is None:
            given.write_bytes(data)
            return
        draft = path.with_name(f".{path.name}.draft")
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        put(draft, path)
    except OSError as error:
        raise cannot_write(given, error) from None
