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
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
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


WORDS = "the of capital china beijing is what a query passage gravity force attracts bodies"
PIECES = [*WORDS.split(), *"重力引"]


def write_unigram_tokenizer(folder: Path) -> int:
    """A small XLM-RoBERTa ``tokenizer.json``: <s> pad </s> <unk>, Unigram pieces, <mask>."""
    tokenizers = pytest.importorskip("tokenizers")
    letters = [chr(code) for code in range(33, 127)] + list("éüßœ你好世界")
    words = [f"▁{word}" for word in PIECES] + [*PIECES[14:], "▁", *letters]
    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    seen = {word: None for word in words}
    vocabulary += [(word, -2.0 - at / 50) for at, word in enumerate(seen)]
    vocabulary += [("<mask>", 0.0)]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=3))
    tokenizer.normalizer = tokenizers.normalizers.NFKC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = tokenizers.decoders.Metaspace(replacement="▁", prepend_scheme="always")
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in special])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return len(vocabulary)


def write_encoder(
    folder: Path,
    *,
    family: str = "xlm-roberta",
    pooling: str = "mean",
    prompts: dict[str, str] | None = None,
    sparse_head: bool = False,
    legacy: bool = False,
    **shape: Any,
) -> Path:
    """A random sentence-transformers folder: BERT or XLM-R, pooling, normalise, optional prompts."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder.mkdir(parents=True, exist_ok=True)
    size = write_unigram_tokenizer(folder)
    torch.manual_seed(13)
    told = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 514 if family != "bert" else 512,
        "pad_token_id": 1,
        "type_vocab_size": 1 if family != "bert" else 2,
        "layer_norm_eps": 1e-5 if family != "bert" else 1e-12,
        **shape,
    }
    config_class, model_class = {
        "bert": (transformers.BertConfig, transformers.BertModel),
        "xlm-roberta": (transformers.XLMRobertaConfig, transformers.XLMRobertaModel),
    }[family]
    model = model_class(config_class(**told, vocab_size=size))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.1 if "bias" in name else 0.15))
            if "LayerNorm.weight" in name:
                parameter.add_(1)
    model.save_pretrained(folder)
    if legacy:  # as bge-m3 is published
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    modules = ["Transformer", "Pooling", "Normalize"]
    paths = ["", "1_Pooling", "2_Normalize"]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(modules, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
    pooled = {"word_embedding_dimension": told["hidden_size"], **dict.fromkeys(modes.values(), False)}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooled | {modes[pooling]: True}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 512}))
    if prompts:
        stated = {"prompts": prompts, "default_prompt_name": None}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(stated))
    if sparse_head:
        head = {"weight": torch.randn(1, told["hidden_size"]) * 0.2, "bias": torch.tensor([0.05])}
        torch.save(head, folder / "sparse_linear.pt")
    return folder
