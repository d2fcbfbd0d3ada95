"""Qwen3-Embedding-0.6B's shape on this CPU, native and in PyTorch: tokens a second, memory, cosine to fp32.

    python benchmarks/qwen3_cpu.py [--shape 0.6B] [--threads 1] [--rounds 3] [--only fp32,native] [--outliers]

Random weights in the hub's format: figures are of speed and of arithmetic, not of quality. ``--outliers``
puts channels in that stand out as in trained decoders. Each runtime runs in a process of its own, one at a
time; rounds are interleaved; CPU time over all threads beside wall time, because the machine may be shared.

fp32, bf16 and int8 are embedserve's own packed PyTorch path, ``native`` its int8 engine.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from qwen3_shapes import SHAPES, cosine, draw_windows, write_checkpoint

from embedserve.embedding.backbones.native import usable_cores

LOADS = {"query of 16": [16], "10 x 128": [128] * 10, "4 x 512": [512] * 4}
REPEATS = {"query of 16": 5}
RUNTIMES = ("fp32", "native", "int8", "bf16", "transformers-fp32", "transformers-bf16")


def open_runtime(name: str, folder: Path, threads: int):
    """A function from windows to (n, hidden) pooled states."""
    from embedserve.embedding.checkpoint import Checkpoint

    if name == "native":
        from embedserve.embedding.backbones.native_qwen3 import NativeQwen3Backbone

        return NativeQwen3Backbone(Checkpoint(folder), threads=threads).encode
    import torch

    torch.set_num_threads(threads)

    if name.startswith("transformers"):
        from transformers import Qwen3Model

        dtype = torch.bfloat16 if name.endswith("bf16") else torch.float32
        model = Qwen3Model.from_pretrained(folder, dtype=dtype).eval()

        def encode(windows):
            longest = max(len(window.ids) for window in windows)
            ids = torch.zeros(len(windows), longest, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, window in enumerate(windows):
                ids[row, : len(window.ids)] = torch.from_numpy(window.ids.astype(np.int64))
                mask[row, : len(window.ids)] = 1
            with torch.inference_mode():
                states = model(input_ids=ids, attention_mask=mask).last_hidden_state
            rows = [states[row, len(window.ids) - 1] for row, window in enumerate(windows)]
            return torch.stack(rows).float().numpy()

        return encode
    from embedserve.embedding.backbones.qwen3 import Qwen3Backbone
    from embedserve.embedding.backbones.torch_packing import Runtime

    return Qwen3Backbone(Checkpoint(folder), Runtime("cpu", name)).encode


def measure(name: str, folder: Path, out: Path, threads: int, loads: list[str]) -> None:
    encode = open_runtime(name, folder, threads)
    told: dict[str, object] = {"runtime": name}
    rows = []
    for load in loads:
        lengths = LOADS[load]
        windows = draw_windows(lengths)
        best = [0.0, 0.0]
        for _ in range(REPEATS.get(load, 1)):
            encode(draw_windows([16]))
            wall, cpu = time.perf_counter(), time.process_time()
            pooled = encode(windows)
            spent = time.perf_counter() - wall, time.process_time() - cpu
            best = [max(rate, sum(lengths) / seconds) for rate, seconds in zip(best, spent, strict=True)]
        rows.append(pooled)
        told[load] = best
    told["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    np.save(out, np.concatenate(rows))
    print(json.dumps(told))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="0.6B", choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(RUNTIMES))
    parser.add_argument("--loads", default=",".join(LOADS))
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--outliers", action="store_true", help="channels as trained decoders have them")
    parser.add_argument("--folder", type=Path, help="keep the checkpoint there and use it again")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    loads = options.loads.split(",")
    if options.measure:
        name, folder, out = options.measure
        measure(name, Path(folder), Path(out), options.threads, loads)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "model"
        if not (folder / "model.safetensors.index.json").is_file():
            write_checkpoint(folder, SHAPES[options.shape], outliers=options.outliers)
        best: dict[str, dict[str, list[float]]] = {}
        memory: dict[str, float] = {}
        names = options.only.split(",")
        for _ in range(options.rounds):
            for name in names:
                out = Path(temporary) / f"{name}.npy"
                command = [sys.executable, __file__, "--threads", str(options.threads)]
                command += ["--loads", options.loads, "--measure", name, str(folder), str(out)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                told = json.loads(done.stdout)
                memory[name] = told["rss"]
                for load in loads:
                    kept = best.setdefault(name, {}).setdefault(load, [0.0, 0.0])
                    best[name][load] = [max(pair) for pair in zip(kept, told[load], strict=True)]
        reference = np.load(Path(temporary) / f"{names[0]}.npy")
        weights = "random weights with outlying channels" if options.outliers else "random weights"
        print(f"Qwen3 {options.shape}, {weights}; {options.threads} threads; best of {options.rounds}")
        print("tokens/s of wall time (in brackets: per second of CPU time over all threads)\n")
        print("| runtime | " + " | ".join(loads) + f" | peak RSS MiB | worst cosine to {names[0]} |")
        print("|---" * (len(loads) + 3) + "|")
        for name in names:
            cells = [f"{wall:,.0f} ({cpu:,.0f})" for wall, cpu in (best[name][load] for load in loads)]
            worst = cosine(np.load(Path(temporary) / f"{name}.npy"), reference)
            print(f"| {name} | " + " | ".join(cells) + f" | {memory[name]:,.0f} | {worst:.5f} |")
        if "native" in best:
            for other in names:
                rates = [best["native"][load][1] / best[other][load][1] for load in loads]
                cells = ", ".join(f"{rate:.2f} ({load})" for rate, load in zip(rates, loads, strict=True))
                if other != "native":
                    print(f"\nnative / {other}, tokens per second of CPU time: {cells}")


if __name__ == "__main__":
    main()
