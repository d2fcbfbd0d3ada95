"""Writes the bundled weights as a folder in the hub's format, so that other servers run the same model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from embedserve.embedding.weights import BundledWeights

LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "aln": "attention.output.LayerNorm",
    "oln": "output.LayerNorm",
}


def write_folder(folder: Path) -> None:
    """config.json, model.safetensors, tokenizer and the sentence-transformers modules."""
    weights = BundledWeights()
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "model.safetensors", read_tensors(weights))
    write_tokenizer(folder, weights)
    files: dict[str, object] = {
        "config.json": {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "vocab_size": weights.vocabulary_size,
            "hidden_size": weights.hidden_size,
            "num_hidden_layers": weights.layers,
            "num_attention_heads": weights.heads,
            "intermediate_size": weights.ffn_size,
            "hidden_act": "gelu",
            "max_position_embeddings": weights.positions,
            "type_vocab_size": 2,
            "layer_norm_eps": weights.layer_norm_eps,
            "pad_token_id": 1,
            "torch_dtype": "float32",
        },
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": weights.hidden_size,
            "pooling_mode_mean_tokens": True,
        },
        "sentence_bert_config.json": {"max_seq_length": weights.positions, "do_lower_case": False},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


def read_tensors(weights: BundledWeights) -> dict[str, np.ndarray]:
    hidden, ffn = weights.hidden_size, weights.ffn_size
    tensors = {
        "embeddings.word_embeddings.weight": weights.q4_rows("emb.word", hidden),
        "embeddings.position_embeddings.weight": weights.fp32("emb.pos", -1, hidden),
        "embeddings.token_type_embeddings.weight": weights.fp32("emb.type", -1, hidden),
        "embeddings.LayerNorm.weight": weights.fp32("emb.ln.w", -1),
        "embeddings.LayerNorm.bias": weights.fp32("emb.ln.b", -1),
    }
    for layer in range(weights.layers):
        for short, long in LAYER.items():
            source, target = f"l{layer}.{short}", f"encoder.layer.{layer}.{long}"
            matrix = not short.endswith("ln")
            columns = ffn if short == "fo" else hidden
            tensors[f"{target}.weight"] = (
                weights.q4_rows(f"{source}.w", columns) if matrix else weights.fp32(f"{source}.w", -1)
            )
            tensors[f"{target}.bias"] = weights.fp32(f"{source}.b", -1)
    return tensors


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """The safetensors format: length, JSON header, raw little-endian data."""
    header, at = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    head = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor, "<f4").tobytes())


def write_tokenizer(folder: Path, weights: BundledWeights) -> None:
    """The Unigram vocabulary; NFKC stands for the exact normal forms, which is close enough for timing."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": piece, "special": True}
            | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            for i, piece in enumerate(special)
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFKC"},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            ],
        },
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {
                piece: {"id": piece, "ids": [i], "tokens": [piece]} for i, piece in ((0, "<s>"), (2, "</s>"))
            },
        },
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "model": {
            "type": "Unigram",
            "unk_id": 3,
            "vocab": list(zip(weights.pieces, weights.piece_scores.tolist(), strict=True)),
            "byte_fallback": False,
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), special, strict=True))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": weights.positions, **names}
    config |= {"cls_token": "<s>", "sep_token": "</s>", "model_input_names": ["input_ids", "attention_mask"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    write_folder(Path(sys.argv[1]))
