"""Odd texts through the whole pipeline: every vector finite, of unit length, and the same whenever asked."""

import unicodedata

import numpy as np
import pytest

from embedserve import Embedder, EmbedserveError

ODD = {
    "one letter": "a",
    "one ideograph": "风",
    "one emoji": "🙂",
    "emoji with joiners": "👩‍👩‍👧‍👦🏳️‍🌈",
    "mixed scripts": "Привет 世界 hello مرحبا שלום नमस्ते สวัสดี",
    "right to left marks": "\u202eabc\u202c",
    "control characters": "a\x00b\x07c\x1b[31md\u200b",
    "lone surrogate": "a\ud800b",
    "private use": "\ue000\uf8ff",
    "combining marks": "Z̴̡̛͉̹̺a̵̦̖l̶̗̈́g̷̢̛o̴̧͝",
    "one word many times": "word " * 2000,
    "one letter many times": "a" * 5000,
    "punctuation": "?!…—",
    "unseen script": "𒀀𒁀𒂀",
    "new lines": "\n\ta\r\n\n b\u2028c",
}


@pytest.fixture(scope="module")
def embedder():
    with_engine = Embedder()
    yield with_engine
    with_engine.close()


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("text_type", ["query", "document"])
def test_odd_texts_give_finite_unit_vectors(embedder, name, text_type):
    for dimension in (64, 1024, 2048):
        vectors = embedder.embed(
            ODD[name], text_type=text_type, dimension=dimension, output_type="dense&sparse"
        )
        assert np.isfinite(vectors.dense).all()
        assert np.linalg.norm(vectors.dense) == pytest.approx(1, abs=1e-5)
        assert (vectors.sparse[0].values > 0).all()


@pytest.mark.parametrize(
    "text", ["Crème brûlée à la française", "ぱーてぃー がぎぐ", "Việt Nam", "한국어 문장"]
)
def test_composed_and_decomposed_text_are_the_same_text(embedder, text):
    left, right = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    vectors = embedder.embed([left, right], output_type="dense&sparse")
    assert np.array_equal(vectors.dense[0], vectors.dense[1])
    assert np.array_equal(vectors.sparse[0].indices, vectors.sparse[1].indices)


def test_white_space_around_and_between_words_changes_nothing(embedder):
    vectors = embedder.embed(["how to reset a password", "  how to\treset \n a  password "]).dense
    assert np.array_equal(vectors[0], vectors[1])


def test_case_changes_little(embedder):
    text = "how do i renew my passport in berlin"
    other = "where can i buy fresh bread on sundays"
    vectors = embedder.embed([text, text.upper(), text.title(), other]).dense
    assert (vectors[1:3] @ vectors[0]).min() > vectors[3] @ vectors[0] + 0.2


@pytest.mark.parametrize("text", ["", "   ", "\x00\u200b"])
def test_text_without_a_visible_character_is_refused(embedder, text):
    with pytest.raises(EmbedserveError):
        embedder.embed(text)


def test_an_instruction_moves_the_query_towards_what_it_asks_for(embedder):
    query = "The weather is beautiful today and we are going to the beach."
    documents = embedder.embed(
        ["Das Wetter ist heute schön und wir gehen an den Strand.", "今天天气很好，我们要去海滩。"],
        text_type="document",
    ).dense
    gaps = []
    for language in ("German", "Chinese"):
        instruct = f"Retrieve the {language} translation of the sentence"
        asked = embedder.embed(query, text_type="query", instruct=instruct).dense[0]
        german, chinese = documents @ asked
        gaps.append(german - chinese)
    assert gaps[0] > gaps[1]


def test_documents_ignore_instructions(embedder):
    with_one = embedder.embed("a text", text_type="document", instruct="anything").dense
    assert np.array_equal(with_one, embedder.embed("a text", text_type="document").dense)
