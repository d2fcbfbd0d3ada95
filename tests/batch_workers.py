"""Job workers in processes of their own, on the dummy backbone, quick to start and to kill."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from embedserve.accounts.accounts import Accounts
from embedserve.embedding.backbones.dummy import DummyBackbone
from embedserve.embedding.backbones.native import NativeTokenizer, NativeUnavailable
from embedserve.embedding.embedder import Embedder
from embedserve.embedding.tokenizer import Tokenizer, UnigramTokenizer
from embedserve.embedding.weights import BundledWeights
from embedserve.http.dashscope.task_lines import TaskLines
from embedserve.http.openai.batch_lines import EMBEDDINGS, BatchLines
from embedserve.jobs.records import Job
from embedserve.jobs.store import Jobs
from embedserve.scheduling.scheduler import Scheduler
from embedserve.service import EmbeddingService, Engine
from embedserve.settings import Settings

WORKSPACE = "default"


def load_tokenizer() -> Tokenizer:
    weights = BundledWeights()
    try:
        return NativeTokenizer(weights)
    except NativeUnavailable:
        return UnigramTokenizer(weights)


TOKENIZER = load_tokenizer()
"""Loaded with this module, hence before the workers are forked: they start in a tenth of a second."""


def open_service(settings: Settings, *, seconds_per_token: float = 0.0) -> EmbeddingService:
    """A service whose vectors are hashes, with everything around them real."""
    backbone = DummyBackbone(hidden_size=32, seconds_per_token=seconds_per_token)
    embedder = Embedder(backbone=backbone, tokenizer=TOKENIZER, recipe="plain")
    scheduler = Scheduler(backbone, memory_limit=256 << 20)
    return EmbeddingService(settings, Accounts.open(settings), Engine(embedder, scheduler))


def open_jobs(service: EmbeddingService) -> Jobs:
    return Jobs(service, service.settings, {"batch": BatchLines(), "task": TaskLines()})


def work(settings: Settings, seconds_per_token: float) -> None:
    """Run jobs until killed."""

    async def run() -> None:
        service = open_service(settings, seconds_per_token=seconds_per_token)
        jobs = open_jobs(service)
        await service.start()
        await jobs.start()
        await asyncio.Event().wait()

    asyncio.run(run())


def start_worker(
    settings: Settings, seconds_per_token: float, target: Callable[[Settings, float], None] = work
) -> multiprocessing.process.BaseProcess:
    """A process like ``embedserve serve``'s working half; forked from one that has everything loaded."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["batch_workers"])
    process = context.Process(target=target, args=(settings, seconds_per_token), daemon=True)
    process.start()
    return process


def key_of(jobs: Jobs) -> str:
    """The id of the one key there is: of whom the jobs are."""
    return jobs.runner.service.accounts.keys.list()[0].id


def submit_batch(jobs: Jobs, id: str, lines: list[bytes], workspace: str = WORKSPACE) -> Job:
    """A batch with a given id: ids of lines derive from it, so two runs can be compared byte for byte."""
    return _submit(jobs, id, "batch", b"\n".join(lines), EMBEDDINGS, "", workspace)


def submit_task(jobs: Jobs, id: str, text: bytes, workspace: str = WORKSPACE) -> Job:
    return _submit(jobs, id, "task", text, "text-embedding", "text-embedding-async-v2", workspace)


def _submit(jobs: Jobs, id: str, kind: str, content: bytes, endpoint: str, model: str, workspace: str) -> Job:
    draft = jobs.files.draft()
    draft.write_bytes(content)
    file = jobs.files.adopt(draft, workspace=workspace, purpose="batch", filename=f"{id}.txt")
    job = Job(
        id=id,
        kind=kind,  # type: ignore[arg-type]
        workspace=workspace,
        key_id=key_of(jobs),
        request_id=id,
        endpoint=endpoint,
        model=model,
        created_at=time.time(),
        deadline=time.time() + 3600,
        input_file_id=file.id,
        options="{}",
        window="24h" if kind == "batch" else "",
    )
    return jobs.submit(job)


def embedding_line(custom_id: str, *texts: str, **fields: object) -> bytes:
    """A line of a batch's input."""
    body = {"model": "text-embedding-v4", "input": list(texts), "dimensions": 64} | fields
    return orjson.dumps({"custom_id": custom_id, "method": "POST", "url": EMBEDDINGS, "body": body})
