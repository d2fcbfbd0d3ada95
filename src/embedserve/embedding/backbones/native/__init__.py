"""The encoder and the tokenizer in C++; README.md shows how the parts fit together."""

from embedserve.embedding.backbones.native.backbone import NativeBackbone, usable_cores
from embedserve.embedding.backbones.native.library import NativeUnavailable, available_isas
from embedserve.embedding.backbones.native.tokenizer import NativeTokenizer

__all__ = ["NativeBackbone", "NativeTokenizer", "NativeUnavailable", "available_isas", "usable_cores"]
