"""``embedserve doctor``."""

from __future__ import annotations

import os
import platform
import sys
import time

from embedserve import __version__


def doctor() -> None:
    """What this machine offers, which engine serves, and whether a vector comes out."""
    from embedserve.embedding.embedder import Embedder

    started = time.perf_counter()
    embedder = Embedder()
    loaded = time.perf_counter()
    vector = embedder.embed("ready?").dense
    done = time.perf_counter()
    facts = {
        "embedserve": __version__,
        "python": sys.version.split()[0],
        "machine": f"{platform.system()} {platform.machine()}",
        "usable cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "engine": embedder.backbone.name,
        "tokenizer": type(embedder.tokenizer).__name__,
        "recipe": embedder.recipe.name,
        "model load": f"{(loaded - started) * 1000:.0f} ms",
        "first vector": f"{(done - loaded) * 1000:.1f} ms, {vector.shape[1]} dimensions",
    }
    for name, value in facts.items():
        print(f"{name:<14}{value}")
