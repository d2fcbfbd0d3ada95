"""What accounts cost: the same server with and without them, loaded in turn.

    python benchmarks/accounts.py [--clients 16] [--shape short|ten|mix] [--seconds 4] [--rounds 8]

"Without" is this server with a ``settle`` that writes nothing and an ``admit`` that checks nothing; keys are
checked in both. Both run all the time and are loaded one after the other, in alternating order, so that
whatever else the machine does hits both; the cost is the median over the rounds of the ratio within a round.
The server's own processor time per request is given beside the rates: it says the same when other work on
the machine makes the rates jump.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import orjson
from contenders import cpu_of
from load import Call, closed_loop, prepare
from texts import TextSource

KEY = "sk-benchmark-0123456789"
WITHOUT = "--serve-without-accounts"


def serve_without_accounts(arguments: list[str]) -> None:
    from embedserve.accounts.accounts import Accounts, Reservation
    from embedserve.accounts.caller import Caller
    from embedserve.cli import main

    async def admit(self: Accounts, caller: Caller, model: str, tokens: int, **more: object) -> Reservation:
        return Reservation(caller, model, tokens, "")

    async def settle(self: Accounts, reservation: Reservation, tokens: int, **more: object) -> None:
        return None

    Accounts.admit = admit  # type: ignore[assignment, method-assign]
    Accounts.settle = settle  # type: ignore[assignment, method-assign]
    sys.argv = ["embedserve", "serve", *arguments]
    main()


class Server:
    """One of the two, on a free port with a data directory of its own."""

    def __init__(self, folder: Path, accounts: bool) -> None:
        program = ["-m", "embedserve", "serve"] if accounts else [__file__, WITHOUT]
        self.process = subprocess.Popen(
            [sys.executable, *program, "--port", "0", "--data-dir", str(folder), "--log-level", "warning"],
            stderr=subprocess.PIPE,
            text=True,
            env={"EMBEDSERVE_API_KEY": KEY, "PATH": "/usr/bin:/bin"},
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("embedserve on "):
                self.port = int(line.split()[2].rsplit(":", 1)[1])
                return
        raise SystemExit("a server did not start")

    def cpu_seconds(self) -> float:
        """Processor time used so far (Linux)."""
        return cpu_of(self.process.pid)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def make_calls(shape: str, count: int = 200) -> list[Call]:
    from embedserve.embedding.embedder import Embedder

    source = TextSource(Embedder().tokenizer)
    calls = []
    for _ in range(count):
        texts = getattr(source, shape)()
        body = orjson.dumps({"model": "text-embedding-v4", "input": texts, "encoding_format": "base64"})
        headers = {"authorization": f"Bearer {KEY}"}
        calls.append(prepare("127.0.0.1", "/v1/embeddings", headers, body, len(texts), 0))
    return calls


@dataclass
class Round:
    """Texts a second, and processor milliseconds a request, with and without accounts."""

    rate: dict[str, float]
    cpu_ms: dict[str, float]


def measure(options: argparse.Namespace) -> list[Round]:
    calls = make_calls(options.shape)
    rounds: list[Round] = []
    with tempfile.TemporaryDirectory() as folder:
        servers = {name: Server(Path(folder) / name, name == "with") for name in ("with", "without")}
        try:
            for server in servers.values():
                asyncio.run(closed_loop(server.port, calls, options.clients, 1.0))  # warm
            for number in range(options.rounds):
                one = Round({}, {})
                for name in sorted(servers, reverse=bool(number % 2)):
                    server, before = servers[name], servers[name].cpu_seconds()
                    samples = asyncio.run(closed_loop(server.port, calls, options.clients, options.seconds))
                    if samples.errors:
                        raise SystemExit(f"{samples.errors} requests failed {name} accounts")
                    one.rate[name] = samples.texts_per_second
                    one.cpu_ms[name] = (server.cpu_seconds() - before) * 1000 / len(samples.seconds)
                rounds.append(one)
        finally:
            for server in servers.values():
                server.stop()
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--shape", choices=["short", "ten", "mix"], default="short")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rounds = measure(options)
    costs = sorted(1 - one.rate["with"] / one.rate["without"] for one in rounds)
    figures = {
        "shape": options.shape,
        "clients": options.clients,
        "rounds": options.rounds,
        **{f"{n}_texts_per_s": statistics.median(r.rate[n] for r in rounds) for n in ("with", "without")},
        **{f"{n}_cpu_ms": statistics.median(r.cpu_ms[n] for r in rounds) for n in ("with", "without")},
        "cost": statistics.median(costs),
        "cost_lowest": costs[0],
        "cost_highest": costs[-1],
        "cost_cpu": statistics.median(r.cpu_ms["with"] / r.cpu_ms["without"] - 1 for r in rounds),
    }
    print(
        "| shape | clients | with, texts/s | without | cost, median (lowest … highest) | cost in CPU time |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    print(
        f"| {options.shape} | {options.clients} | {figures['with_texts_per_s']:.0f} "
        f"| {figures['without_texts_per_s']:.0f} | {figures['cost']:.1%} "
        f"({costs[0]:.1%} … {costs[-1]:.1%}) | {figures['cost_cpu']:.1%} "
        f"({figures['with_cpu_ms']:.2f} / {figures['without_cpu_ms']:.2f} ms a request) |"
    )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    if WITHOUT in sys.argv[1:2]:
        serve_without_accounts(sys.argv[2:])
    else:
        main()
