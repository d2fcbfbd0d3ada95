"""Checkpoints in the hub's real format, with random weights, made by the tests.

The Qwen tokenizer is built from the BPE ranks that the ``dashscope`` wheel ships; a small vocabulary of its
first ranks serves where the full one would only cost time.
"""

from __future__ import annotations

import base64
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
FULL_VOCABULARY = 151_643


def read_ranks(limit: int) -> list[bytes]:
    """The first ``limit`` pieces of Qwen's BPE, in order of rank."""
    spec = importlib.util.find_spec("dashscope")
    if spec is None or spec.origin is None:
        pytest.skip("the dashscope wheel, which ships Qwen's BPE ranks, is not installed")
    lines = (Path(spec.origin).parent / "resources" / "qwen.tiktoken").read_bytes().splitlines()
    return [base64.b64decode(line.split()[0]) for line in lines[:limit]]


def byte_letters() -> dict[int, str]:
    """GPT-2's way of writing bytes as printable letters."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in kept}
    for at, byte in enumerate(byte for byte in range(256) if byte not in table):
        table[byte] = chr(256 + at)
    return table


def find_merges(pieces: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The merge that makes each piece: the last one when only pieces of lower rank may merge."""
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    merges = []
    for rank, piece in enumerate(pieces):
        parts = [piece[at : at + 1] for at in range(len(piece))]
        while len(parts) > 2:
            costs = [(ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1)]
            cost, at = min(costs)
            if cost >= rank:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
    return merges


def write_qwen_tokenizer(folder: Path, vocabulary: int = 3000) -> int:
    """``tokenizer.json`` as Qwen3-Embedding's; returns the number of ids."""
    tokenizers = pytest.importorskip("tokenizers")
    pieces = read_ranks(vocabulary)
    letters = byte_letters()

    def spell(piece: bytes) -> str:
        return "".join(letters[byte] for byte in piece)

    model = tokenizers.models.BPE(
        vocab={spell(piece): rank for rank, piece in enumerate(pieces)},
        merges=[(spell(left), spell(right)) for left, right in find_merges(pieces)],
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in SPECIAL])
    end = tokenizer.token_to_id(SPECIAL[0])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", end)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    told = {
        "tokenizer_class": "Qwen2TokenizerFast",
        "pad_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "model_max_length": 131072,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return tokenizer.get_vocab_size()


TINY_QWEN3: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 32768,
    "rope_theta": 1_000_000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}


def write_qwen3(folder: Path, *, vocabulary: int = 3000, shard: str = "100GB", **shape: Any) -> Path:
    """A random Qwen3-Embedding checkpoint, weights and norms away from their trivial start."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder.mkdir(parents=True, exist_ok=True)
    size = write_qwen_tokenizer(folder, vocabulary)
    torch.manual_seed(11)
    model = transformers.Qwen3Model(transformers.Qwen3Config(**{**TINY_QWEN3, **shape}, vocab_size=size))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            else:
                parameter.mul_(2.0)
    model.save_pretrained(folder, max_shard_size=shard)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": model.config.hidden_size, "pooling_mode_lasttoken": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling | {"include_prompt": True}))
    prompts = {
        "prompts": {
            "query": "Instruct: Given a web search query, retrieve relevant passages that answer the query\n"
            "Query:",
            "document": "",
        },
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder
