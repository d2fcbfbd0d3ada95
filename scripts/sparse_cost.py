"""CPU time of sparse vectors beside that of dense ones, on the corpus of one task.

python scripts/sparse_cost.py PATH/TO/public/ret_faq
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from embedserve import Embedder
from embedserve.evaluation.suites import load_task


def cpu_seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """The least of a few rounds: what others do on the machine only adds."""
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def main() -> None:
    texts = [row["text"] for row in load_task(Path(sys.argv[1])).rows["corpus"]][:200]
    embedder = Embedder(threads=1)
    lexical = embedder.lexical
    dense = cpu_seconds(lambda: embedder.embed(texts, dimension=384), rounds=1)
    sparse = cpu_seconds(lambda: [lexical.sparse(lexical.terms(text), "document") for text in texts])
    print(
        f"{len(texts)} texts: dense {1000 * dense / len(texts):.2f} ms, "
        f"sparse {1000 * sparse / len(texts):.2f} ms a text, {100 * sparse / dense:.1f} %"
    )


if __name__ == "__main__":
    main()
