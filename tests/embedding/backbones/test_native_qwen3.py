"""Qwen3 in the native engine: close to ``transformers``, and bits that depend on nothing but the text."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.embedding.backbones.test_qwen3 import RECIPE, TEXTS, encode_by_transformers, make_windows, unit
from tests.embedding.checkpoints import write_qwen3

from embedserve.embedding.backbones.base import Floats, Window
from embedserve.embedding.backbones.instructions import Prefix, cut_at, find_prefix
from embedserve.embedding.backbones.native import NativeUnavailable, available_isas
from embedserve.embedding.backbones.native_qwen3 import KEPT_POSITIONS, NativeQwen3Backbone, predict_bytes
from embedserve.embedding.backbones.qwen3 import Qwen3Backbone
from embedserve.embedding.backbones.torch_packing import Runtime
from embedserve.embedding.checkpoint import Checkpoint
from embedserve.embedding.hub_tokenizer import HubTokenizer
from embedserve.errors import ModelLoadError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")
try:
    ISAS = available_isas()
except NativeUnavailable as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture(scope="module")
def prefix(tokenizer: HubTokenizer) -> Prefix:
    return find_prefix(tokenizer.encode)


@pytest.fixture(scope="module")
def windows(tokenizer: HubTokenizer) -> list[Window]:
    """Short, long, with and without an instruction; lengths on both sides of blocks of rows and of keys."""
    prompted = [RECIPE.prompt("query") + text for text in TEXTS]
    other = [RECIPE.prompt("query", "Find the 重力 text") + text for text in TEXTS]
    many = [f"number {i} " * i for i in range(1, 24)]
    return make_windows(tokenizer, [*TEXTS, *prompted, *other, *many, "gravity attracts 引力 " * 150])


@pytest.fixture(scope="module")
def expected(folder: Path, windows: list[Window]) -> Floats:
    return np.concatenate([encode_by_transformers(folder, [window]) for window in windows])


@pytest.fixture(scope="module")
def backbone(folder: Path, prefix: Prefix) -> Iterator[NativeQwen3Backbone]:
    backbone = NativeQwen3Backbone(Checkpoint(folder), prefix=prefix, threads=2)
    yield backbone
    backbone.close()


def cosines(a: Floats, b: Floats) -> Floats:
    found: Floats = (unit(a) * unit(b)).sum(axis=1)
    return found


@pytest.mark.quick
@pytest.mark.parametrize("isa", ISAS)
def test_int8_is_close_to_transformers_on_every_instruction_set(
    folder: Path, windows: list[Window], expected: Floats, isa: str
) -> None:
    backbone = NativeQwen3Backbone(Checkpoint(folder), isa=isa)
    assert backbone.name == f"qwen3-native-{isa}"
    assert cosines(backbone.encode(windows), expected).min() > 0.9995


@pytest.mark.slow
def test_8192_tokens_are_close_to_transformers(
    folder: Path, tokenizer: HubTokenizer, backbone: NativeQwen3Backbone
) -> None:
    long = "the force of gravity is a force that attracts 引力 " * 900
    windows = make_windows(tokenizer, [long, RECIPE.prompt("query") + long])
    assert [len(window.ids) for window in windows] == [8192, 8192]
    theirs = np.concatenate([encode_by_transformers(folder, [window]) for window in windows])
    assert cosines(backbone.encode(windows), theirs).min() > 0.9995


@pytest.mark.quick
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_window_keeps_its_bits(
    folder: Path, windows: list[Window], prefix: Prefix, isa: str, threads: int
) -> None:
    """Alone, in any batch and order, at any number of threads, with its instruction kept or computed."""
    whole = NativeQwen3Backbone(Checkpoint(folder), isa=isa, threads=1).encode(windows)
    backbone = NativeQwen3Backbone(Checkpoint(folder), isa=isa, threads=threads, prefix=prefix)
    order = np.random.default_rng(5).permutation(len(windows))
    for _ in range(2):  # instructions new, then kept
        assert backbone.encode([windows[i] for i in order]).tobytes() == whole[order].tobytes()
    alone = np.concatenate([backbone.encode([window]) for window in windows])
    assert alone.tobytes() == whole.tobytes()


def test_a_text_longer_than_a_piece_keeps_its_bits(folder: Path, tokenizer: HubTokenizer) -> None:
    long = make_windows(tokenizer, ["the force of gravity 引力 " * 600, "x", "gravity " * 90])
    assert len(long[0].ids) > 2048
    found = [NativeQwen3Backbone(Checkpoint(folder), threads=threads) for threads in (1, 3)]
    together = found[0].encode(long)
    assert together.tobytes() == found[1].encode(long).tobytes()
    assert together.tobytes() == np.concatenate([found[1].encode([one]) for one in long]).tobytes()


@pytest.mark.parametrize("length", [1, 6, 31, 63, 64, 65, 127, 128, 200])
def test_an_instruction_of_any_length_is_kept_exactly(folder: Path, length: int) -> None:
    first, marker = 700, 701
    random = np.random.default_rng(length)
    head = np.concatenate([[first], random.integers(2, 600, length - 1)])
    windows = []
    for size in (2, 30, 100):
        ids = np.concatenate([head, [marker], random.integers(2, 600, size)]).astype(np.int32)
        windows.append(Window(ids, np.eye(1, len(ids), len(ids) - 1, dtype=np.float32)[0]))
    backbone = NativeQwen3Backbone(Checkpoint(folder), prefix=(first, marker), threads=2)
    assert [cut_at(window, (first, marker)) for window in windows] == [length] * 3
    kept = backbone.encode(windows)
    assert kept.tobytes() == NativeQwen3Backbone(Checkpoint(folder), threads=2).encode(windows).tobytes()


def test_an_instruction_is_computed_once(
    backbone: NativeQwen3Backbone, tokenizer: HubTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    encode = backbone._decoder.encode

    def count(sequences: Any, **options: Any) -> Floats:
        rows.append(sum(len(ids) for ids, _ in sequences))
        return encode(sequences, **options)

    monkeypatch.setattr(backbone._decoder, "encode", count)
    windows = make_windows(tokenizer, [RECIPE.prompt("query", "Only here") + text for text in TEXTS])
    shared, total = cut_at(windows[0], backbone._prefix), sum(len(window.ids) for window in windows)
    assert shared > 5
    backbone.encode(windows)
    backbone.encode(windows[:1])
    assert rows == [shared, total - len(TEXTS) * shared, len(windows[0].ids) - shared]


def test_many_instructions_are_not_kept_for_ever(
    backbone: NativeQwen3Backbone, tokenizer: HubTokenizer
) -> None:
    texts = [RECIPE.prompt("query", f"Task {i}, described at some length") + "text" for i in range(90)]
    windows = make_windows(tokenizer, texts)
    together = backbone.encode(windows)
    positions = sum(
        values.size for values in backbone._instructions.values()
    ) // backbone._decoder.prefix_size(1)
    assert 0 < positions <= KEPT_POSITIONS
    assert together.tobytes() == backbone.encode(windows).tobytes()


def test_any_pooling_is_a_weighted_mean(backbone: NativeQwen3Backbone, windows: list[Window]) -> None:
    ids = windows[2].ids
    single = [
        backbone.encode([Window(ids, np.eye(1, len(ids), at, dtype=np.float32)[0])])[0] for at in (0, 3, 9)
    ]
    weights = np.zeros(len(ids), np.float32)
    weights[[0, 3, 9]] = [0.5, 1, 2.5]
    mean = (0.5 * single[0] + single[1] + 2.5 * single[2]) / 4
    np.testing.assert_allclose(backbone.encode([Window(ids, weights)])[0], mean, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_read_as_they_are_stored(
    folder: Path, tmp_path: Path, windows: list[Window], expected: Floats, dtype: str
) -> None:
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for path in folder.glob("*.safetensors"):
        tensors = safetensors_torch.load_file(path)
        halves = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}
        safetensors_torch.save_file(halves, tmp_path / path.name)
    found = NativeQwen3Backbone(Checkpoint(tmp_path)).encode(windows)
    assert cosines(found, expected).min() > 0.999


def inject_outliers(folder: Path, to: Path) -> Path:
    """Channels as trained decoders have them: states, gains and gated values far above the others'."""
    to.mkdir()
    for path in folder.glob("*.json"):
        (to / path.name).write_bytes(path.read_bytes())
    for path in folder.glob("*.safetensors"):
        tensors = safetensors_torch.load_file(path)
        for name, tensor in tensors.items():
            if name.endswith("embed_tokens.weight"):
                tensor[:, 5] *= 60  # a channel of the residual stream, in every token
            elif name.endswith("layernorm.weight"):
                tensor[[9, 200]] *= 15
            elif name.endswith("up_proj.weight"):
                tensor[[7, 90]] *= 80  # values that only the down projection sees
            elif name.endswith("down_proj.weight"):
                tensor[:, [7, 90]] /= 80
            elif name.endswith("k_norm.weight"):
                tensor[3] *= 4
        safetensors_torch.save_file(tensors, to / path.name)
    return to


def test_outlying_channels_are_kept_apart(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: HubTokenizer
) -> None:
    """With a scale a row alone, as in PyTorch's int8 here, the same checkpoint goes to pieces.

    This small random network magnifies errors: even fp32 over weights rounded to int8 stays at 0.998 or so.
    """
    root = tmp_path_factory.mktemp("outliers")
    sizes = {"hidden_size": 512, "intermediate_size": 1024, "head_dim": 64, "num_hidden_layers": 4}
    folder = inject_outliers(write_qwen3(root / "plain", **sizes), root / "outliers")
    windows = make_windows(tokenizer, TEXTS)
    theirs = np.concatenate([encode_by_transformers(folder, [window]) for window in windows])
    found = cosines(NativeQwen3Backbone(Checkpoint(folder)).encode(windows), theirs)
    scale_a_row = Qwen3Backbone(Checkpoint(folder), Runtime("cpu", "int8")).encode(windows)
    assert found.min() > 0.99
    assert 1 - found.mean() < (1 - cosines(scale_a_row, theirs).mean()) / 8


def test_pytorch_is_not_needed(folder: Path, windows: list[Window], backbone: NativeQwen3Backbone) -> None:
    program = f"""
import sys
sys.modules |= dict.fromkeys(("torch", "safetensors", "transformers"))
import numpy as np
from pathlib import Path
from embedserve.embedding.backbones.base import Window
from embedserve.embedding.backbones.native_qwen3 import NativeQwen3Backbone
from embedserve.embedding.checkpoint import Checkpoint
ids = np.array({windows[0].ids.tolist()}, np.int32)
window = Window(ids, np.eye(1, len(ids), len(ids) - 1, dtype=np.float32)[0])
print(NativeQwen3Backbone(Checkpoint(Path({str(folder)!r}))).encode([window]).tobytes().hex())
"""
    told = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    assert told.stdout.strip() == backbone.encode(windows[:1]).tobytes().hex()


def test_refuses_what_it_cannot_compute(backbone: NativeQwen3Backbone, windows: list[Window]) -> None:
    assert backbone.encode([]).shape == (0, 64)
    weights = np.ones(2, np.float32)
    with pytest.raises(ValueError, match="vocabulary"):
        backbone.encode([Window(np.array([1, 10**6], np.int32), weights)])
    with pytest.raises(ValueError, match="1 to 32768"):
        backbone.encode([windows[0], Window(np.zeros(0, np.int32), weights[:0])])


def test_damaged_and_foreign_checkpoints_are_refused_with_the_reason(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for shard in folder.glob("*.safetensors*"):
        (tmp_path / shard.name).write_bytes(shard.read_bytes())

    def write(**changes: Any) -> Checkpoint:
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
        return Checkpoint(tmp_path)

    with pytest.raises(ModelLoadError, match="not qwen3"):
        NativeQwen3Backbone(write(model_type="llama"))
    with pytest.raises(NativeUnavailable, match="down: expected 64 x 192 values, got 64 x 160"):
        NativeQwen3Backbone(write(intermediate_size=192))
    with pytest.raises(NativeUnavailable, match="multiples of 32"):
        NativeQwen3Backbone(write(head_dim=48))
    with pytest.raises(ModelLoadError, match=r"lack 'layers.3.self_attn"):
        NativeQwen3Backbone(write(num_hidden_layers=4))
    torn = sorted(tmp_path.glob("*.safetensors"))[0]
    torn.write_bytes(torn.read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match="pull the model again"):
        NativeQwen3Backbone(write())


def test_memory_is_predicted(folder: Path, backbone: NativeQwen3Backbone) -> None:
    assert predict_bytes(Checkpoint(folder)) > backbone.resident_bytes() / 2
