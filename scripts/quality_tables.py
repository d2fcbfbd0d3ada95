"""Print the tables of docs/quality.md from saved runs of ``embedserve eval``.

embedserve eval PATH/TO/public --dimensions 64,128,256,384,512,768,1024,1536,2048 --bm25 -o ladder
embedserve eval PATH/TO/public --model plain --dimensions 64,128,256,384 --no-sparse -o plain
python scripts/quality_tables.py ladder.json plain.json
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean

from embedserve.evaluation.report import GROUPS, Run

DENSE_GROUPS = ("ret", "xl", "sts", "cls", "clu")
LEXICAL_TASKS = ("ret_", "code_", "kw_")


def line(*cells: object) -> str:
    return "| " + " | ".join(f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"


def by_dimension(run: Run, label: str) -> None:
    for system in run.systems:
        if system.startswith("dense@"):
            means = run.group_means(system)
            found = [means[group] for group in DENSE_GROUPS if group in means]
            extra = means.get("instr", "")
            if len(found) == len(DENSE_GROUPS):
                print(line(f"{label} {system.partition('@')[2]}", *found, fmean(found), extra))


def lexical(run: Run) -> None:
    tasks = [task for task in run.tasks if task.startswith(LEXICAL_TASKS)]
    systems = ["dense@1024", "sparse", "dense&sparse@1024", "bm25"]
    print(line("task", *systems))
    print("|" + " --- |" * (len(systems) + 1))
    for task in sorted(tasks) + [task for task in sorted(run.tasks) if task.startswith("long_")]:
        print(line(task, *(run.tasks[task][system].score for system in systems)))
    print(line("mean without long text", *(fmean(run.tasks[t][s].score for t in tasks) for s in systems)))


def hybrid_by_dimension(run: Run) -> None:
    tasks = [task for task in run.tasks if task.startswith(LEXICAL_TASKS)]
    print(line("dimension", "dense", "dense&sparse"))
    print("|" + " --- |" * 3)
    for system in run.systems:
        kind, _, dimension = system.partition("@")
        if kind == "dense":
            both = (system, f"dense&sparse@{dimension}")
            print(line(dimension, *(fmean(run.tasks[task][s].score for task in tasks) for s in both)))


def needle(run: Run) -> None:
    scores = run.tasks["long_needle"]
    lengths = sorted(scores["bm25"].subsets)
    print(line("long_needle, recall@1", *lengths))
    print("|" + " --- |" * (len(lengths) + 1))
    for system in ("dense@1024", "sparse", "dense&sparse@1024", "bm25"):
        print(line(system, *(scores[system].subsets[length] for length in lengths)))


def main() -> None:
    ladder, plain = (Run.load(Path(name)) for name in sys.argv[1:3])
    print(line("vector", *(GROUPS[group] for group in DENSE_GROUPS), "mean", GROUPS["instr"]))
    print("|" + " --- |" * (len(DENSE_GROUPS) + 3))
    by_dimension(plain, "plain")
    by_dimension(ladder, "ladder")
    print()
    lexical(ladder)
    print()
    hybrid_by_dimension(ladder)
    print()
    needle(ladder)
    print()
    sparse, bm25 = (ladder.language_means(system, ["ret", "kw"]) for system in ("sparse", "bm25"))
    for language in sorted(sparse):
        print(line(language, sparse[language], bm25[language], f"{sparse[language] - bm25[language]:+.1f}"))


if __name__ == "__main__":
    main()
