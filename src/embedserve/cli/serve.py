"""``embedserve serve``."""

from __future__ import annotations

import gc
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedserve.cli.listener import listen as listen
from embedserve.configuration import read_settings
from embedserve.errors import EmbedserveError
from embedserve.heap import keep_heap_small
from embedserve.logs import configure_logs
from embedserve.settings import Settings

log = logging.getLogger("embedserve.start")

if TYPE_CHECKING:
    from embedserve.embedding.embedder import Embedder


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (8080); 0 takes a free one.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where keys, usage and jobs are kept.")] = None,
    limits: Annotated[str | None, typer.Option(help="strict (as the original) or lenient.")] = None,
    recipe: Annotated[str | None, typer.Option(help="ladder or plain; see docs/quality.md.")] = None,
    isa: Annotated[str | None, typer.Option(help="Instruction set of the engine; see `doctor`.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the engine; default: usable cores.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="NAME=PATH, ID or URL: what serves a public name (docs/models.md); repeatable."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda, for such models.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or int8, for such models.")] = None,
    database_url: Annotated[str | None, typer.Option(help="postgresql://… for servers of a fleet.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="redis://… for limits that a fleet shares.")] = None,
    log_level: Annotated[str | None, typer.Option(help="critical, error, warning, info or debug.")] = None,
) -> None:
    """Start the server. Every option is also a setting EMBEDSERVE_*; see the README."""
    given = dict(locals())
    given["models"] = read_models(given.pop("model")) if model else None
    run(read_settings(**given))


def read_models(options: list[str]) -> dict[str, str]:
    """``NAME=REFERENCE`` options as a table. Raises EmbedserveError for one without both."""
    pairs = [option.partition("=") for option in options]
    if wrong := [option for option, (name, _, to) in zip(options, pairs, strict=True) if not (name and to)]:
        shown = wrong[0].partition("=")[0][:60]  # a URL may hold a password
        raise EmbedserveError(f"--model is {shown!r}…, it should be NAME=PATH, NAME=ID or NAME=URL")
    return {name: reference for name, _, reference in pairs}


def run(settings: Settings) -> None:
    """Load the model and answer until SIGTERM or Ctrl-C; what was accepted by then is answered first."""
    configure_logs(settings.log_level, settings.log_format)
    keep_heap_small()
    check_start(settings)
    listener = listen(settings.host, settings.port)
    gc.disable()  # what is made from here to the end of this function is there to stay
    with ThreadPoolExecutor(1) as side:  # the model loads while everything else is imported
        loading = side.submit(load_model, settings)
        from embedserve.http.app import create_app
        from embedserve.http.front.gate import Gate
        from embedserve.http.front.server import Server
        from embedserve.service import EmbeddingService

        service = EmbeddingService.open(settings, loading)
        gate = Gate.of(settings)
        app = create_app(service, gate)
    gc.freeze()
    gc.enable()
    # The engine's thread needs the interpreter for a moment between two chunks. Event loop and ledger would
    # let it wait for up to 5 ms, Python's default, with all cores idle.
    sys.setswitchinterval(0.0005)
    host, port = listener.getsockname()[:2]
    greet(f"http://{f'[{host}]' if ':' in host else host}:{port}", service)
    Server.of(app, settings, gate).run([listener])


def check_start(settings: Settings) -> None:
    """What can be known before a model is loaded. Raises EmbedserveError."""
    folders = {"EMBEDSERVE_DATA_DIR or --data-dir": settings.data_dir}
    if settings.files_dir:
        folders["EMBEDSERVE_FILES_DIR"] = settings.files_dir
    for name, folder in folders.items():
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with TemporaryFile(dir=folder):
                pass
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no path"
            raise EmbedserveError(f"{name}: {folder} cannot be written to ({reason}): name another") from None
    if settings.weights and not settings.weights.is_file():
        raise EmbedserveError(f"EMBEDSERVE_WEIGHTS is {settings.weights}: there is no such file")
    if settings.models or (settings.data_dir / "models.toml").exists():
        from embedserve.engines import read_references

        read_references(settings)


def load_model(settings: Settings) -> Embedder:
    """The bundled model; imports NumPy, but neither the accounts nor the HTTP side."""
    if settings.isa != "reference":
        # The engine brings its own threads. NumPy's would only wait beside them.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from embedserve.embedding.embedder import Embedder

    return Embedder.configure(settings)


def greet(url: str, service: Any) -> None:
    """Where it listens and a curl line that works. The key is shown only on the start that made it."""
    secret = service.accounts.new_secret
    first = f"embedserve on {url} ({service.engine.embedder.backbone.name})"
    if service.settings.log_format == "json":
        log.info(first)
        if secret:
            log.warning("A new API key, shown this once: %s", secret)
        return
    key = secret or "$DASHSCOPE_API_KEY"
    lines = [first]
    if secret:
        lines += [f"A new API key, shown this once: {secret}", f"  export DASHSCOPE_API_KEY={secret}"]
    elif service.settings.api_key is None:
        lines.append(f"The key was shown at the first start; another one: {sys.argv[0]} keys create")
    lines += [
        "Try:",
        f"  curl {url}/compatible-mode/v1/embeddings -H 'Content-Type: application/json' "
        f'-H "Authorization: Bearer {key}" '
        """-d '{"model": "text-embedding-v4", "input": "The quality of the clothes is excellent"}'""",
    ]
    lines.append(f"Console: {url}/console/")
    print("\n".join(lines), file=sys.stderr, flush=True)
