"""A model folder in the Hugging Face format: ``config.json``, weights in shards, tokenizer files.

Weights are read tensor by tensor from memory-mapped ``*.safetensors`` (one file, or shards listed in
``model.safetensors.index.json``); older folders with ``pytorch_model.bin`` are read without unpickling code.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedserve.errors import ModelLoadError

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model.safetensors.index.json"


class Checkpoint:
    """Configuration and tensors of one folder.

    Args:
        folder: holds ``config.json``.

    Raises:
        ModelLoadError: the folder, its configuration or its weights are missing or unreadable.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise ModelLoadError(f"there is no model folder {folder}: pull it first (embedserve models pull)")
        self.config: dict[str, Any] = self.read_json("config.json", required=True)

    def read_json(self, name: str, *, required: bool = False) -> Any:
        """A JSON file of the folder; an empty dict when it is missing and not required."""
        path = self.folder / name
        if not path.is_file():
            if required:
                raise ModelLoadError(f"{self.folder} has no {name}: not a model folder in the hub's format")
            return {}
        try:
            return json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise ModelLoadError(f"{path} is not JSON ({error}): pull the model again") from error

    @property
    def model_type(self) -> str:
        return str(self.config.get("model_type", "unknown"))

    def setting(self, name: str, default: Any = None) -> Any:
        """A value of ``config.json``; without default a missing one is an error."""
        value = self.config.get(name, default)
        if value is None:
            raise ModelLoadError(f"{self.folder / 'config.json'} does not say {name}")
        return value

    @cached_property
    def weight_files(self) -> list[Path]:
        """The files that hold the network, in the order of their names."""
        if (self.folder / INDEX).is_file():
            names = sorted(set(self.read_json(INDEX)["weight_map"].values()))
            files = [self.folder / name for name in names]
            if missing := [file.name for file in files if not file.is_file()]:
                raise ModelLoadError(f"{self.folder} lacks the weight shards {missing}: pull it again")
            return files
        for name in ("model.safetensors", "pytorch_model.bin"):
            if (self.folder / name).is_file():
                return [self.folder / name]
        raise ModelLoadError(
            f"{self.folder} has no weights: expected model.safetensors, {INDEX} or pytorch_model.bin"
        )

    @property
    def weight_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.weight_files)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every (name, tensor) once, as stored; safetensors come from a memory map."""
        torch = import_torch()
        for file in self.weight_files:
            try:
                if file.suffix == ".bin":
                    yield from torch.load(file, map_location="cpu", weights_only=True, mmap=True).items()
                    continue
                with import_safetensors().safe_open(file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118 - not a dict
                        yield name, opened.get_tensor(name)
            except ModelLoadError:
                raise
            except Exception as error:  # every library has its own for a torn file
                raise ModelLoadError(
                    f"cannot read the weights {file}: {error}; pull the model again"
                ) from error

    def arrays(self, *prefixes: str) -> dict[str, Any]:
        """All tensors as fp32 NumPy arrays, without whichever of ``prefixes`` they carry.

        Works without PyTorch for safetensors in fp32 or fp16.
        """
        found: dict[str, Any] = {}
        for name, values in self._read_arrays():
            prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
            found[name.removeprefix(prefix)] = values.astype("float32", copy=False)
        return found

    def _read_arrays(self) -> Iterator[tuple[str, Any]]:
        if importlib.util.find_spec("torch"):
            for name, tensor in self.tensors():
                yield name, tensor.float().numpy()
            return
        for file in self.weight_files:
            if file.suffix == ".bin":
                import_torch()
            try:
                with import_safetensors().safe_open(file, framework="np") as opened:
                    for name in opened.keys():  # noqa: SIM118 - not a dict
                        yield name, opened.get_tensor(name)
            except TypeError:  # NumPy has no bf16
                import_torch()
            except ModelLoadError:
                raise
            except Exception as error:
                raise ModelLoadError(f"cannot read {file}: {error}; pull the model again") from error

    def state(self, *prefixes: str) -> State:
        """All tensors by name, without whichever of ``prefixes`` they carry."""
        found: dict[str, Tensor] = {}
        for name, tensor in self.tensors():
            prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
            found[name.removeprefix(prefix)] = tensor
        return State(found, self.folder)

    def digest(self) -> str:
        """SHA-256 over configuration, tokenizer and weights, file by file: the identity of the folder."""
        whole = hashlib.sha256()
        tokenizer = [self.folder / name for name in ("tokenizer.json", "sparse_linear.pt")]
        for file in [self.folder / "config.json", *(f for f in tokenizer if f.is_file()), *self.weight_files]:
            whole.update(hash_file(file).encode())
        return whole.hexdigest()


class State:
    """Tensors by name, handed out once each, with an error that says what is missing."""

    def __init__(self, tensors: dict[str, Tensor], folder: Path) -> None:
        self._tensors = tensors
        self._folder = folder

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor called ``name``, which must have ``shape`` where given; it is dropped from here."""
        if name not in self._tensors:
            raise ModelLoadError(
                f"the weights in {self._folder} lack {name}: not a checkpoint of this family"
            )
        tensor = self._tensors.pop(name)
        if shape and tuple(tensor.shape) != shape:
            raise ModelLoadError(
                f"{name} in {self._folder} has shape {tuple(tensor.shape)}, config.json says {shape}"
            )
        return tensor


def hash_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def import_torch() -> Any:
    """PyTorch, or what to install."""
    try:
        import torch
    except ImportError as error:
        raise ModelLoadError(
            "this model needs PyTorch: run `pip install 'embedserve[torch]'` "
            "(CPU builds: pip install torch --index-url https://download.pytorch.org/whl/cpu)"
        ) from error
    return torch


def import_safetensors() -> Any:
    try:
        import safetensors
    except ImportError as error:
        raise ModelLoadError("this model needs safetensors: run `pip install 'embedserve[torch]'`") from error
    return safetensors
