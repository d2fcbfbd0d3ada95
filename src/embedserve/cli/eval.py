"""``embedserve eval``: scores of vectors on a suite of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedserve.errors import EmbedserveError

if TYPE_CHECKING:
    from embedserve.evaluation.models import MeasuredModel
    from embedserve.evaluation.report import Run
    from embedserve.evaluation.runner import Systems


def eval(
    suite: Annotated[
        Path, typer.Argument(help="Folder of tasks (docs/quality.md), a saved run (.json), or mteb:STS12,…")
    ],
    model: Annotated[
        str, typer.Option(help="ladder or plain: this library; bm25; or the URL of a server.")
    ] = "ladder",
    name: Annotated[str, typer.Option(help="Model name to ask a server for.")] = "text-embedding-v4",
    tasks: Annotated[str, typer.Option(help="Names or patterns, e.g. 'ret_*,xl_*'.")] = "*",
    dimensions: Annotated[str, typer.Option(help="e.g. 64,256,1024; 0: as the server likes.")] = "1024",
    sparse: Annotated[bool, typer.Option(help="Also sparse and dense&sparse, on retrieval.")] = True,
    bm25: Annotated[bool, typer.Option(help="Also BM25, on retrieval.")] = False,
    instruct: Annotated[bool, typer.Option(help="Send the instructions that queries carry.")] = True,
    roles: Annotated[bool, typer.Option(help="Send text_type to an OpenAI door.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write: NAME.json, .md, .png beside it.")
    ] = None,
    baseline: Annotated[Path | None, typer.Option(help="A saved run to compare with.")] = None,
) -> None:
    """Measure dense, sparse and hybrid scores on a suite; compare two runs with --baseline.

    The key of a server is read from EMBEDSERVE_API_KEY (then OPENAI_API_KEY, DASHSCOPE_API_KEY).
    """
    from rich.console import Console
    from rich.markdown import Markdown

    from embedserve.evaluation.models import open_model
    from embedserve.evaluation.report import Run, draw, render_markdown
    from embedserve.evaluation.runner import Systems
    from embedserve.evaluation.suites import list_tasks
    from embedserve.files.places import write_whole

    if output is not None:
        check_reports(output, [path for path in (suite, baseline) if path is not None])
    before = Run.load(baseline) if baseline else None
    if suite.suffix == ".json":
        run = Run.load(suite)
    elif str(suite).startswith("mteb:"):
        run = measure_mteb(str(suite).removeprefix("mteb:").split(","), model, read_dimensions(dimensions))
    else:
        systems = Systems(read_dimensions(dimensions), sparse, bm25 or model == "bm25", instruct)
        opened = None if model == "bm25" else open_model(model, name=name, roles=roles, sparse=sparse)
        run = measure(list_tasks(suite, tasks.split(",")), opened, systems, output)
    report = render_markdown(run, before)
    if output is None:
        Console().print(Markdown(report))
        return
    run.save(beside(output, "json"))
    write_whole(beside(output, "md"), report)
    if any(system.startswith("dense@") for system in run.systems):
        draw(run, beside(output, "png"), before)
    typer.echo(f"{beside(output, 'json')}, .md, .png")


def measure_mteb(names: list[str], model: str, dimensions: list[int]) -> Run:
    from embedserve.evaluation.mteb import find_tasks, run_tasks

    if model not in ("ladder", "plain"):
        raise EmbedserveError(f"model is {model!r}; tasks of mteb run on ladder or plain")
    if 0 in dimensions:
        raise EmbedserveError("dimensions is 0, it should be sizes in [1, 2048] for tasks of mteb")
    return run_tasks(find_tasks(names), dimensions, "plain" if model == "plain" else "ladder")


def beside(output: Path, ending: str) -> Path:
    """``name`` or ``name.json`` to ``name.ending``; other dots belong to the name."""
    name = output.stem if output.suffix in (".json", ".md", ".png") else output.name
    return output.with_name(f"{name}.{ending}")


def check_reports(output: Path, inputs: list[Path]) -> None:
    """Refuse, before anything is measured, to write where that cannot be or over what is read."""
    from embedserve.files.places import resolve_place

    for path in (beside(output, ending) for ending in ("json", "md", "png")):
        if path.exists() and any(given.exists() and path.samefile(given) for given in inputs):
            raise EmbedserveError(f"the output {path} is an input: give --output another name")
        if path.parent.is_dir():
            resolve_place(path)


def measure(folders: list[Path], model: MeasuredModel | None, systems: Systems, output: Path | None) -> Run:
    """Run the tasks with a progress bar; saved after each one, so an interrupted run keeps its work."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    from embedserve.evaluation.report import Run
    from embedserve.evaluation.runner import Progress, run_task
    from embedserve.evaluation.suites import load_task

    run = Run(model.name if model else "BM25")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        whole = bar.add_task("suite", total=len(folders))
        current = bar.add_task("", total=None)

        class Shown(Progress):
            def start(self, task: str, texts: int) -> None:
                bar.reset(current, description=task, total=texts)

            def advance(self, texts: int) -> None:
                bar.advance(current, texts)

        for folder in folders:
            task = load_task(folder)
            if scores := run_task(task, model, systems, Shown()):
                run.tasks[task.name] = scores
                run.groups[task.name] = task.group
                subsets = {subset for score in scores.values() for subset in score.subsets}
                run.languages[task.name] = {subset: task.language(subset) for subset in sorted(subsets)}
            if output is not None:
                run.save(beside(output, "json"))
            bar.advance(whole)
    return run


def read_dimensions(text: str) -> list[int]:
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError:
        sizes = [-1]
    if not all(0 <= size <= 2048 for size in sizes):
        raise EmbedserveError(f"dimensions is {text!r}, it should be sizes in [1, 2048] joined by commas")
    return sizes
