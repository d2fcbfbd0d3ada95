"""Parity with ``transformers`` on the same checkpoint, and vectors that do not depend on their neighbours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedserve.embedding.backbones import torch_packing
from embedserve.embedding.backbones.base import Floats, Window
from embedserve.embedding.backbones.instructions import find_prefix
from embedserve.embedding.backbones.qwen3 import Qwen3Backbone
from embedserve.embedding.backbones.torch_graphs import GraphRunner
from embedserve.embedding.backbones.torch_packing import Runtime
from embedserve.embedding.checkpoint import Checkpoint
from embedserve.embedding.hub_tokenizer import HubTokenizer
from embedserve.embedding.recipes import qwen3_embedding
from embedserve.errors import EmbedserveError, ModelLoadError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors")

RECIPE = qwen3_embedding(64)
TEXTS = [
    "What is the capital of China?",
    "重力",
    "The capital of China is Beijing. " * 7,
    "x",
    "Gravity is a force that attracts two bodies towards each other.",
]


@pytest.fixture(scope="module")
def backbone(folder: Path, tokenizer: HubTokenizer) -> Iterator[Qwen3Backbone]:
    backbone = Qwen3Backbone(
        Checkpoint(folder), Runtime(device="cpu", precision="fp32"), prefix=find_prefix(tokenizer.encode)
    )
    yield backbone
    backbone.close()


def make_windows(tokenizer: HubTokenizer, texts: list[str], limit: int = 8192) -> list[Window]:
    windows = []
    for text in texts:
        ids, _ = tokenizer.wrap(tokenizer.encode(text), limit)
        windows.append(Window(ids, RECIPE.pool_weights(len(ids))))
    return windows


def encode_by_transformers(folder: Path, windows: list[Window], side: str = "left") -> Floats:
    """Padded on one side, last real token, as the model card's program does it."""
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    longest = max(len(window.ids) for window in windows)
    ids = torch.zeros(len(windows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, window in enumerate(windows):
        n = len(window.ids)
        here = slice(longest - n, None) if side == "left" else slice(0, n)
        ids[row, here] = torch.from_numpy(window.ids.astype(np.int64))
        mask[row, here] = 1
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        states = model(input_ids=ids, attention_mask=mask, position_ids=positions).last_hidden_state
    last = [-1] * len(windows) if side == "left" else [len(window.ids) - 1 for window in windows]
    result: Floats = torch.stack([states[row, at] for row, at in enumerate(last)]).numpy()
    return result


def unit(rows: Floats) -> Floats:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("side", ["left", "right"])
def test_fp32_agrees_with_transformers(
    folder: Path, tokenizer: HubTokenizer, backbone: Qwen3Backbone, side: str
) -> None:
    prompted = [RECIPE.prompt("query") + text for text in TEXTS]
    windows = make_windows(tokenizer, TEXTS + prompted)
    ours, theirs = backbone.encode(windows), encode_by_transformers(folder, windows, side)
    np.testing.assert_allclose(unit(ours), unit(theirs), atol=1e-5)
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


@pytest.mark.slow
def test_8192_tokens_agree_with_transformers(
    folder: Path, tokenizer: HubTokenizer, backbone: Qwen3Backbone
) -> None:
    long = "the force of gravity is a force that attracts 引力 " * 900
    windows = make_windows(tokenizer, [long, RECIPE.prompt("query") + long])
    assert [len(window.ids) for window in windows] == [8192, 8192]
    for window in windows:
        theirs = encode_by_transformers(folder, [window])
        np.testing.assert_allclose(unit(backbone.encode([window])), unit(theirs), atol=1e-5)


@pytest.mark.parametrize(("precision", "cosine"), [("bf16", 0.999), ("int8", 0.998)])
def test_smaller_arithmetic_stays_close(
    folder: Path, tokenizer: HubTokenizer, backbone: Qwen3Backbone, precision: Any, cosine: float
) -> None:
    windows = make_windows(tokenizer, TEXTS)
    small = Qwen3Backbone(Checkpoint(folder), Runtime(device="cpu", precision=precision))
    found = (unit(small.encode(windows)) * unit(backbone.encode(windows))).sum(axis=1)
    assert found.min() > cosine


@pytest.mark.parametrize(
    ("precision", "threads"), [("fp32", 1), ("fp32", 3), ("bf16", 2), ("int8", 1), ("int8", 3)]
)
def test_a_window_keeps_its_bits_in_any_batch(
    folder: Path, tokenizer: HubTokenizer, precision: Any, threads: int
) -> None:
    prompted = [RECIPE.prompt("query", "Find the 重力 text") + text for text in TEXTS]
    windows = make_windows(tokenizer, [*TEXTS, *prompted, *[f"number {i} " * i for i in range(1, 30)]])
    before = torch.get_num_threads()
    make = lambda: Qwen3Backbone(  # noqa: E731
        Checkpoint(folder), Runtime("cpu", precision), prefix=find_prefix(tokenizer.encode)
    )
    reference = make().encode(windows)
    torch.set_num_threads(threads)
    try:
        backbone = make()
        alone = np.concatenate([backbone.encode([window]) for window in windows])
        order = np.random.default_rng(5).permutation(len(windows))
        shuffled = make().encode([windows[i] for i in order])
    finally:
        torch.set_num_threads(before)
    assert alone.tobytes() == reference.tobytes()
    assert shuffled.tobytes() == reference[order].tobytes()


def test_the_instruction_is_computed_once_and_changes_nothing(
    folder: Path, tokenizer: HubTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = find_prefix(tokenizer.encode)
    backbone = Qwen3Backbone(Checkpoint(folder), Runtime("cpu", "fp32"), prefix=prefix)
    plain = Qwen3Backbone(Checkpoint(folder), Runtime("cpu", "fp32"))
    windows = make_windows(tokenizer, [RECIPE.prompt("query") + text for text in TEXTS])
    rows: list[int] = []
    forward = Qwen3Backbone._forward
    monkeypatch.setattr(
        Qwen3Backbone, "_forward", lambda self, pack: (rows.append(pack.tokens), forward(self, pack))[1]
    )
    first, again = backbone.encode(windows), backbone.encode(windows)
    whole = plain.encode(windows)
    shared = backbone.cut_at(windows[0])
    assert shared > 5
    assert rows == [rows[2] - 4 * shared, rows[2] - 5 * shared, rows[2]]
    assert first.tobytes() == again.tobytes()
    np.testing.assert_allclose(unit(first), unit(whole), atol=1e-5)


def test_many_instructions_are_not_kept_for_ever(folder: Path, tokenizer: HubTokenizer) -> None:
    backbone = Qwen3Backbone(Checkpoint(folder), Runtime("cpu", "fp32"), prefix=find_prefix(tokenizer.encode))
    texts = [RECIPE.prompt("query", f"Task {i}") + "text" for i in range(40)]
    together = backbone.encode(make_windows(tokenizer, texts))
    assert len(backbone._kept) == 16
    assert together.tobytes() == backbone.encode(make_windows(tokenizer, texts)).tobytes()


def test_out_of_memory_halves_the_pack_and_stays_healthy(
    folder: Path, tokenizer: HubTokenizer, backbone: Qwen3Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = make_windows(tokenizer, TEXTS * 4)
    expected = backbone.encode(windows)
    small = Qwen3Backbone(Checkpoint(folder), Runtime("cpu", "fp32"), prefix=find_prefix(tokenizer.encode))
    forward = Qwen3Backbone._forward

    def forward_in_little_memory(self: Qwen3Backbone, pack: torch_packing.Pack) -> Any:
        if pack.tokens > 100:
            raise torch.OutOfMemoryError("no room")
        return forward(self, pack)

    monkeypatch.setattr(Qwen3Backbone, "_forward", forward_in_little_memory)
    short = [window for window in windows if len(window.ids) <= 100]
    keep = [i for i, window in enumerate(windows) if len(window.ids) <= 100]
    assert small.encode(short).tobytes() == expected[keep].tobytes()
    long = make_windows(tokenizer, ["gravity " * 200])
    with pytest.raises(EmbedserveError, match="shorter text") as caught:
        small.encode(long)
    assert caught.value.status == 413
    assert small.encode(short).tobytes() == expected[keep].tobytes()


def test_varlen_attention_plans_what_attention_per_sequence_does(
    folder: Path, tokenizer: HubTokenizer, backbone: Qwen3Backbone
) -> None:
    """The CUDA path's bookkeeping with a plain function in place of the kernel."""

    def run(q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int, causal: bool) -> Any:
        assert int(cu_q[-1]) == len(q)
        assert int(cu_k[-1]) == len(k)
        assert max_q == (cu_q[1:] - cu_q[:-1]).max()
        assert max_k == (cu_k[1:] - cu_k[:-1]).max()
        spans = zip(cu_q[:-1], cu_q[1:], cu_k[:-1], cu_k[1:], strict=True)
        one = torch_packing.attend_one
        return torch.cat([one(q[a:b], k[c:d], v[c:d], causal=causal) for a, b, c, d in spans])

    varlen = Qwen3Backbone(Checkpoint(folder), Runtime("cpu", "fp32"), prefix=find_prefix(tokenizer.encode))
    varlen._varlen = run
    windows = make_windows(tokenizer, TEXTS + [RECIPE.prompt("query") + text for text in TEXTS])
    assert varlen.encode(windows).tobytes() == backbone.encode(windows).tobytes()


def test_graphs_pad_to_fixed_shapes_without_changing_states(
    folder: Path, tokenizer: HubTokenizer, backbone: Qwen3Backbone
) -> None:
    """The bookkeeping of CUDA graphs; recording is replaced by calling again."""

    def run(q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int, causal: bool) -> Any:
        one, sums = torch_packing.attend_one, cu_q.tolist()
        pairs = [(a, b) for a, b in pairwise(sums) if b > a]
        return torch.cat([one(q[a:b], k[a:b], v[a:b], causal=causal) for a, b in pairs])

    plain = Qwen3Backbone(Checkpoint(folder), Runtime("cpu", "fp32"))
    windows = make_windows(tokenizer, TEXTS)
    whole = plain.encode(windows)
    recorded: list[int] = []

    def record(call: Any) -> Any:
        recorded.append(1)
        return call

    plain._graphs = GraphRunner(plain.compute, run, "cpu", record=record)
    for _ in range(2):
        assert plain.encode(windows).tobytes() == whole.tobytes()
        for window, row in zip(windows, whole, strict=True):
            assert plain.encode([window])[0].tobytes() == row.tobytes()
    assert len(recorded) <= 4
    many = make_windows(tokenizer, [f"text {i}" for i in range(40)])
    assert plain.encode(many).tobytes() == backbone.encode(many).tobytes()  # too many sequences: no graph


def test_other_models_are_refused_with_the_reason(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())

    def write(**changes: Any) -> Checkpoint:
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
        return Checkpoint(tmp_path)

    with pytest.raises(ModelLoadError, match="not qwen3"):
        Qwen3Backbone(write(model_type="llama"))
    with pytest.raises(ModelLoadError, match="yarn"):
        Qwen3Backbone(write(rope_parameters={"rope_type": "yarn", "rope_theta": 1e6}))
    with pytest.raises(ModelLoadError, match="no weights"):
        Qwen3Backbone(write())
    for shard in folder.glob("*.safetensors*"):
        (tmp_path / shard.name).write_bytes(shard.read_bytes())
    torn = sorted(tmp_path.glob("*.safetensors"))[0]
    torn.write_bytes(torn.read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match="pull the model again"):
        Qwen3Backbone(write())
    torn.unlink()
    with pytest.raises(ModelLoadError, match="lacks the weight shards"):
        Qwen3Backbone(write())


def test_cuda_without_a_device_says_so(folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ModelLoadError, match="sees no CUDA device"):
        Qwen3Backbone(Checkpoint(folder), Runtime(device="cuda"))
