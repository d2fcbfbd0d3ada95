from pathlib import Path

import numpy as np
import pytest
from tests.embedding.checkpoints import write_encoder

from embedserve.embedding.backbones.base import Window
from embedserve.embedding.backbones.encoder import EncoderBackbone
from embedserve.embedding.backbones.native import NativeUnavailable, available_isas
from embedserve.embedding.backbones.native_encoder import open_native
from embedserve.embedding.backbones.torch_packing import Runtime
from embedserve.embedding.checkpoint import Checkpoint
from embedserve.embedding.hub_tokenizer import HubTokenizer
from embedserve.embedding.recipes import cut_and_normalise

pytest.importorskip("torch")
pytest.importorskip("transformers")
try:
    available_isas()
except NativeUnavailable as error:
    pytest.skip(str(error), allow_module_level=True)

TEXTS = ["what is the capital of China?", "重力 gravity", "the capital of china is beijing. " * 12, "x"]


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_int8_stays_close_to_fp32_and_keeps_its_bits(tmp_path: Path, family: str) -> None:
    folder = write_encoder(tmp_path, family=family, hidden_size=128, intermediate_size=256)
    tokenizer = HubTokenizer(folder)
    sequences = [tokenizer.wrap(tokenizer.encode(text), 512)[0] for text in TEXTS]
    windows = [Window(ids, np.ones(len(ids), np.float32)) for ids in sequences]
    native = open_native(Checkpoint(folder))
    full = EncoderBackbone(Checkpoint(folder), Runtime("cpu", "fp32")).encode(windows)
    found = native.encode(windows)
    assert native.window_size == 512
    assert (cut_and_normalise(found, 128) * cut_and_normalise(full, 128)).sum(axis=1).min() > 0.999
    alone = np.concatenate([native.encode([window]) for window in windows])
    assert alone.tobytes() == found.tobytes()
