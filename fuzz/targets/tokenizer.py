"""Any text: the native tokenizer's ids are the plain one's."""

from __future__ import annotations

from embedserve.embedding.backbones.native import NativeTokenizer, NativeUnavailable
from embedserve.embedding.text import normalise
from embedserve.embedding.tokenizer import UnigramTokenizer
from embedserve.embedding.weights import BundledWeights

SEEDS = [
    text.encode("utf-8", "surrogatepass")
    for text in (
        "The quality of the clothes is excellent",
        "衣服的质量杠杠的，很漂亮",
        "▁▁ \u0301e\u0301 ﬁ ½ ㎏ \u200b\u00ad\ufeff",
        "a\x00b\tc\r\nd  e\u3000f",
        "\ud83d\ude00 \ud800 🙂🏽 👩‍👩‍👧",
        "가각ᄀ",
        "</s><unk><pad><mask>",
        "x" * 300,
    )
]
_weights = BundledWeights()
_plain = UnigramTokenizer(_weights)
try:
    _native: NativeTokenizer | None = NativeTokenizer(_weights)
except NativeUnavailable:
    _native = None


def check(data: bytes) -> None:
    given = data.decode("utf-8", "surrogatepass") if is_text(data) else data.decode("latin-1")
    text = normalise(given)
    expected = _plain.encode(text).tolist()
    if _native is None:
        return
    assert _native.encode(text).tolist() == expected
    halves = [text[: len(text) // 2], text, "", text[len(text) // 2 :]]
    for half, ids in zip(halves, _native.encode_batch(halves), strict=True):
        assert ids.tolist() == _plain.encode(half).tolist()


def is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True
