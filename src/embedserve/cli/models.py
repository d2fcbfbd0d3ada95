"""``embedserve models``: bring, look at, prove and delete models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from embedserve.configuration import read_settings
from embedserve.errors import ModelLoadError

app = typer.Typer(no_args_is_help=True, help="Models besides the bundled one.")

DataDir = Annotated[Path | None, typer.Option(help="Where models are kept; default: the user's data folder.")]


def open_store(data_dir: Path | None) -> Any:
    from embedserve.embedding.models.store import ModelStore

    return ModelStore(read_settings(data_dir=data_dir).data_dir / "models")


@app.command()
def pull(
    reference: Annotated[str, typer.Argument(help="Hub id (owner/name) or a local folder.")],
    source: Annotated[str, typer.Option(help="auto, huggingface, modelscope or folder.")] = "auto",
    name: Annotated[str | None, typer.Option(help="Id to keep it under.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Bring a model here; a broken-off pull goes on where it stopped."""
    store = open_store(data_dir)
    manifest = store.pull(
        reference,
        source=source,
        name=name,
        revision=revision,
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(f"{manifest.id}  {len(manifest.files)} files, {manifest.size / 2**20:,.0f} MiB")
    print(f"Serve it:  embedserve serve --model text-embedding-v4={manifest.id}", file=sys.stderr)


@app.command("list")
def list_models(data_dir: DataDir = None) -> None:
    """What was pulled."""
    print("bundled  multilingual-e5-small, inside the package")
    for manifest in open_store(data_dir).all():
        print(f"{manifest.id}  {manifest.size / 2**20:,.0f} MiB  {manifest.pulled}  {manifest.source}")


@app.command()
def show(model: Annotated[str, typer.Argument(help="Id.")], data_dir: DataDir = None) -> None:
    """Recipe, origin and files of a pulled model."""
    from embedserve.embedding.checkpoint import Checkpoint
    from embedserve.embedding.models.detection import detect_recipe

    store = open_store(data_dir)
    folder, model_id, manifest = store.find(model)
    recipe = detect_recipe(Checkpoint(folder), model_id)
    print(f"{model_id}\n  folder: {folder}")
    if manifest:
        print(f"  source: {manifest.source} {manifest.revision}\n  pulled: {manifest.pulled}")
    for key, value in recipe.describe().items():
        if key != "golden":
            print(f"  {key}: {value!r}")
    print(f"  golden scores: {recipe.golden.source if recipe.golden else 'none published'}")
    for name, file in (manifest.files if manifest else {}).items():
        print(f"  {file.sha256[:16]}  {file.size:>13,}  {name}")


@app.command()
def verify(
    model: Annotated[str, typer.Argument(help="Id.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or int8.")] = "auto",
    data_dir: DataDir = None,
) -> None:
    """Compare a pulled model's bytes with its manifest, load it, check its golden scores."""
    from embedserve.embedding.backbones.bundled import open_bundled
    from embedserve.embedding.backbones.torch_packing import Runtime
    from embedserve.embedding.models.opening import Shared, verify
    from embedserve.embedding.sparse import LexicalWeights

    if precision not in ("auto", "fp32", "bf16", "int8"):
        raise ModelLoadError(f"precision is {precision!r}: use auto, fp32, bf16 or int8")
    store = open_store(data_dir)
    store.show(model)
    bundled, tokenizer = open_bundled()
    bundled.close()
    shared = Shared(tokenizer, LexicalWeights(tokenizer))
    for line in verify(model, store, shared, Runtime(device, precision)):  # type: ignore[arg-type]
        print(line)


@app.command()
def remove(model: Annotated[str, typer.Argument(help="Id.")], data_dir: DataDir = None) -> None:
    """Delete a pulled model."""
    open_store(data_dir).remove(model)
    print(f"removed {model}")
