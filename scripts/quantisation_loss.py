"""What int8 and sign bits cost on retrieval tasks of a suite: nDCG@10 by encoding and dimension.

python scripts/quantisation_loss.py PATH/TO/public ret_ja,code_cosqa
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean

import numpy as np

from embedserve.embedding.quantisation import binary_scores, int8_scores, to_binary, to_int8
from embedserve.evaluation.models import LibraryModel
from embedserve.evaluation.runner import Progress, embed_all, score_retrieval
from embedserve.evaluation.suites import list_tasks, load_task

DIMENSIONS = (64, 128, 256, 384, 512, 1024, 2048)


def main() -> None:
    model = LibraryModel(sparse=False)
    found: dict[tuple[int, str], list[float]] = {}
    for folder in list_tasks(Path(sys.argv[1]), sys.argv[2].split(",")):
        task = load_task(folder)
        queries = embed_all(model, [r["text"] for r in task.rows["queries"]], "query", DIMENSIONS, Progress())
        corpus = embed_all(
            model, [r["text"] for r in task.rows["corpus"]], "document", DIMENSIONS, Progress()
        )
        for size in DIMENSIONS:
            q, d = queries.dense[size], corpus.dense[size]
            scores = {
                "float": q @ d.T,
                "int8": int8_scores(to_int8(q)[0], to_int8(d)[0]),
                "binary": binary_scores(to_binary(q), to_binary(d), size),
            }
            for name, matrix in scores.items():
                score = score_retrieval(task, lambda rows, columns, m=matrix: m[np.ix_(rows, columns)])
                found.setdefault((size, name), []).append(score.score)
    print("| dimension | float | int8 | binary |\n| --- | --- | --- | --- |")
    for size in DIMENSIONS:
        means = [fmean(found[size, name]) for name in ("float", "int8", "binary")]
        print(f"| {size} | " + " | ".join(f"{mean:.1f}" for mean in means) + " |")


if __name__ == "__main__":
    main()
