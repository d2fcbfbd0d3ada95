"""Each kernel of each instruction set against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from embedserve.embedding.backbones.base import Floats
from embedserve.embedding.backbones.native import NativeBackbone, NativeUnavailable, available_isas
from embedserve.embedding.backbones.native.library import ISAS, Library, load_library
from embedserve.embedding.backbones.reference import gelu, layer_norm


@pytest.fixture
def core() -> Library:
    try:
        return load_library()
    except NativeUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, core: Library) -> bytes:
    if request.param not in available_isas():
        pytest.skip(f"this CPU has no {request.param}")
    return str(request.param).encode()


def quantised(core: Library, isa: bytes, x: Floats) -> tuple[np.ndarray, Floats]:
    """Bytes and (scale, zero) of each row."""
    values, scales = np.empty(x.shape, np.uint8), np.empty((len(x), 2), np.float32)
    for row, (byte, scale) in enumerate(zip(values, scales, strict=True)):
        core.kernel_quantise(isa, x[row].ctypes.data, x.shape[1], byte.ctypes.data, scale.ctypes.data)
    return values, scales


@pytest.mark.parametrize("kind", ["normal", "positive", "negative", "outlier", "zero"])
def test_quantise_keeps_the_row(core: Library, isa: bytes, kind: str) -> None:
    x = np.random.default_rng(1).normal(size=(5, 384)).astype(np.float32)
    x = {"positive": np.abs(x), "negative": -np.abs(x), "zero": x * 0}.get(kind, x)
    if kind == "outlier":
        x[:, 7] = 60
    values, scales = quantised(core, isa, x)
    zero = scales[:, 1:] + (128 if isa == b"neon" else 0)  # NEON's dot takes 128 from every byte
    back = (values - zero) * scales[:, :1]
    step = (np.maximum(x.max(1), 0) - np.minimum(x.min(1), 0)) / 254
    assert (np.abs(back - x) <= step[:, None] * 0.501 + 1e-6).all()


@pytest.mark.parametrize("size", [32, 96, 384, 1024])
def test_layer_norm(core: Library, isa: bytes, size: int) -> None:
    random = np.random.default_rng(2)
    x, gain, bias = (random.normal(size=size).astype(np.float32) * 3 for _ in range(3))
    out = np.empty(size, np.float32)
    core.kernel_layer_norm(
        isa, x.ctypes.data, gain.ctypes.data, bias.ctypes.data, size, 1e-5, out.ctypes.data
    )
    np.testing.assert_allclose(out, layer_norm(x, gain, bias, 1e-5), rtol=2e-5, atol=2e-5)


def test_embed_reads_q4_blocks(core: Library, isa: bytes) -> None:
    random = np.random.default_rng(3)
    scales = np.array([0.5, -1e-3, 6e-8, 2.0], np.float16)  # 6e-8 is subnormal
    nibbles = random.integers(0, 16, (4, 32), dtype=np.uint8)
    blocks = b"".join(
        scale.tobytes() + (row[:16] | row[16:] << 4).tobytes()
        for scale, row in zip(scales, nibbles, strict=True)
    )
    position, kind = (random.normal(size=128).astype(np.float32) for _ in range(2))
    out = np.empty(128, np.float32)
    core.kernel_embed(isa, blocks, position.ctypes.data, kind.ctypes.data, 128, out.ctypes.data)
    word = ((nibbles.astype(np.float32) - 8) * scales.astype(np.float32)[:, None]).ravel()
    np.testing.assert_allclose(out, word + position + kind, rtol=1e-6, atol=1e-6)


@pytest.mark.quick
@pytest.mark.parametrize("epilogue", [0, 1, 2], ids=["store", "gelu", "residual"])
@pytest.mark.parametrize(
    ("rows", "n", "k"),
    [(1, 64, 32), (2, 64, 64), (7, 96, 96), (8, 64, 32), (13, 192, 384), (6, 384, 1536), (51, 64, 96)],
)
def test_gemm(core: Library, isa: bytes, rows: int, n: int, k: int, epilogue: int) -> None:
    random = np.random.default_rng(rows)
    x, w = random.normal(size=(rows, k)).astype(np.float32), random.normal(size=(n, k)).astype(np.float32)
    w /= np.float32(k**0.5)
    bias = random.normal(size=n).astype(np.float32)
    width = -(-n // 64) * 64
    residual, out = random.normal(size=(rows, width)).astype(np.float32), np.empty((rows, width), np.float32)
    values, scales = quantised(core, isa, x)
    core.kernel_gemm(
        isa,
        values.ctypes.data,
        scales.ctypes.data,
        rows,
        w.ctypes.data,
        n,
        k,
        bias.ctypes.data,
        epilogue,
        residual.ctypes.data,
        out.ctypes.data,
        1,
    )
    step = np.abs(w).max(1, keepdims=True) / 127
    zero = scales[:, 1:] + (128 if isa == b"neon" else 0)
    exact = ((values - zero) * scales[:, :1]) @ (np.rint(w / step) * step).T + bias
    exact = {0: exact, 1: gelu(exact.astype(np.float32)), 2: exact + residual[:, :n]}[epilogue]
    np.testing.assert_allclose(out[:, :n], exact, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 3, 5, 7, 16, 33, 130])
def test_attention(core: Library, isa: bytes, length: int, heads: int) -> None:
    hidden = 64
    qkv = np.random.default_rng(length).normal(size=(length, 3 * hidden)).astype(np.float32)
    out = np.empty((length, hidden), np.float32)
    core.kernel_attention(isa, qkv.ctypes.data, length, hidden, heads, out.ctypes.data)
    q, k, v = (part.reshape(length, heads, -1).transpose(1, 0, 2) for part in np.split(qkv, 3, axis=1))
    scores = q @ k.transpose(0, 2, 1) * np.float32((hidden // heads) ** -0.5)
    chances = np.exp(scores - scores.max(-1, keepdims=True))
    expected = (chances / chances.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(length, hidden)
    assert np.abs(out - expected).max() < 0.04  # eight bits of q, k, v and the probabilities
    assert np.sqrt(np.mean((out - expected) ** 2)) < 0.01


def test_attention_keeps_what_many_tokens_say_faintly(core: Library, isa: bytes) -> None:
    """One token takes most of the attention, 511 a third of a byte's step each: together they still count."""
    length, hidden = 512, 32
    faint = 0.3 / 254
    q, k, v = (np.zeros((length, hidden), np.float32) for _ in range(3))
    q[:, 0] = 10
    k[0, 0] = -np.log(faint) * hidden**0.5 / 10
    v[0], v[1:] = 1, -1 + np.random.default_rng(4).normal(size=(length - 1, hidden)) * 0.1
    qkv, out = np.hstack([q, k, v]), np.empty((length, hidden), np.float32)
    core.kernel_attention(isa, qkv.ctypes.data, length, hidden, 1, out.ctypes.data)
    expected = (v[0] + faint * v[1:].sum(0)) / (1 + faint * (length - 1))
    assert np.abs(out - expected).max() < 0.1
    assert np.abs(out - expected).mean() < 0.03


def make_tensors(hidden: int, ffn: int, layers: int) -> dict[str, Floats]:
    random = np.random.default_rng(hidden)
    sizes = {"q": (hidden, hidden), "k": (hidden, hidden), "v": (hidden, hidden), "ao": (hidden, hidden)}
    sizes |= {"fi": (ffn, hidden), "fo": (hidden, ffn)}
    tensors = {"emb.word": (50, hidden), "emb.pos": (40, hidden), "emb.type": (1, hidden)}
    found = {name: random.normal(size=shape).astype(np.float32) for name, shape in tensors.items()}
    norms = ["emb.ln"]
    for layer in range(layers):
        for name, (rows, columns) in sizes.items():
            found[f"l{layer}.{name}.w"] = (
                random.normal(size=(rows, columns)).astype(np.float32) / columns**0.5
            )
            found[f"l{layer}.{name}.b"] = random.normal(size=rows).astype(np.float32) * 0.1
        norms += [f"l{layer}.aln", f"l{layer}.oln"]
    for name in norms:
        found[f"{name}.w"] = 1 + random.normal(size=hidden).astype(np.float32) * 0.1
        found[f"{name}.b"] = random.normal(size=hidden).astype(np.float32) * 0.1
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


def plain_states(t: dict[str, Floats], heads: int, layers: int, ids: np.ndarray) -> Floats:
    def norm(x: Floats, name: str) -> Floats:
        return layer_norm(x, t[f"{name}.w"], t[f"{name}.b"], 1e-5)

    def linear(x: Floats, name: str) -> Floats:
        result: Floats = x @ t[f"{name}.w"].T + t[f"{name}.b"]
        return result

    x = norm(t["emb.word"][ids] + t["emb.pos"][: len(ids)] + t["emb.type"][0], "emb.ln")
    for layer in range(layers):
        p = f"l{layer}."
        q, k, v = (linear(x, p + s).reshape(len(ids), heads, -1).transpose(1, 0, 2) for s in "qkv")
        a = np.exp(q @ k.transpose(0, 2, 1) * np.float32(q.shape[-1] ** -0.5))
        context = (a / a.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(ids), -1)
        x = norm(x + linear(context, p + "ao"), p + "aln")
        x = norm(x + linear(gelu(linear(x, p + "fi")), p + "fo"), p + "oln")
    return x


@pytest.mark.parametrize(("hidden", "heads", "ffn"), [(32, 2, 64), (96, 3, 160), (128, 2, 512)])
def test_any_shape_from_arrays(core: Library, isa: bytes, hidden: int, heads: int, ffn: int) -> None:
    from embedserve.embedding.backbones.base import Window

    tensors = make_tensors(hidden, ffn, 2)
    backbone = NativeBackbone.from_arrays(
        tensors, heads=heads, layer_norm_eps=1e-5, isa=isa.decode(), threads=2
    )
    assert (backbone.hidden_size, backbone.window_size) == (hidden, 40)
    windows = [Window(np.arange(n, dtype=np.int32) * 7 % 50, np.ones(n, np.float32)) for n in (1, 9, 40)]
    for found, window in zip(backbone.encode(windows), windows, strict=True):
        states = plain_states(tensors, heads, 2, window.ids).mean(0)
        assert found @ states / np.linalg.norm(found) / np.linalg.norm(states) > 0.998
    backbone.close()
    backbone.close()
    with pytest.raises(RuntimeError, match="closed"):
        backbone.encode(windows)


def test_shapes_that_do_not_fit_are_named(core: Library) -> None:
    with pytest.raises(NativeUnavailable, match="multiples of 32"):
        NativeBackbone.from_arrays(make_tensors(40, 64, 1), heads=1)
    broken = make_tensors(32, 64, 1)
    del broken["l0.k.b"]
    with pytest.raises(NativeUnavailable, match=r"l0\.k\.b"):
        NativeBackbone.from_arrays(broken, heads=2)
