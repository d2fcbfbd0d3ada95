"""Ways to combine dense and sparse scores, by nDCG@10: a weighted sum, as a vector database adds them, and
``hybrid_scores``, which looks at all candidates.

python scripts/combining.py PATH/TO/public ret_ja,ret_multi,kw_exact
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean

from embedserve.embedding.hybrid import hybrid_scores, sparse_scores
from embedserve.evaluation.models import LibraryModel
from embedserve.evaluation.runner import Progress, embed_all, score_retrieval
from embedserve.evaluation.suites import list_tasks, load_task

DIMENSION = 1024
WEIGHTS = (0.02, 0.05, 0.1, 0.2)


def main() -> None:
    model = LibraryModel()
    found: dict[str, list[float]] = {}
    for folder in list_tasks(Path(sys.argv[1]), sys.argv[2].split(",")):
        task = load_task(folder)
        sides = [
            embed_all(model, [row["text"] for row in task.rows[part]], role, [DIMENSION], Progress())
            for part, role in (("queries", "query"), ("corpus", "document"))
        ]
        (q, q_sparse), (d, d_sparse) = [(side.dense[DIMENSION], side.sparse or []) for side in sides]
        dense, sparse = q @ d.T, sparse_scores(q_sparse, d_sparse)
        ways = {"dense": dense, "sparse": sparse}
        ways |= {f"dense + {weight:g} sparse": dense + weight * sparse for weight in WEIGHTS}
        ways["hybrid_scores"] = hybrid_scores(q, d, q_sparse, d_sparse)
        for name, scores in ways.items():
            score = score_retrieval(task, lambda rows, columns, all_=scores: all_[rows][:, columns])
            found.setdefault(name, []).append(score.score)
    print("| scores | nDCG@10 |\n| --- | --- |")
    for name, values in found.items():
        print(f"| {name} | {fmean(values):.1f} |")


if __name__ == "__main__":
    main()
