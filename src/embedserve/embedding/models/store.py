"""Model folders kept under the data directory, each with a manifest of its files' hashes.

A pull writes to a ``.partial`` folder (where a later pull resumes) and renames it when every hash is known,
so a model folder is complete or absent. To bring a model to a machine without a network, copy its folder,
manifest included, into the same place there and run ``embedserve models verify``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from embedserve.embedding.checkpoint import hash_file
from embedserve.errors import ModelLoadError

MANIFEST = "embedserve_manifest.json"
WANTED = [
    "*.json",
    "*.safetensors",
    "*.txt",
    "*.model",
    "sparse_linear.pt",
    "[0-9]_*/*.json",
]
"""What a pull takes; ``pytorch_model.bin`` besides, where a model has no safetensors."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was pulled, from where, and the bytes it had then."""

    id: str
    source: str
    revision: str
    pulled: str
    files: dict[str, StoredFile] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files.values())

    @property
    def digest(self) -> str:
        """One hash for all: of the sorted (name, hash) pairs."""
        pairs = sorted((name, file.sha256) for name, file in self.files.items())
        return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


Report = Callable[[str], None]


class ModelStore:
    """The folder ``<data_dir>/models``.

    Args:
        root: that folder; made when something is pulled.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, model_id: str) -> Path:
        """Where a model lives, there or not. Raises ModelLoadError for an id that is no name."""
        parts = model_id.strip("/").split("/")
        if not parts[-1] or any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
            raise ModelLoadError(
                f"{model_id!r} is not a model id: expected owner/name, or a name of your own"
            )
        return self.root / "--".join(parts)

    def all(self) -> list[Manifest]:
        """Everything pulled, by id."""
        if not self.root.is_dir():
            return []
        folders = (path for path in self.root.iterdir() if (path / MANIFEST).is_file())
        return sorted((self._read(path) for path in folders), key=lambda manifest: manifest.id)

    def show(self, model_id: str) -> Manifest:
        """Raises ModelLoadError for a model that was not pulled."""
        return self._read(self.folder(model_id))

    def find(self, reference: str) -> tuple[Path, str, Manifest | None]:
        """(folder, id, manifest) for a path or the id of a pulled model.

        Raises:
            ModelLoadError: neither; the message says how to pull it.
        """
        path = Path(reference).expanduser()
        if (path / "config.json").is_file():
            manifest = self._read(path) if (path / MANIFEST).is_file() else None
            return path, manifest.id if manifest else path.resolve().name, manifest
        if path.is_absolute() or reference.startswith((".", "~")):
            raise ModelLoadError(f"{reference} is not a model folder: it has no config.json")
        manifest = self.show(reference)
        return self.folder(reference), manifest.id, manifest

    def pull(
        self,
        reference: str,
        *,
        source: str = "auto",
        name: str | None = None,
        revision: str | None = None,
        report: Report = lambda _: None,
    ) -> Manifest:
        """Bring a model into the store; a pull that was broken off goes on where it stopped.

        Args:
            reference: a hub id (``Qwen/Qwen3-Embedding-0.6B``) or a local folder.
            source: ``huggingface``, ``modelscope``, ``folder``, or ``auto``: a folder where one is, else
                Hugging Face.
            name: id to keep it under; the hub id or the folder's name when omitted.
            revision: branch, tag or commit of the hub.
            report: told what happens, in short lines.

        Raises:
            ModelLoadError: not found, not reachable, or bytes other than the hub's hashes say.
        """
        path = Path(reference).expanduser()
        if source == "auto":
            source = "folder" if path.is_dir() else "huggingface"
        model_id = name or (path.resolve().name if source == "folder" else reference)
        target = self.folder(model_id)
        partial = target.with_name(target.name + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        if source == "folder":
            revision = _copy_folder(path, partial, report)
        elif source == "huggingface":
            revision = _pull_huggingface(reference, partial, revision, report)
        elif source == "modelscope":
            revision = _pull_modelscope(reference, partial, revision)
        else:
            raise ModelLoadError(f"unknown source {source!r}: use huggingface, modelscope or folder")
        if not (partial / "config.json").is_file():
            raise ModelLoadError(f"{reference} has no config.json: it is not a model in the hub's format")
        report("hashing")
        files = {name: StoredFile(size, sha) for name, size, sha in _hash_files(partial)}
        origin = str(path.resolve()) if source == "folder" else f"{source}:{reference}"
        manifest = Manifest(
            model_id, origin, revision or "", datetime.now(UTC).isoformat("T", "seconds"), files
        )
        (partial / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1), "utf-8")
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
        return manifest

    def verify(self, model_id: str) -> list[str]:
        """What is wrong with a pulled model's files, one line each; empty when nothing is."""
        folder, manifest = self.folder(model_id), self.show(model_id)
        problems = []
        for name, stored in manifest.files.items():
            file = folder / name
            if not file.is_file():
                problems.append(f"{name} is missing")
            elif file.stat().st_size != stored.size or hash_file(file) != stored.sha256:
                problems.append(f"{name} is not what was pulled ({stored.size} bytes, {stored.sha256[:12]}…)")
        return problems

    def remove(self, model_id: str) -> None:
        """Delete a pulled model. Raises ModelLoadError for one that is not there."""
        folder = self.folder(model_id)
        partial = folder.with_name(folder.name + ".partial")
        if not folder.is_dir() and not partial.is_dir():
            self.show(model_id)
        for path in (folder, partial):
            if path.is_dir():
                shutil.rmtree(path)

    def _read(self, folder: Path) -> Manifest:
        path = folder / MANIFEST
        if not path.is_file():
            name = folder.name.replace("--", "/")
            raise ModelLoadError(
                f"the model {name} is not here: run `embedserve models pull {name}` "
                "(embedserve models list shows what is)"
            )
        try:
            told: dict[str, Any] = json.loads(path.read_text("utf-8"))
            told["files"] = {name: StoredFile(**file) for name, file in told["files"].items()}
            return Manifest(**told)
        except (ValueError, TypeError, KeyError) as error:
            raise ModelLoadError(f"{path} is damaged ({error}): pull the model again") from error


def _hash_files(folder: Path) -> list[tuple[str, int, str]]:
    """(relative name, size, SHA-256) of every file a model consists of."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    names = [(path.relative_to(folder).as_posix(), path) for path in files]
    kept = [(name, path) for name, path in names if not name.startswith(".")]  # .cache: the hub library's
    return [(name, path.stat().st_size, hash_file(path)) for name, path in kept]


def _copy_folder(source: Path, target: Path, report: Report) -> str:
    if not (source / "config.json").is_file():
        raise ModelLoadError(f"{source} is not a model folder: it has no config.json")
    wanted = {path for pattern in WANTED for path in source.glob(pattern) if path.is_file()}
    if not any(path.suffix == ".safetensors" for path in wanted):
        wanted |= set(source.glob("pytorch_model.bin"))
    for path in sorted(wanted):
        if path.name == MANIFEST:
            continue
        copy = target / path.relative_to(source)
        if (
            copy.is_file()
            and copy.stat().st_size == path.stat().st_size
            and hash_file(copy) == hash_file(path)
        ):
            continue
        report(str(path.relative_to(source)))
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return ""


def _pull_huggingface(model_id: str, target: Path, revision: str | None, report: Report) -> str:
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError as error:
        raise ModelLoadError(
            "pulling from Hugging Face needs its library: run `pip install 'embedserve[hub]'`"
        ) from error
    try:
        info = HfApi().model_info(model_id, revision=revision, files_metadata=True)
        hashes = {file.rfilename: file.lfs.sha256 for file in info.siblings or () if file.lfs}
        wanted = list(WANTED)
        if not any(name.endswith(".safetensors") for name in hashes):
            wanted.append("pytorch_model.bin")
        snapshot_download(model_id, revision=info.sha, local_dir=target, allow_patterns=wanted)
    except Exception as error:  # network, permission, unknown id: the library has a dozen of its own
        raise ModelLoadError(
            f"cannot pull {model_id} from Hugging Face: {type(error).__name__}: {error}. Without a network, "
            "copy the folder from another machine: embedserve models pull /path/to/folder"
        ) from error
    for name, expected in hashes.items():
        if (file := target / name).is_file():
            report(f"checking {name}")
            if hash_file(file) != expected:
                file.unlink()
                raise ModelLoadError(f"{name} is not what the hub says: removed it; run the same pull again")
    return str(info.sha)


def _pull_modelscope(model_id: str, target: Path, revision: str | None) -> str:
    try:
        from modelscope import snapshot_download
    except ImportError as error:
        raise ModelLoadError(
            "pulling from ModelScope needs its library: run `pip install 'embedserve[modelscope]'`"
        ) from error
    try:
        snapshot_download(model_id, revision=revision, local_dir=str(target), allow_patterns=WANTED)
    except Exception as error:
        raise ModelLoadError(
            f"cannot pull {model_id} from ModelScope: {type(error).__name__}: {error}"
        ) from error
    return revision or "master"
