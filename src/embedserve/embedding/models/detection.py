"""Which recipe a model folder wants, read from what the folder says; a guess is never made.

In this order: a file ``embedserve_recipe.json`` in the folder (fields of
:class:`~embedserve.embedding.recipes.Recipe`), the family by its marks, the folder's sentence-transformers
files.
"""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Any

from embedserve.embedding import recipes
from embedserve.embedding.checkpoint import Checkpoint
from embedserve.embedding.recipes import Golden, Pooling, Recipe
from embedserve.errors import ModelLoadError

OWN_RECIPE = "embedserve_recipe.json"
_POOLING_FLAGS = {
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_cls_token": Pooling.CLS,
    "pooling_mode_lasttoken": Pooling.LAST,
}

GOLDENS: dict[str, Golden] = {"qwen3-embedding-0.6b": recipes.QWEN3_GOLDEN, "bge-m3": recipes.BGE_M3_GOLDEN}
"""Last part of a hub id, lower case -> the scores its publisher printed."""


def detect_recipe(checkpoint: Checkpoint, model_id: str) -> Recipe:
    """The recipe of a folder.

    Args:
        checkpoint: the folder.
        model_id: the hub id it was pulled as, or the folder's name.

    Raises:
        ModelLoadError: nothing in the folder says how to use it, or two places disagree.
    """
    if stated := checkpoint.read_json(OWN_RECIPE):
        return _read_own(stated, checkpoint)
    size = int(checkpoint.setting("hidden_size"))
    name = model_id.rstrip("/").rpartition("/")[2].lower()
    pooling = _read_pooling(checkpoint)
    prompts: dict[str, str] = checkpoint.read_json("config_sentence_transformers.json").get("prompts", {})
    if checkpoint.model_type == "qwen3":
        limit = int(checkpoint.setting("max_position_embeddings"))
        recipe = recipes.qwen3_embedding(size, max_tokens=min(32_768, limit))
        if (stated_query := prompts.get("query")) and stated_query != recipe.query:
            recipe = replace(recipe, name="qwen3-fine-tune", query=stated_query, default_instruct=None)
    elif (checkpoint.folder / "sparse_linear.pt").is_file() or name == "bge-m3":
        recipe = recipes.bge_m3(size)
    elif re.search(r"(^|[-_])e5[-_].*instruct", name):
        recipe = recipes.e5_instruct(size)
    elif re.search(r"(^|[-_])e5[-_]", name):
        recipe = recipes.e5(size)
    elif pooling is not None:
        recipe = _read_generic(checkpoint, pooling, prompts, size)
    else:
        raise ModelLoadError(
            f"nothing in {checkpoint.folder} says how to pool its states: it needs 1_Pooling/config.json "
            f"(sentence-transformers) or {OWN_RECIPE} with at least name, pooling, native_size and max_tokens"
        )
    if pooling is not None and pooling is not recipe.pooling:
        raise ModelLoadError(
            f"{checkpoint.folder} says {pooling} pooling, the {recipe.name} recipe {recipe.pooling}: state "
            f"the right one in {OWN_RECIPE}"
        )
    return replace(recipe, golden=GOLDENS.get(name))


def name_recipe(name: str, size: int) -> Recipe:
    """The recipe for a model known by name and size only (a remote engine's).

    An unknown name gets no prompts and its own size: whoever runs that engine knows better.
    """
    last = name.rstrip("/").rpartition("/")[2].lower()
    if "qwen3-embedding" in last:
        recipe = recipes.qwen3_embedding(size)
    elif "bge-m3" in last:
        recipe = replace(recipes.bge_m3(size), sparse="lexical")
    elif re.search(r"(^|[-_])e5([-_].*)?instruct", last):
        recipe = recipes.e5_instruct(size)
    elif re.search(r"(^|[-_])e5([-_]|$)", last):
        recipe = recipes.e5(size)
    else:
        recipe = Recipe(name="remote", pooling=Pooling.MEAN, native_size=size, max_tokens=8192)
    return replace(recipe, golden=GOLDENS.get(last))


def _read_own(stated: dict[str, Any], checkpoint: Checkpoint) -> Recipe:
    known = {field.name for field in fields(Recipe)}
    if unknown := sorted(set(stated) - known):
        raise ModelLoadError(
            f"{checkpoint.folder / OWN_RECIPE} has unknown fields {unknown}: known are {sorted(known)}"
        )
    try:
        values = {**stated, "pooling": Pooling(stated["pooling"]), "sizes": tuple(stated.get("sizes", ()))}
        if golden := stated.get("golden"):
            values["golden"] = Golden(
                tuple(golden["queries"]),
                tuple(golden["documents"]),
                tuple(map(tuple, golden["scores"])),
                float(golden.get("tolerance", 0.01)),
                str(golden.get("source", OWN_RECIPE)),
            )
        return Recipe(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelLoadError(
            f"{checkpoint.folder / OWN_RECIPE} is not a recipe ({error!r}): it needs name, pooling "
            "(mean, cls or last), native_size and max_tokens"
        ) from error


def _read_pooling(checkpoint: Checkpoint) -> Pooling | None:
    """What the folder's sentence-transformers modules say; None for a folder without them."""
    modules = checkpoint.read_json("modules.json")
    if not modules:
        return None
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    if unknown := [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]:
        raise ModelLoadError(
            f"{checkpoint.folder} runs its vectors through {', '.join(unknown)}, which is not supported: "
            "serve it by a remote engine instead"
        )
    path = next(
        (module["path"] for module, kind in zip(modules, kinds, strict=True) if kind == "Pooling"), ""
    )
    stated = checkpoint.read_json(f"{path}/config.json", required=True)
    if mode := stated.get("pooling_mode"):  # one word since sentence-transformers 5.5
        modes = {"mean": Pooling.MEAN, "cls": Pooling.CLS, "lasttoken": Pooling.LAST}
        found = [modes[mode]] if mode in modes else []
    else:
        found = [pooling for flag, pooling in _POOLING_FLAGS.items() if stated.get(flag)]
    other = [key for key, on in stated.items() if key.startswith("pooling_mode_") and on is True]
    if len(found) != 1 or set(other) - set(_POOLING_FLAGS):
        raise ModelLoadError(
            f"{checkpoint.folder / path} asks for a pooling other than mean, cls or lasttoken: serve it by a "
            "remote engine instead"
        )
    return found[0]


def _read_generic(checkpoint: Checkpoint, pooling: Pooling, prompts: dict[str, str], size: int) -> Recipe:
    default = checkpoint.read_json("config_sentence_transformers.json").get("default_prompt_name")
    limit = checkpoint.read_json("sentence_bert_config.json").get("max_seq_length")
    positions = int(checkpoint.setting("max_position_embeddings"))
    offset = checkpoint.model_type in ("roberta", "xlm-roberta", "camembert")
    return Recipe(
        name="sentence-transformers",
        pooling=pooling,
        native_size=size,
        max_tokens=int(limit or positions - 2 * offset),
        query=recipes.read_prompts(prompts, ["query", "search_query", "retrieval.query"]),
        document=recipes.read_prompts(
            prompts, ["document", "passage", "search_document", "retrieval.passage"]
        ),
        unspecified=prompts.get(default or "", ""),
        positions="absolute-offset" if offset else "absolute",
    )
