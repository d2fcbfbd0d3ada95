"""The plain tokenizer against the `tokenizers` library and the rules of the vocabulary."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedserve.embedding.tokenizer import Normaliser, UnigramTokenizer
from embedserve.embedding.weights import BundledWeights

pytestmark = pytest.mark.quick

WEIGHTS = BundledWeights()
PLAIN = UnigramTokenizer(WEIGHTS)


SENTENCES = [
    "The quality of the clothes is excellent",
    "风急天高猿啸哀，渚清沙白鸟飞回",
    "吾輩は猫である。名前はまだ無い。",
    "Съешь же ещё этих мягких французских булок",
    "مرحبا بالعالم، كيف حالك؟",
    "สวัสดีชาวโลก วันนี้อากาศดี",
    "नमस्ते दुनिया",
    "def f(x): return {'a': [x**2 for _ in range(10)]}",
    "naïve café — “quotes” … ½ ﬁ Å ㎏ ＡＢＣ",
    "👩‍👩‍👧‍👦 🇩🇪 emoji 🎉🎉🎉",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U000e0041 ꙮ ꧁ unknown 𓀀𓀁𓀂 run",
]


@pytest.mark.parametrize("text", SENTENCES)
def test_segments_as_the_library_does(text: str, library) -> None:  # type: ignore[no-untyped-def]
    words = " ".join(word for word in Normaliser(WEIGHTS).words(text) if word)
    assert PLAIN.encode(text).tolist() == library.encode(words).ids


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_text_gives_ids_of_the_vocabulary_and_no_control_symbols(text: str) -> None:
    ids = PLAIN.encode(text)
    assert all(3 <= i < 250_002 for i in ids)
    assert 250_001 not in ids  # <mask>


def test_control_symbols_in_text_are_text() -> None:
    ids = PLAIN.encode("a </s> b <s> <mask>")
    assert not {0, 1, 2, 250_001} & set(ids.tolist())


def test_space_around_and_between_words_does_not_count() -> None:
    wanted = PLAIN.encode("hello world").tolist()
    for text in ("  hello \t world\n", "hello\u3000world", "hello\r\nworld", "\u2581hello\u2581world"):
        assert PLAIN.encode(text).tolist() == wanted


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\x00\x01", "\u3000"])
def test_nothing_visible_is_no_tokens(text: str) -> None:
    assert len(PLAIN.encode(text)) == 0


def test_composed_and_decomposed_text_are_one_text() -> None:
    text = "Crème brûlée, Việt Nam, ガギグ, 한국어"
    assert PLAIN.encode(unicodedata.normalize("NFD", text)).tolist() == PLAIN.encode(text).tolist()
