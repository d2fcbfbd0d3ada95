from pathlib import Path

import pytest
from tests.embedding import checkpoints

from embedserve.embedding.hub_tokenizer import HubTokenizer
from embedserve.errors import ModelLoadError

pytest.importorskip("tokenizers")

TEXTS = [
    "What is the capital of China?",
    "Instruct: Find it\nQuery:代码改变世界 e\u0301t\u00e9  \r\n\n done 123",
    "def f(x):\n    return x ** 2\t# 平方",
    "",
    "🙂🙃 नमस्ते مرحبا",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    checkpoints.write_qwen_tokenizer(folder)
    return folder


def test_the_end_token_is_last_and_single_also_after_truncation(folder: Path) -> None:
    tokenizer = HubTokenizer(folder, "<|endoftext|>")
    (end,) = tokenizer.end
    ids = tokenizer.encode("gravity is a force " * 40)
    for limit in (8, 20, len(ids), len(ids) + 1, len(ids) + 2):
        sequence, lost = tokenizer.wrap(ids, limit)
        assert sequence[-1] == end
        assert (sequence == end).sum() == 1
        assert len(sequence) == min(limit, len(ids) + 1)
        assert lost == max(0, len(ids) + 1 - limit)


def test_control_tokens_in_text_stay_text(folder: Path) -> None:
    tokenizer = HubTokenizer(folder, "<|endoftext|>")
    ids = tokenizer.encode("a <|endoftext|> b <|im_end|>")
    assert not tokenizer.special_ids & set(ids.tolist())


def test_batch_equals_single(folder: Path) -> None:
    tokenizer = HubTokenizer(folder, "<|endoftext|>")
    for text, ids in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        assert ids.tolist() == tokenizer.encode(text).tolist()


def test_a_template_is_read_where_the_recipe_names_no_end_token(folder: Path) -> None:
    tokenizer = HubTokenizer(folder)
    assert tokenizer.begin == ()
    assert len(tokenizer.end) == 1


def test_missing_files_name_the_remedy(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"no tokenizer\.json"):
        HubTokenizer(tmp_path)
    with pytest.raises(ModelLoadError, match="end token"):
        HubTokenizer(folder, "</nothing>")


@pytest.mark.slow
def test_the_full_vocabulary_gives_the_ids_of_the_published_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("tiktoken")
    dashscope = pytest.importorskip("dashscope")
    checkpoints.write_qwen_tokenizer(tmp_path, checkpoints.FULL_VOCABULARY)
    tokenizer = HubTokenizer(tmp_path, "<|endoftext|>")
    assert tokenizer.end == (151643,)
    published = dashscope.get_tokenizer("qwen-7b-chat")
    for text in TEXTS:
        assert tokenizer.encode(text).tolist() == published.encode(text)
