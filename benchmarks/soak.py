"""Two hundred clients of every temper for some minutes: does anything leak, slow down, go wrong or get lost?

    python benchmarks/soak.py [--minutes 10] [--clients 200] [--seed 1] [--json FILE]

Starts a server as a user does (lenient limits, its bundled model) and lets loose on it, over the loopback:
short queries, ten texts at a time in both dialects and encodings, long texts, requests of hundreds of rows;
clients that hang up in the middle, stop in the middle of a body, read slowly, bring a wrong key or nonsense;
uploads, batch jobs and downloads; keys that are created, used, changed and revoked; scrapes of ``/metrics``
and ``/ready``.

Each vector of each reply is compared with the library's for its text, byte for byte; each status with those
that the request may have. In the end the ledger is compared with the replies: every 200 is billed once with
the tokens it names, and nothing else is, but what a client hung up on.

Prints a line a minute (replies, latency of single queries, memory and descriptors of the server), what each
kind of client got, and the verdict; status 1 if a reply was wrong, a status unexpected, the ledger off,
descriptors left open, or (from three minutes on) memory not flat within 5 % after the warm-up.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import orjson
from contenders import rss_of
from load import Reply, Talk
from texts import TextSource

from embedserve.embedding.embedder import Embedder

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from serving import Server  # noqa: E402

MODEL = "text-embedding-v4"
ADMIN_KEY = "soak-admin-0123456789"
OPENAI, NATIVE = "/compatible-mode/v1", "/api/v1"
TEXT_EMBEDDING = f"{NATIVE}/services/embeddings/text-embedding/text-embedding"
FLAT = 0.05
DIMENSIONS = (1024, 256)
PATIENCE = 120.0
"""Seconds after which a reply that has not come counts as lost."""


class Wrong(Exception):
    """A reply that must not be; the message says which."""


@dataclass
class Texts:
    """What is asked, and the right vector of each text at each size."""

    short: list[str]
    medium: list[str]
    long: list[str]
    vectors: dict[tuple[str, int], bytes] = field(default_factory=dict)

    @classmethod
    def make(cls, seed: int) -> Texts:
        with Embedder() as embedder:
            source = TextSource(embedder.tokenizer, seed=seed)
            made = cls(
                [source.text(source.random.randint(5, 13)) for _ in range(1500)],
                [source.text(30) for _ in range(400)],
                [source.text(source.random.randint(400, 1500)) for _ in range(40)],
            )
            every = list(dict.fromkeys([*made.short, *made.medium, *made.long]))
            for size in DIMENSIONS:
                dense = embedder.embed(every, dimension=size).dense
                for text, vector in zip(every, dense, strict=True):
                    made.vectors[text, size] = vector.tobytes()
        return made

    def check(self, text: str, size: int, given: Any) -> None:
        """A vector as it came: floats, or base64 of them."""
        given = base64.b64decode(given) if isinstance(given, str) else np.array(given, np.float32).tobytes()
        if given != self.vectors[text, size]:
            raise Wrong(f"the vector of {len(text)} characters at {size} is another")


@dataclass
class Tally:
    """What the clients of one key were told."""

    answers: int = 0
    tokens: int = 0
    sent: int = 0


@dataclass
class Minute:
    """One line of the table."""

    minute: int
    replies: int
    p50_ms: float
    p99_ms: float
    rss_mb: float
    descriptors: int
    refused: int
    """429 and 503, with Retry-After."""
    wrong: int


@dataclass
class Report:
    minutes: list[Minute] = field(default_factory=list)
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    """The first few of each kind of client."""
    faults_total: int = 0

    def note(self, kind: str, outcome: str) -> None:
        self.outcomes.setdefault(kind, Counter())[outcome] += 1

    def blame(self, kind: str, fault: str) -> None:
        self.faults_total += 1
        self.note(kind, "WRONG")
        if len(told := self.faults.setdefault(kind, [])) < 3:
            told.append(fault)


class Soak:
    """The state that all clients share."""

    def __init__(self, port: int, texts: Texts, keys: Mapping[str, str], seconds: float) -> None:
        self.port, self.texts, self.keys = port, texts, keys
        self.end = time.monotonic() + seconds
        self.report = Report()
        self.tallies = {name: Tally() for name in keys}
        self.latencies: list[float] = []
        self.replies = self.refused = 0

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.end

    def talk(self) -> Talk:
        return Talk(self.port, PATIENCE)

    def check_refusal(self, reply: Reply) -> bool:
        """True for "later, please", which anybody may be told if it says when."""
        if reply.status not in (429, 503):
            return False
        if "retry-after" not in reply.headers:
            raise Wrong(f"{reply.status} without Retry-After")
        self.refused += 1
        return True

    async def embed(
        self,
        talk: Talk,
        who: str,
        texts: Sequence[str],
        *,
        size: int = 1024,
        native: bool = False,
        packed: bool = False,
    ) -> bool:
        """Asks, compares, counts; False if it was put off."""
        if native:
            body: dict[str, Any] = {
                "model": MODEL,
                "input": {"texts": texts},
                "parameters": {"dimension": size},
            }
        else:
            body = {"model": MODEL, "input": list(texts), "dimensions": size}
            if packed:
                body["encoding_format"] = "base64"
        tally = self.tallies[who]
        tally.sent += 1
        began = time.monotonic()
        reply = await talk.ask(
            "POST", TEXT_EMBEDDING if native else f"{OPENAI}/embeddings", self.keys[who], body
        )
        took = time.monotonic() - began
        if self.check_refusal(reply):
            return False
        if reply.status != 200:
            raise Wrong(f"{reply.status} for good texts: {reply.body[:200]!r}")
        told = orjson.loads(reply.body)
        tally.answers += 1
        tally.tokens += told["usage"]["total_tokens"]
        rows = told["output"]["embeddings"] if native else told["data"]
        if [row["text_index" if native else "index"] for row in rows] != list(range(len(texts))):
            raise Wrong("rows are missing or out of order")
        for text, row in zip(texts, rows, strict=True):
            self.texts.check(text, size, row["embedding"])
        if who == "queries":
            self.latencies.append(took)
        self.replies += 1
        return True


Client = Callable[[Soak, Random], Awaitable[str]]
"""One turn of a client; returns what it got, in a word."""


async def query(soak: Soak, random: Random) -> str:
    talk = soak.talk()
    try:
        for _ in range(random.randint(1, 20)):
            await soak.embed(talk, "queries", [random.choice(soak.texts.short)], packed=random.random() < 0.5)
            await asyncio.sleep(random.expovariate(1 / 1.5))
            if soak.over:
                break
    finally:
        talk.close()
    return "answered"


async def ten_texts(soak: Soak, random: Random) -> str:
    talk = soak.talk()
    try:
        texts = random.sample(soak.texts.medium, random.randint(2, 10))
        native = random.random() < 0.5
        done = await soak.embed(
            talk, "plain", texts, size=random.choice(DIMENSIONS), native=native, packed=random.random() < 0.5
        )
    finally:
        talk.close()
    await asyncio.sleep(random.uniform(2, 12))
    return "answered" if done else "put off"


async def long_texts(soak: Soak, random: Random) -> str:
    talk = soak.talk()
    try:
        done = await soak.embed(talk, "loaders", random.sample(soak.texts.long, random.randint(1, 3)))
    finally:
        talk.close()
    await asyncio.sleep(random.uniform(20, 60))
    return "answered" if done else "put off"


async def many_rows(soak: Soak, random: Random) -> str:
    talk = soak.talk()
    try:
        done = await soak.embed(
            talk, "loaders", random.sample(soak.texts.short, random.randint(200, 1000)), packed=True
        )
    finally:
        talk.close()
    await asyncio.sleep(random.uniform(20, 60))
    return "answered" if done else "put off"


async def hang_up(soak: Soak, random: Random) -> str:
    """Leaves at a random moment: in the head, in the body, before or in the reply."""
    texts = random.sample(
        soak.texts.medium if random.random() < 0.9 else soak.texts.long, random.randint(1, 5)
    )
    body = orjson.dumps({"model": MODEL, "input": texts})
    whole = soak.talk().payload("POST", f"{OPENAI}/embeddings", soak.keys["leavers"], body)
    talk = soak.talk()
    at = random.choice([random.randint(1, len(whole) - 1), len(whole), len(whole)])
    soak.tallies["leavers"].sent += at == len(whole)
    try:
        await talk.send(whole[:at])
        await asyncio.sleep(random.choice([0, 0.01, 0.1, 0.5]))
    finally:
        talk.close()
    await asyncio.sleep(random.uniform(0.5, 4))
    return "left"


async def stall(soak: Soak, random: Random) -> str:
    """Sends part of a request and waits for the server to lose patience, or half a minute."""
    body = orjson.dumps({"model": MODEL, "input": random.sample(soak.texts.medium, 10)})
    whole = soak.talk().payload("POST", f"{OPENAI}/embeddings", soak.keys["leavers"], body)
    talk = soak.talk()
    try:
        await talk.send(whole[: random.randint(0, len(whole) - 1)])
        reply = await asyncio.wait_for(talk.receive(), 30)
        if reply.status not in (400, 408, 413, 431, 503):
            raise Wrong(f"{reply.status} for half a request")
        return str(reply.status)
    except TimeoutError:
        return "gave up"
    except (OSError, asyncio.IncompleteReadError):
        return "closed"
    finally:
        talk.close()


async def read_slowly(soak: Soak, random: Random) -> str:
    """A large reply, a kilobyte at a time."""
    texts = random.sample(soak.texts.medium, 10)
    talk = soak.talk()
    try:
        soak.tallies["leavers"].sent += 1
        await talk.send(
            talk.payload(
                "POST",
                f"{OPENAI}/embeddings",
                soak.keys["leavers"],
                orjson.dumps({"model": MODEL, "input": texts}),
            )
        )
        reply = await asyncio.wait_for(talk.receive(slowly=0.01), PATIENCE)
        if soak.check_refusal(reply):
            return "put off"
        if reply.status != 200:
            raise Wrong(f"{reply.status} for a slow reader")
        told = orjson.loads(reply.body)
        tally = soak.tallies["leavers"]
        tally.answers += 1
        tally.tokens += told["usage"]["total_tokens"]
        for text, row in zip(texts, told["data"], strict=True):
            soak.texts.check(text, 1024, row["embedding"])
        soak.replies += 1
    finally:
        talk.close()
    await asyncio.sleep(random.uniform(1, 5))
    return "answered"


NONSENSE: list[tuple[str, str, bytes]] = [
    ("POST", f"{OPENAI}/embeddings", b"{"),
    ("POST", f"{OPENAI}/embeddings", b'{"model": "text-embedding-v4"}'),
    ("POST", f"{OPENAI}/embeddings", b'{"model": "text-embedding-v4", "input": [[[]]]}'),
    ("POST", f"{OPENAI}/embeddings", b'{"model": "gpt-9", "input": "x"}'),
    ("POST", f"{OPENAI}/embeddings", b"[" * 50_000),
    ("POST", TEXT_EMBEDDING, b'{"model": "text-embedding-v4", "input": {"texts": {}}}'),
    (
        "POST",
        TEXT_EMBEDDING,
        b'{"model": "text-embedding-v4", "input": {"texts": ["x"]}, "parameters": {"dimension": 7}}',
    ),
    ("POST", f"{OPENAI}/files", b"no form"),
    ("GET", f"{OPENAI}/batches/batch_none", b""),
    ("GET", "/nowhere", b""),
]


async def nonsense(soak: Soak, random: Random) -> str:
    talk = soak.talk()
    wrong_key = random.random() < 0.5
    try:
        method, path, body = random.choice(NONSENSE)
        key = f"sk-wrong-{random.randrange(10**9)}" if wrong_key else soak.keys["plain"]
        reply = await talk.ask(method, path, key, body)
        if soak.check_refusal(reply):
            return "put off"
        if not 400 <= reply.status < 500 or (wrong_key and reply.status not in (401, 404)):
            raise Wrong(f"{reply.status} for {method} {path} {body[:60]!r}, wrong key: {wrong_key}")
    finally:
        talk.close()
    await asyncio.sleep(random.uniform(0.5, 3))
    return str(reply.status)


async def batch(soak: Soak, random: Random) -> str:
    """A file up, a job over it, its results down and compared, both files deleted."""
    texts = random.sample(soak.texts.medium, random.randint(5, 120))
    lines = [
        orjson.dumps(
            {
                "custom_id": str(i),
                "method": "POST",
                "url": "/v1/embeddings",
                "body": {"model": MODEL, "input": text, "dimensions": 256},
            }
        )
        for i, text in enumerate(texts)
    ]
    key, talk = soak.keys["jobs"], soak.talk()

    async def ask(method: str, path: str, body: Any = None, **headers: str) -> Any:
        for _ in range(600):
            if not soak.check_refusal(
                reply := await talk.ask(method, f"{OPENAI}{path}", key, body, **headers)
            ):
                break
            await asyncio.sleep(1)
        if reply.status != 200:
            raise Wrong(f"{reply.status} for {method} {path}: {reply.body[:200]!r}")
        return reply.body if path.endswith("/content") else orjson.loads(reply.body)

    form = (
        b'--soak\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--soak\r\ncontent-disposition: form-data; name="file"; filename="soak.jsonl"\r\n\r\n'
        + b"\n".join(lines)
        + b"\r\n--soak--\r\n"
    )
    try:
        file = await ask("POST", "/files", form, content_type="multipart/form-data; boundary=soak")
        job = await ask(
            "POST",
            "/batches",
            {"input_file_id": file["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"},
        )
        for _ in range(600):
            if (job := await ask("GET", f"/batches/{job['id']}"))["status"] in ("completed", "failed"):
                break
            await asyncio.sleep(1)
        if job["status"] != "completed" or job["request_counts"]["completed"] != len(texts):
            raise Wrong(f"a job ended as {job['status']}, {job['request_counts']}")
        rows = [
            orjson.loads(line)
            for line in (await ask("GET", f"/files/{job['output_file_id']}/content")).splitlines()
        ]
        if sorted(int(row["custom_id"]) for row in rows) != list(range(len(texts))):
            raise Wrong("results are missing or doubled")
        for row in rows:
            told = row["response"]["body"]
            soak.texts.check(texts[int(row["custom_id"])], 256, told["data"][0]["embedding"])
            soak.tallies["jobs"].answers += 1
            soak.tallies["jobs"].tokens += told["usage"]["total_tokens"]
        for file_id in (file["id"], job["output_file_id"]):
            await ask("DELETE", f"/files/{file_id}")
    finally:
        talk.close()
    await asyncio.sleep(random.uniform(5, 20))
    return "completed"


async def change_keys(soak: Soak, random: Random) -> str:
    """A key made, used at once, changed, rotated or revoked, and refused within the second."""
    talk = soak.talk()
    try:
        made = await talk.ask("POST", "/admin/keys", ADMIN_KEY, {"name": "soak", "workspace": "soak"})
        if made.status not in (200, 201):
            raise Wrong(f"{made.status} for a new key: {made.body[:200]!r}")
        told = orjson.loads(made.body)
        secret, key_id = told["secret"], told["id"]
        text = random.choice(soak.texts.short)
        body = {"model": MODEL, "input": text, "dimensions": 256}
        used = await talk.ask("POST", f"{OPENAI}/embeddings", secret, body)
        if not soak.check_refusal(used):
            if used.status != 200:
                raise Wrong(f"{used.status} for a key just made")
            soak.texts.check(text, 256, orjson.loads(used.body)["data"][0]["embedding"])
        changed = await talk.ask(
            "PATCH", f"/admin/keys/{key_id}", ADMIN_KEY, {"rpm": random.randint(1, 1000)}
        )
        if changed.status != 200:
            raise Wrong(f"{changed.status} for a changed key: {changed.body[:200]!r}")
        ended = await talk.ask("POST", f"/admin/keys/{key_id}/revoke", ADMIN_KEY)
        if ended.status != 200:
            raise Wrong(f"{ended.status} for an ended key: {ended.body[:200]!r}")
        await asyncio.sleep(1.5)
        late = await talk.ask("POST", f"{OPENAI}/embeddings", secret, body)
        if not soak.check_refusal(late) and late.status != 401:
            raise Wrong(f"{late.status} for a key that ended 1.5 s ago")
    finally:
        talk.close()
    await asyncio.sleep(random.uniform(2, 8))
    return "made and ended"


async def scrape(soak: Soak, random: Random) -> str:
    talk = soak.talk()
    try:
        for path in ("/metrics", "/ready", "/health"):
            reply = await talk.ask("GET", path, "")
            if reply.status != 200:
                raise Wrong(f"{reply.status} for {path}")
    finally:
        talk.close()
    await asyncio.sleep(random.uniform(1, 5))
    return "read"


CLIENTS: dict[Client, int] = {
    query: 80,
    ten_texts: 30,
    long_texts: 10,
    many_rows: 4,
    hang_up: 20,
    stall: 15,
    read_slowly: 10,
    nonsense: 15,
    batch: 6,
    change_keys: 5,
    scrape: 5,
}
"""How many of two hundred; others in proportion, one of each at least."""


async def live(soak: Soak, client: Client, seed: int) -> None:
    random = Random(seed)
    await asyncio.sleep(random.uniform(0, 3))
    kind = client.__name__
    while not soak.over:
        try:
            soak.report.note(kind, await client(soak, random))
            continue
        except Wrong as wrong:
            soak.report.blame(kind, str(wrong))
        except TimeoutError:
            soak.report.blame(kind, f"no reply in {PATIENCE:.0f} s")
        except (OSError, asyncio.IncompleteReadError, ValueError, KeyError) as error:
            soak.report.blame(kind, f"{type(error).__name__}: {error}")
        await asyncio.sleep(2)


@dataclass(frozen=True)
class Sample:
    at: float
    rss: float
    descriptors: int


def sample(pid: int) -> Sample:
    return Sample(time.monotonic(), rss_of(pid), len(list(Path(f"/proc/{pid}/fd").iterdir())))


async def watch(soak: Soak, pid: int, samples: list[Sample]) -> None:
    minute, began = 0, time.monotonic()
    replies = refused = wrong = 0
    while not soak.over:
        await asyncio.sleep(1)
        samples.append(sample(pid))
        if time.monotonic() - began < 60 and not soak.over:
            continue
        minute, began = minute + 1, time.monotonic()
        taken, soak.latencies = soak.latencies, []
        p50, p99 = np.percentile(taken, [50, 99]) * 1000 if taken else (float("nan"), float("nan"))
        recent = [one for one in samples if one.at > began - 60]
        line = Minute(
            minute,
            soak.replies - replies,
            float(p50),
            float(p99),
            statistics.median(one.rss for one in recent),
            round(statistics.median(one.descriptors for one in recent)),
            soak.refused - refused,
            soak.report.faults_total - wrong,
        )
        replies, refused, wrong = soak.replies, soak.refused, soak.report.faults_total
        soak.report.minutes.append(line)
        print(
            f"{line.minute:6} {line.replies:8} {line.p50_ms:8.1f} {line.p99_ms:8.1f} {line.rss_mb:8.1f} "
            f"{line.descriptors:6} {line.refused:8} {line.wrong:6}",
            flush=True,
        )


async def run(soak: Soak, clients: int, seed: int, pid: int) -> list[Sample]:
    samples: list[Sample] = []
    total = sum(CLIENTS.values())
    lives = [
        live(soak, client, seed * 10_000 + kind * 1000 + number)
        for kind, (client, share) in enumerate(CLIENTS.items())
        for number in range(max(1, round(share * clients / total)))
    ]
    print(f"{len(lives)} clients\n")
    print("minute  replies   p50 ms   p99 ms  RSS MiB    fds  refused  wrong")
    await asyncio.gather(watch(soak, pid, samples), *lives)
    return samples


def judge_ledger(server: Server, soak: Soak, ids: Mapping[str, str]) -> list[str]:
    """What is billed against what was received, once all is settled."""
    faults: list[str] = []
    rows: dict[str, Any] = {}
    for _ in range(30):
        usage = httpx.get(
            f"{server.url}/admin/usage",
            params={"by": "key"},
            headers={"Authorization": f"Bearer {ADMIN_KEY}"},
        ).json()
        rows = {row["group"]: row for row in usage["data"]}
        faults = []
        for name, tally in soak.tallies.items():
            row = rows.get(ids[name], {"requests": 0, "tokens": 0})
            print(
                f"ledger, {name}: {row['requests']} billed with {row['tokens']} tokens; "
                f"{tally.answers} received with {tally.tokens}"
            )
            if name == "leavers":  # billed before the reply: what was cut off in between may be there
                if not tally.answers <= row["requests"] <= tally.sent:
                    faults.append(
                        f"{name}: {row['requests']} billed, {tally.answers} received, {tally.sent} sent"
                    )
            elif (row["requests"], row["tokens"]) != (tally.answers, tally.tokens):
                faults.append(
                    f"{name}: {row['requests']} requests of {row['tokens']} tokens billed, "
                    f"{tally.answers} of {tally.tokens} received"
                )
        if not faults:
            break
        time.sleep(1)  # a job's last charges, a withdrawn request's end
    return faults


def judge(
    report: Report, samples: Sequence[Sample], idle: tuple[Sample, Sample], minutes: float
) -> list[str]:
    faults = []
    if report.faults_total:
        faults.append(f"{report.faults_total} wrong replies or statuses")
    before, after = idle
    if after.descriptors > before.descriptors + 10:
        faults.append(
            f"{after.descriptors} descriptors open when all had left, {before.descriptors} before they came"
        )
    if minutes < 3:
        print("memory: too short a run for a verdict")
        return faults
    began, end = samples[0].at, samples[-1].at
    warm = began + max(60.0, (end - began) / 4)
    window = max(30.0, (end - warm) / 4)
    first = statistics.median(one.rss for one in samples if warm <= one.at < warm + window)
    last = statistics.median(one.rss for one in samples if one.at > end - window)
    print(f"memory: {first:.1f} MiB after the warm-up, {last:.1f} MiB at the end ({last / first - 1:+.1%})")
    if last > first * (1 + FLAT):
        faults.append(f"memory grew from {first:.1f} to {last:.1f} MiB after the warm-up")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not (0 < arguments.minutes <= 600 and 1 <= arguments.clients <= 2000):
        parser.error("from a moment to 600 minutes, 1 to 2,000 clients")
    texts = Texts.make(arguments.seed)
    with Server("--limits", "lenient", environment={"EMBEDSERVE_ADMIN_KEY": ADMIN_KEY}) as server:
        admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
        keys, ids = {}, {}
        for name in ("queries", "plain", "loaders", "leavers", "jobs"):
            made = httpx.post(f"{server.url}/admin/keys", json={"name": name}, headers=admin).json()
            keys[name], ids[name] = made["secret"], made["id"]
        before = sample(server.process.pid)
        soak = Soak(int(server.url.rsplit(":", 1)[1]), texts, keys, arguments.minutes * 60)
        samples = asyncio.run(run(soak, arguments.clients, arguments.seed, server.process.pid))
        print()
        for kind, outcomes in soak.report.outcomes.items():
            print(
                f"{kind:12} " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
            )
        print()
        time.sleep(3)
        faults = judge(soak.report, samples, (before, sample(server.process.pid)), arguments.minutes)
        faults += judge_ledger(server, soak, ids)
        tracebacks = server.log.count("Traceback")
        if tracebacks:
            first = server.log[max(0, server.log.index("Traceback") - 300) :][:3000]
            faults.append(f"{tracebacks} tracebacks in the server's log, the first: {first}")
        if (status := server.stop(timeout=60)) not in (0, -signal.SIGTERM):
            faults.append(f"the server ended with status {status}")
    for kind, told in soak.report.faults.items():
        print(*(f"  {kind}: {fault}" for fault in told), sep="\n")
    print("\nverdict: " + ("NOT GOOD: " + "; ".join(faults) if faults else "good"))
    if arguments.json:
        made = {
            "minutes": [asdict(line) for line in soak.report.minutes],
            "outcomes": soak.report.outcomes,
            "faults": faults,
        }
        arguments.json.write_text(json.dumps(made, indent=2))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
