"""From what an operator wrote to a pipeline: a pulled model, a folder, or another server's address."""

from __future__ import annotations

import importlib.util
import os
import time
from dataclasses import dataclass
from pathlib import Path

from embedserve.embedding.backbones import native_qwen3
from embedserve.embedding.backbones.base import Backbone
from embedserve.embedding.backbones.bundled import open_bundled
from embedserve.embedding.backbones.encoder import FAMILIES, SPARSE_HEAD, EncoderBackbone
from embedserve.embedding.backbones.instructions import Prefix, find_prefix
from embedserve.embedding.backbones.native import NativeUnavailable
from embedserve.embedding.backbones.native_encoder import open_native
from embedserve.embedding.backbones.native_qwen3 import NativeQwen3Backbone
from embedserve.embedding.backbones.qwen3 import Qwen3Backbone
from embedserve.embedding.backbones.remote import RemoteBackbone
from embedserve.embedding.backbones.torch_packing import Precision, Runtime, multiplies_tiles, sees_cuda
from embedserve.embedding.checkpoint import Checkpoint
from embedserve.embedding.hub_tokenizer import HubTokenizer
from embedserve.embedding.models.detection import detect_recipe, name_recipe
from embedserve.embedding.models.hub_embedder import HubEmbedder, PublishedEmbedder
from embedserve.embedding.models.references import is_remote as is_remote
from embedserve.embedding.models.references import read_table as read_table
from embedserve.embedding.models.references import split_address
from embedserve.embedding.models.remote_embedder import RemoteEmbedder
from embedserve.embedding.models.store import ModelStore
from embedserve.embedding.sparse import LexicalWeights
from embedserve.embedding.tokenizer import Tokenizer
from embedserve.errors import ModelLoadError
from embedserve.settings import default_data_dir

REMOTE_KEY = "EMBEDSERVE_REMOTE_API_KEY"


@dataclass(frozen=True, slots=True)
class Shared:
    """What models lend from the bundled one."""

    tokenizer: Tokenizer
    lexical: LexicalWeights


def open_model(
    reference: str, store: ModelStore, shared: Shared, runtime: Runtime | None = None
) -> PublishedEmbedder:
    """The pipeline for one reference, its golden scores checked.

    Args:
        reference: a pulled model's id, a folder, or ``https://host/v1#model-name`` (key in
            ``EMBEDSERVE_REMOTE_API_KEY``; ``?prompts=none`` behind it for servers with prompts of their own).
        store: where pulled models are.
        shared: see :class:`Shared`.
        runtime: device and arithmetic.

    Raises:
        ModelLoadError: not there, not of a known family, damaged, or golden scores missed.
    """
    if is_remote(reference):
        return _open_remote(reference, shared)
    folder, model_id, manifest = store.find(reference)
    checkpoint = Checkpoint(folder)
    recipe = detect_recipe(checkpoint, model_id)
    tokenizer = HubTokenizer(folder, recipe.end_token)
    backbone: Backbone
    if checkpoint.model_type == "qwen3":
        prefix = find_prefix(tokenizer.encode)
        backbone = _open_qwen3(checkpoint, runtime or Runtime(), prefix, recipe.max_tokens)
    elif checkpoint.model_type in FAMILIES:
        backbone = _open_encoder(checkpoint, runtime or Runtime(), tokenizer)
    else:
        raise ModelLoadError(
            f"{folder} is a {checkpoint.model_type!r} model; served here are qwen3, {', '.join(FAMILIES)}: "
            "serve others by a remote engine (https://host/v1#name)"
        )
    weights = manifest.digest if manifest else checkpoint.digest()
    embedder = HubEmbedder(
        backbone, tokenizer, recipe, shared.lexical, recipe.fingerprint(weights, backbone.name)
    )
    try:
        if recipe.golden:
            embedder.check(recipe.golden)
    except BaseException:
        embedder.close()
        raise
    return embedder


def load(
    reference: str,
    *,
    data_dir: Path | None = None,
    device: str = "auto",
    precision: Precision = "auto",
) -> PublishedEmbedder:
    """A model for a program of your own: ``load("Qwen/Qwen3-Embedding-0.6B").embed(["text"])``.

    Args:
        reference: as in :func:`open_model`.
        data_dir: where models were pulled to; the user's data folder when omitted.
        device, precision: see :class:`~embedserve.embedding.backbones.torch_packing.Runtime`.

    Raises:
        ModelLoadError: as :func:`open_model`.
    """
    bundled, tokenizer = open_bundled()
    bundled.close()
    store = ModelStore((data_dir or default_data_dir()) / "models")
    shared = Shared(tokenizer, LexicalWeights(tokenizer))
    return open_model(reference, store, shared, Runtime(device, precision))


def _open_qwen3(checkpoint: Checkpoint, runtime: Runtime, prefix: Prefix, window_size: int) -> Backbone:
    """The native engine where :func:`_takes_native_qwen3` says so and it can; PyTorch for everything else."""
    if _takes_native_qwen3(runtime):
        try:
            return NativeQwen3Backbone(checkpoint, prefix=prefix, window_size=window_size)
        except NativeUnavailable:
            if not _has_torch():
                raise
    return Qwen3Backbone(checkpoint, runtime, prefix=prefix, window_size=window_size)


def _takes_native_qwen3(runtime: Runtime) -> bool:
    """Whether Qwen3 runs at int8 in the native engine: on a CPU, for ``int8``, and for ``auto``.

    A CPU that multiplies tiles of bf16 (AMX) does so at several times the rate of int8 in its vectors, so
    there ``auto`` leaves it to PyTorch, if that is installed.
    """
    if runtime.precision == "int8":
        return _is_cpu(runtime)
    return runtime.precision == "auto" and _is_cpu(runtime) and not (_has_torch() and multiplies_tiles())


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _is_cpu(runtime: Runtime) -> bool:
    return runtime.device == "cpu" or (runtime.device == "auto" and not sees_cuda())


def _open_encoder(checkpoint: Checkpoint, runtime: Runtime, tokenizer: HubTokenizer) -> Backbone:
    """The native engine for int8 on the CPU, or where PyTorch is missing; PyTorch for everything else.

    The native engine gives pooled states only, so a checkpoint with a sparse head runs in PyTorch.
    """
    has_torch = _has_torch()
    has_head = (checkpoint.folder / SPARSE_HEAD).is_file()
    wants_native = runtime.precision == "int8" or (runtime.precision == "auto" and not has_torch)
    if wants_native and _is_cpu(runtime) and not has_head:
        try:
            return open_native(checkpoint)
        except NativeUnavailable:
            if not has_torch:
                raise
    return EncoderBackbone(checkpoint, runtime, silent_ids=tokenizer.special_ids)


def _open_remote(reference: str, shared: Shared) -> RemoteEmbedder:
    url, name, option = split_address(reference)
    backbone = RemoteBackbone(url, name, api_key=os.environ.get(REMOTE_KEY))
    try:
        recipe = name_recipe("" if option else name, backbone.hidden_size)
        embedder = RemoteEmbedder(backbone, recipe, shared.tokenizer, shared.lexical)
        embedder.check_sanity()
        if recipe.golden:
            embedder.check(recipe.golden)
    except BaseException:
        backbone.close()
        raise
    return embedder


def predict_bytes(reference: str, store: ModelStore, runtime: Runtime) -> int:
    """Memory that a model will take once open: its weights in the arithmetic of ``runtime``, and a tenth."""
    if is_remote(reference):
        return 0
    checkpoint = Checkpoint(store.find(reference)[0])
    if checkpoint.model_type == "qwen3" and _takes_native_qwen3(runtime):
        return native_qwen3.predict_bytes(checkpoint)
    stored = 2 if checkpoint.config.get("dtype", checkpoint.config.get("torch_dtype")) != "float32" else 4
    precision = runtime.resolve().precision if _has_torch() else "int8"
    wanted = {"fp32": 4, "bf16": 2, "int8": 2}[precision]  # int8 keeps its word table wide
    return int(checkpoint.weight_bytes * wanted / stored * 1.1)


def verify(model_id: str, store: ModelStore, shared: Shared, runtime: Runtime | None = None) -> list[str]:
    """Hashes, a load and a few vectors of a pulled model: what was found, one line each.

    Raises:
        ModelLoadError: the first thing that is wrong.
    """
    if problems := store.verify(model_id):
        raise ModelLoadError(
            f"{model_id}: " + "; ".join(problems) + f". Run `embedserve models pull {model_id}` again"
        )
    told = [f"files: {len(store.show(model_id).files)} as pulled"]
    started = time.perf_counter()
    embedder = open_model(model_id, store, shared, runtime)
    try:
        took = time.perf_counter() - started
        told.append(f"load: {took:.1f} s as {embedder.backbone.name}, recipe {embedder.model.name}")
        golden = embedder.model.golden
        if golden:
            told.append(f"golden scores: within {embedder.check(golden):.4f} of {golden.source}")
        else:
            told.append("golden scores: none published for this model")
        texts = ["embedserve", "a longer text about the same thing", "人工智能"]
        together = embedder.embed(texts).dense
        alone = [embedder.embed(text).dense[0] for text in texts]
        if any(row.tobytes() != one.tobytes() for row, one in zip(together, alone, strict=True)):
            raise ModelLoadError(f"{model_id} gives a text other bits alone than in a batch on this machine")
        told.append(f"vectors: {together.shape[1]} dimensions, bit-equal alone and in a batch")
        told.append(f"fingerprint: {embedder.recipe.describe()['fingerprint']}")
    finally:
        embedder.close()
    return told
