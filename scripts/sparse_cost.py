"""CPU time of sparse vectors beside that of dense ones, on the texts of one task.

python scripts/sparse_cost.py PATH/TO/public/ret_faq
python scripts/sparse_cost.py PATH/TO/public/xl_tatoeba     # sentences of ten tokens

Dense and sparse take turns, so that what else runs on the machine slows both; each counts its best round.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from embedserve import Embedder
from embedserve.evaluation.models import batches
from embedserve.evaluation.suites import load_task

TEXTS = 200
ROUNDS = 5
PER_CALL = (1, 10, 64)


def cpu_seconds(work: Callable[[Sequence[str]], None], texts: Sequence[str], size: int) -> float:
    start = time.process_time()
    for batch in batches(texts, size):
        work(batch)
    return time.process_time() - start


def main() -> None:
    texts = [row["text"] for row in load_task(Path(sys.argv[1])).rows["corpus"]][:TEXTS]
    embedder = Embedder(threads=1)
    lexical = embedder.lexical

    def dense(batch: Sequence[str]) -> None:
        embedder.embed(batch, dimension=384)

    def sparse(batch: Sequence[str]) -> None:
        for terms in lexical.terms_all(batch):
            lexical.sparse(terms, "document")

    sparse(texts)  # the table and the vocabulary's pages come in
    for size in PER_CALL:
        rounds = [[cpu_seconds(work, texts, size) for work in (dense, sparse)] for _ in range(ROUNDS)]
        dense_ms, sparse_ms = (1000 * min(seconds) / len(texts) for seconds in zip(*rounds, strict=True))
        share = f"{100 * sparse_ms / dense_ms:.1f} %"
        print(f"{size:3d} texts a call: dense {dense_ms:.2f} ms a text, sparse {sparse_ms:.3f} ms, {share}")


if __name__ == "__main__":
    main()
