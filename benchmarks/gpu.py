"""Qwen3-Embedding's shapes on a CUDA device: tokens a second and the share of the measured bf16 peak.

    python benchmarks/gpu.py [--shapes 0.6B,4B,8B] [--lengths 32,512,8192] [--tokens 65536]

Beside it transformers' own forward on padded batches of equal lengths (which is what sentence-transformers
runs), with the worst cosine between the two and to fp32. Random weights in the hub's format: figures are of
speed and arithmetic, not of quality. Where there is no CUDA device it says so and stops.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from qwen3_shapes import SHAPES, cosine, draw_windows, write_checkpoint


def measure_peak(torch: Any) -> float:
    """FLOP/s of a large bf16 matrix product: what this device does at its best."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    return 2 * 8192**3 / time_call(torch, lambda: a @ a, 20)


def time_call(torch: Any, call: Callable[[], Any], rounds: int) -> float:
    """Seconds of one call: the best of ``rounds`` after three to warm up."""
    for _ in range(3):
        call()
    best = float("inf")
    for _ in range(rounds):
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def open_transformers(torch: Any, folder: Path, dtype: Any) -> Callable[[Any], np.ndarray]:
    from transformers import Qwen3Model

    model = Qwen3Model.from_pretrained(folder, dtype=dtype).cuda().eval()

    def encode(windows: Any) -> np.ndarray:
        ids = torch.from_numpy(np.stack([window.ids for window in windows]).astype(np.int64)).cuda()
        with torch.inference_mode():
            states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        return states[:, -1].float().cpu().numpy()

    return encode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default="0.6B,4B,8B")
    parser.add_argument("--lengths", default="32,512,8192")
    parser.add_argument("--tokens", type=int, default=65_536, help="tokens a measured call")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    try:
        import torch
    except ImportError:
        sys.exit("no PyTorch here: pip install 'embedserve[cuda]'")
    if not torch.cuda.is_available():
        print(f"no CUDA device here (PyTorch {torch.__version__}): nothing measured")
        return
    from embedserve.embedding.backbones.qwen3 import Qwen3Backbone
    from embedserve.embedding.backbones.torch_packing import Runtime
    from embedserve.embedding.checkpoint import Checkpoint

    peak = measure_peak(torch)
    print(
        f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, bf16 peak {peak / 1e12:.0f} TFLOP/s\n"
    )
    print("| shape | length | runtime | tokens/s | % of peak | one sequence, ms | worst cosine to fp32 |")
    print("|---|---|---|---|---|---|---|")
    for name in options.shapes.split(","):
        shape = SHAPES[name]
        with tempfile.TemporaryDirectory() as temporary:
            folder = write_checkpoint(Path(temporary) / name, shape, "cuda")
            lengths = [int(length) for length in options.lengths.split(",")]
            single = open_transformers(torch, folder, torch.float32)
            truth = {length: single(draw_windows([length] * 4)) for length in lengths}
            del single
            torch.cuda.empty_cache()
            runtimes = {
                "embedserve exact": lambda folder=folder: (
                    Qwen3Backbone(Checkpoint(folder), Runtime("cuda", "bf16")).encode
                ),
                "embedserve": lambda folder=folder: (
                    Qwen3Backbone(Checkpoint(folder), Runtime("cuda", "bf16", exact=False)).encode
                ),
                "transformers": lambda folder=folder: open_transformers(torch, folder, torch.bfloat16),
            }
            for runtime, opening in runtimes.items():
                encode = opening()
                for length in lengths:
                    windows = draw_windows([length] * max(1, options.tokens // length))
                    batches = [windows] if runtime.startswith("embedserve") else split(windows, 16_384)

                    def run(encode: Any = encode, batches: Any = batches) -> None:
                        for batch in batches:
                            encode(batch)

                    rate = len(windows) * length / time_call(torch, run, options.rounds)
                    alone = draw_windows([length])
                    lone = time_call(torch, lambda e=encode, one=alone: e(one), options.rounds)
                    worst = cosine(encode(draw_windows([length] * 4)), truth[length])
                    share = 100 * rate * shape.flops(length) / peak
                    print(
                        f"| {name} | {length} | {runtime} | {rate:,.0f} | {share:.0f} | {lone * 1000:.1f} | "
                        f"{worst:.5f} |",
                        flush=True,
                    )
                del encode
                torch.cuda.empty_cache()


def split(windows: list[Any], tokens: int) -> list[list[Any]]:
    size = max(1, tokens // len(windows[0].ids))
    return [windows[at : at + size] for at in range(0, len(windows), size)]


if __name__ == "__main__":
    main()
