import numpy as np
import pytest

from embedserve.embedding import recipes
from embedserve.errors import EmbedserveError

pytestmark = pytest.mark.quick


def test_qwen3_prompt_has_no_space_after_query() -> None:
    recipe = recipes.qwen3_embedding(1024)
    assert recipe.prompt("query") == (
        "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
    )
    assert recipe.prompt("query", "Find the bug") == "Instruct: Find the bug\nQuery:"
    assert recipe.prompt("document", "Find the bug") == ""
    assert recipe.prompt(None) == ""
    assert recipe.prompt(None, "Find the bug") == "Instruct: Find the bug\nQuery:"


def test_braces_in_an_instruction_stay_as_they_are() -> None:
    assert (
        recipes.qwen3_embedding(1024).prompt("query", "{x} {instruct}") == "Instruct: {x} {instruct}\nQuery:"
    )


def test_e5_prompts() -> None:
    recipe = recipes.e5(384)
    assert [recipe.prompt(role) for role in ("query", "document", None)] == [
        "query: ",
        "passage: ",
        "query: ",
    ]
    assert recipes.e5_instruct().prompt("query", "X") == "Instruct: X\nQuery: "
    assert recipes.bge_m3().prompt("query", "X") == ""


@pytest.mark.parametrize("size", [32, 33, 64, 1000, 1024])
def test_matryoshka_takes_any_size_from_32(size: int) -> None:
    recipes.qwen3_embedding(1024).check_dimension(size)


@pytest.mark.parametrize("size", [31, 0, -1, 1025, 2048])
def test_other_sizes_are_refused_naming_value_limit_and_remedy(size: int) -> None:
    with pytest.raises(EmbedserveError) as caught:
        recipes.qwen3_embedding(1024).check_dimension(size)
    assert caught.value.status == 400
    assert caught.value.code == "InvalidParameter"
    assert str(size) in caught.value.message
    assert "[32, 1024]" in caught.value.message
    assert ("Qwen3-Embedding-4B" in caught.value.message) == (size > 1024)


def test_a_model_without_matryoshka_gives_its_own_size_only() -> None:
    recipes.e5(384).check_dimension(384)
    with pytest.raises(EmbedserveError, match=r"\[384\]"):
        recipes.e5(384).check_dimension(256)


def test_pool_weights() -> None:
    assert recipes.qwen3_embedding(8).pool_weights(3).tolist() == [0, 0, 1]
    assert recipes.bge_m3().pool_weights(3).tolist() == [1, 0, 0]
    assert recipes.e5(8).pool_weights(3).tolist() == [1, 1, 1]


def test_cut_comes_before_normalising_and_zero_stays_zero() -> None:
    rows = np.array([[3, 4, 12], [0, 0, 5]], np.float32)
    unit = recipes.cut_and_normalise(rows, 2)
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0, 0]], atol=1e-7)


def test_fingerprint_follows_what_changes_vectors() -> None:
    base = recipes.qwen3_embedding(1024)
    assert base.fingerprint("w") == recipes.qwen3_embedding(1024).fingerprint("w")
    assert base.fingerprint("w") != base.fingerprint("v")
    assert base.fingerprint("w") != recipes.qwen3_embedding(1024, max_tokens=512).fingerprint("w")


def test_golden_scores_are_compared() -> None:
    golden = recipes.Golden(("q",), ("d", "e"), ((1.0, 0.0),), 0.01, "made up")
    eye = np.eye(2, dtype=np.float32)
    assert recipes.check_golden(golden, eye[:1], eye) == 0
    assert recipes.check_golden(golden, eye[1:], eye) == 1
