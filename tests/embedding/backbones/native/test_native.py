"""The native encoder and tokenizer against the plain ones, and the promise of bit-equal vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedserve.embedding.backbones.base import Floats, Window
from embedserve.embedding.backbones.native import (
    NativeBackbone,
    NativeTokenizer,
    NativeUnavailable,
    available_isas,
)
from embedserve.embedding.backbones.native.library import ISAS, load_library
from embedserve.embedding.backbones.reference import ReferenceBackbone
from embedserve.embedding.tokenizer import UnigramTokenizer
from embedserve.embedding.weights import BundledWeights

TEXTS = [
    "query: how do I return a parcel?",
    "passage: Die Lieferung kann innerhalb von 30 Tagen kostenlos zurückgeschickt werden.",
    "query: 退货需要多长时间",
    "passage: このカメラは暗い場所でもきれいに撮れます。",
    "query: что такое обучение с подкреплением",
    "passage: المدينة القديمة مدرجة في قائمة التراث العالمي",
    "query: x",
    "passage: " + "Rivers carry silt to the sea, where currents sort it by size. " * 20,
]


@pytest.fixture(scope="session", autouse=True)
def core() -> None:
    try:
        load_library()
    except NativeUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def weights() -> BundledWeights:
    return BundledWeights()


@pytest.fixture(scope="session")
def tokenizer(weights: BundledWeights) -> NativeTokenizer:
    return NativeTokenizer(weights)


@pytest.fixture(scope="session")
def backbones(weights: BundledWeights) -> dict[int, NativeBackbone]:
    """By number of threads."""
    return {threads: NativeBackbone.from_bundled(weights, threads=threads) for threads in (1, 2, 3)}


@pytest.fixture(scope="session")
def windows(tokenizer: NativeTokenizer) -> list[Window]:
    bodies = tokenizer.encode_batch(TEXTS)
    ids = [np.concatenate([[0], body[:510], [2]]).astype(np.int32) for body in bodies]
    return [Window(i, np.ones(len(i), np.float32)) for i in ids]


@pytest.fixture(scope="session")
def expected(weights: BundledWeights, windows: list[Window]) -> Floats:
    return ReferenceBackbone(weights).encode(windows)


def cosines(a: Floats, b: Floats) -> Floats:
    products: Floats = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return products


@pytest.mark.quick
@pytest.mark.parametrize("isa", ISAS)
def test_close_to_fp32(isa: str, weights: BundledWeights, windows: list[Window], expected: Floats) -> None:
    if isa not in available_isas():
        pytest.skip(f"this CPU has no {isa}")
    backbone = NativeBackbone.from_bundled(weights, isa=isa, threads=2)
    chosen = slice(0, 7) if isa == "scalar" else slice(None)
    found = cosines(backbone.encode(windows[chosen]), expected[chosen])
    assert backbone.name == f"native-{isa}"
    assert found.mean() >= 0.9993
    assert found.min() >= 0.998


@pytest.mark.quick
def test_vector_does_not_depend_on_batch_or_threads(
    backbones: dict[int, NativeBackbone], windows: list[Window]
) -> None:
    alone = np.concatenate([backbones[1].encode([window]) for window in windows])
    for backbone in backbones.values():
        np.testing.assert_array_equal(backbone.encode(windows), alone)
        np.testing.assert_array_equal(backbone.encode(windows[::-1])[::-1], alone)
        for i in (0, 6, 7):
            np.testing.assert_array_equal(backbone.encode([windows[i]]), alone[i : i + 1])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=14), data=st.data())
def test_bit_equal_for_any_split(
    backbones: dict[int, NativeBackbone], lengths: list[int], data: st.DataObject
) -> None:
    random = np.random.default_rng(sum(lengths))
    batch = [
        Window(random.integers(4, 250_000, n).astype(np.int32), random.random(n).astype(np.float32) + 0.01)
        for n in lengths
    ]
    threads = data.draw(st.sampled_from([1, 2, 3]))
    order = data.draw(st.permutations(range(len(batch))))
    together = backbones[threads].encode([batch[i] for i in order])
    for place, i in enumerate(order):
        np.testing.assert_array_equal(together[place], backbones[1].encode([batch[i]])[0])


def test_pooling_weights_choose_tokens(
    backbones: dict[int, NativeBackbone], weights: BundledWeights, windows: list[Window]
) -> None:
    ids = windows[0].ids
    states = ReferenceBackbone(weights).hidden_states(ids)
    for token in (0, len(ids) - 1):
        only = np.zeros(len(ids), np.float32)
        only[token] = 2.0
        found = backbones[1].encode([Window(ids, only)])
        assert cosines(found, states[token : token + 1])[0] > 0.995


def test_refuses_what_the_model_cannot_take(backbones: dict[int, NativeBackbone]) -> None:
    backbone = backbones[1]
    ones = np.ones(600, np.float32)
    with pytest.raises(ValueError, match="1 to 512"):
        backbone.encode([Window(np.zeros(600, np.int32), ones)])
    with pytest.raises(ValueError, match="1 to 512"):
        backbone.encode([Window(np.zeros(0, np.int32), ones[:0])])
    with pytest.raises(ValueError, match="vocabulary"):
        backbone.encode([Window(np.array([300_000], np.int32), ones[:1])])
    assert backbone.encode([]).shape == (0, 384)


def test_unknown_instruction_set_is_named(weights: BundledWeights) -> None:
    with pytest.raises(NativeUnavailable, match="mmx"):
        NativeBackbone.from_bundled(weights, isa="mmx")


ODD = [
    "",
    " ",
    "\n\t  \u3000",
    "a",
    "</s>",
    "<s> </s> <pad> <unk> <mask>",
    "query:</s>query",
    "\x00\x01\x7f",
    "e\u0301 é",
    "▁▁ ▁a",
    "ﬁ ２ Ⅳ ㎞",
    "👩‍👩‍👧‍👦🏳️‍🌈🇨🇳",
    "𓀀𓀁 ꙮ ﷽",
    "a" * 3000,
    "文" * 3000,
    "\u200b\u200d\ufeff\u00ad",
    "   leading and   inner  ",
    "x\u2028y\u2029z\u0085w",
    "𠮷野家 𪜀",
]


def test_tokenizer_equals_the_plain_one(weights: BundledWeights, tokenizer: NativeTokenizer) -> None:
    plain = UnigramTokenizer(weights)
    texts = ODD + TEXTS
    for text, native in zip(texts, tokenizer.encode_batch(texts), strict=True):
        np.testing.assert_array_equal(native, plain.encode(text), err_msg=repr(text[:40]))
        np.testing.assert_array_equal(native, tokenizer.encode(text))
    assert [tokenizer.piece(i) for i in range(0, 250_000, 997)] == [
        plain.piece(i) for i in range(0, 250_000, 997)
    ]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=80))
def test_tokenizer_equals_the_plain_one_on_any_text(
    text: str, plain_tokenizer: UnigramTokenizer, tokenizer: NativeTokenizer
) -> None:
    np.testing.assert_array_equal(tokenizer.encode(text), plain_tokenizer.encode(text))


@pytest.fixture(scope="session")
def plain_tokenizer(weights: BundledWeights) -> UnigramTokenizer:
    return UnigramTokenizer(weights)
