"""What case and white space in the queries cost: the score of retrieval tasks, and how far vectors move.

python scripts/robustness.py PATH/TO/public ret_faq,kw_exact
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from embedserve.embedding.hybrid import sparse_scores
from embedserve.evaluation.models import LibraryModel
from embedserve.evaluation.runner import Progress, embed_all, score_retrieval
from embedserve.evaluation.suites import list_tasks, load_task

DIMENSION = 1024
FORMS: dict[str, Callable[[str], str]] = {
    "as written": str,
    "lower case": str.lower,
    "UPPER CASE": str.upper,
    "Title Case": str.title,
    "white space doubled": lambda text: "  " + "\t ".join(text.split(" ")) + "\n",
}


def main() -> None:
    model = LibraryModel()
    for folder in list_tasks(Path(sys.argv[1]), sys.argv[2].split(",")):
        task = load_task(folder)
        print(f"\n| {task.name} | dense@{DIMENSION} | sparse | mean cosine to the text as written |")
        print("|" + " --- |" * 4)
        texts = [row["text"] for row in task.rows["corpus"]]
        documents = embed_all(model, texts, "document", [DIMENSION], Progress())
        written = None
        for name, change in FORMS.items():
            asked = [change(row["text"]) for row in task.rows["queries"]]
            queries = embed_all(model, asked, "query", [DIMENSION], Progress())
            dense = queries.dense[DIMENSION] @ documents.dense[DIMENSION].T
            sparse = sparse_scores(queries.sparse or [], documents.sparse or [])
            scores = [
                score_retrieval(task, lambda rows, columns, all_=all_: all_[rows][:, columns]).score
                for all_ in (dense, sparse)
            ]
            written = queries.dense[DIMENSION] if written is None else written
            near = float((written * queries.dense[DIMENSION]).sum(axis=1).mean())
            print(f"| {name} | {scores[0]:.1f} | {scores[1]:.1f} | {near:.3f} |")


if __name__ == "__main__":
    main()
