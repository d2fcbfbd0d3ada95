"""The native tokenizer against the same vocabulary in Hugging Face's `tokenizers`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedserve.embedding.backbones.native import NativeTokenizer, NativeUnavailable
from embedserve.embedding.tokenizer import Normaliser
from embedserve.embedding.weights import BundledWeights

tokenizers = pytest.importorskip("tokenizers")

SENTENCES = [
    "query: Where can I return a parcel, and until when?",
    "passage: Das Paket dürfen Sie 30 Tage lang kostenlos zurückschicken; größere holen wir ab.",
    "Où puis-je déposer le colis qu'on m'a livré hier ?",
    "¿Dónde se devuelve un paquete? ¡Aquí mismo!",
    "Onde devolvo a encomenda? Não sei, talvez amanhã.",
    "Dove posso restituire il pacco? Perché è già aperto.",
    "Waar kan ik dit pakket terugbrengen?",
    "Gdzie mogę oddać paczkę, która przyszła wczoraj? Źle zaadresowana.",
    "Kde můžu vrátit balík? Příliš žluťoučký kůň.",
    "Hol adhatom vissza a csomagot? Őszintén szólva nem tudom.",
    "Paketi nereye iade edebilirim? Iğdır'a mı, İzmir'e mi?",
    "Var kan jag lämna tillbaka paketet? På måndag.",
    "Missä voin palauttaa pakettini, joka saapui eilen?",
    "Unde pot returna coletul? Mâine, în oraș.",
    "Ở đâu tôi có thể trả lại gói hàng này?",
    "Di mana saya bisa mengembalikan paket ini?",
    "Где можно вернуть посылку, пришедшую вчера? Ещё не знаю.",
    "Де можна повернути посилку? Її привезли вчора.",
    "Къде мога да върна пратката?",
    "Πού μπορώ να επιστρέψω το δέμα;",
    "איפה אפשר להחזיר את החבילה?",
    "أين يمكنني إعادة الطرد الذي وصل أمس؟",
    "کجا می‌توانم بسته را پس بدهم؟",
    "मैं यह पार्सल कहाँ लौटा सकता हूँ?",
    "আমি পার্সেলটি কোথায় ফেরত দিতে পারি?",
    "இந்தப் பொதியை எங்கே திருப்பித் தருவது?",
    "ฉันจะคืนพัสดุได้ที่ไหน",
    "包裹可以在哪里退？请在三十天之内寄回。",
    "包裹可以在哪裡退？請於三十天內寄回。",
    "荷物はどこで返品できますか。カタカナとｶﾀｶﾅも。",
    "소포는 어디에서 반품할 수 있나요?",
    "SELECT id, name FROM parcels WHERE returned_at >= '2024-01-01' -- 42%",
    "for (int i = 0; i < n; ++i) { total += x[i] * 0x7f; }  // naïve",
    "ＦＵＬＬ ｗｉｄｔｈ １２３, ½ ﬁnal ㎏ Å …",
    "👩‍👩‍👧‍👦 🇩🇪 🎉🎉🎉 ok",
]


@pytest.fixture(scope="module")
def weights() -> BundledWeights:
    return BundledWeights()


@pytest.fixture(scope="module")
def native(weights: BundledWeights) -> NativeTokenizer:
    try:
        return NativeTokenizer(weights)
    except NativeUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("text", SENTENCES)
def test_same_ids_in_every_language(text: str, native: NativeTokenizer, library: Any) -> None:
    """From the text on: the library normalises by itself (NFKC is what the vocabulary's rules are here)."""
    composed = tokenizers.normalizers.NFKC().normalize_str(text)
    # Of these texts' characters the rules treat two unlike NFKC: joiners become spaces.
    spaced = " ".join(composed.replace("\u200c", " ").replace("\u200d", " ").split())
    assert native.encode(text).tolist() == library.encode(spaced).ids


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60))
def test_same_ids_for_any_words(
    text: str, weights: BundledWeights, native: NativeTokenizer, library: Any
) -> None:
    """Any text, once it is cut into words by the rules of the vocabulary."""
    words = " ".join(word for word in Normaliser(weights).words(text) if word)
    assert native.encode(text).tolist() == library.encode(words).ids


@pytest.mark.parametrize("token", [-1, 250_002, 10**9])
def test_no_piece_outside_the_vocabulary(
    token: int, native: NativeTokenizer, weights: BundledWeights
) -> None:
    assert native.piece(weights.n_pieces - 1) == "<mask>"
    with pytest.raises(IndexError, match=f"{token}.*0 to "):
        native.piece(token)
