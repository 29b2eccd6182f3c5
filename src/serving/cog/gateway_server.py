"""Run the gateway and, as its child, Cog's server: `python -m src.serving.cog.gateway_server`, on HOST and PORT.

SIGTERM and SIGINT close the port, wait for the predictions that a caller waits for, and then end Cog's server.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette

from src.command_line import Parser, whole_number
from src.serving.cog import schema
from src.serving.cog.backend import Backend
from src.serving.cog.connection import BoundedProtocol, ConnectionLimits
from src.serving.cog.environment import ServerError
from src.serving.cog.gateway import Gateway
from src.serving.temp_dirs import OwnedDir, remove_orphans

logger = logging.getLogger(__name__)

PREDICTOR = "predict.py:Predictor"
FETCHING = "fetched_inputs"
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = "5000"
CLEANUP_INTERVAL_S = 600.0
BACKLOG = 128


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal, a POST to /shutdown or the end of Cog's server; returns the exit status."""
    document = schema.write(arguments.folder, arguments.predictor)
    listener = listen(arguments.host, arguments.port)
    remove_orphans()
    temp_dir = OwnedDir("server-")
    backend = Backend(
        folder=arguments.folder,
        predictor=arguments.predictor,
        temp_dir=temp_dir,
        env={"LOG_FORMAT": arguments.log_format},
        upload_url=arguments.upload_url,
    )
    defer_inputs = fetches_inputs(arguments.folder, arguments.predictor)
    gateway = Gateway(backend=backend, document=document, defer_inputs=defer_inputs)
    gateway.folders.remove_orphans()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn sends itself the signal again after its orderly end
    try:
        return serve(gateway, listener)
    finally:
        temp_dir.remove()


def fetches_inputs(folder: Path, predictor: str) -> bool:
    """Whether the predictor fetches file inputs itself (`app.cog_inputs.fetched_inputs`)."""
    return FETCHING in (folder / predictor.partition(":")[0]).read_text(encoding="utf-8")


def serve(gateway: Gateway, listener: socket.socket) -> int:
    """Run the event loop; returns the exit status of Cog's server."""
    app = gateway.make_app()
    status = 0

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        nonlocal status
        await gateway.backend.start()
        tasks = [asyncio.create_task(stop_with_backend()), asyncio.create_task(clean_repeatedly(gateway))]
        yield
        for task in tasks:
            task.cancel()
        status = await gateway.backend.stop()

    async def stop_with_backend() -> None:
        await gateway.supervisor.run()
        server.should_exit = True

    app.router.lifespan_context = lifespan
    server = make_server(app)
    asyncio.run(server.serve(sockets=[listener]))
    return max(status, 0)


def make_server(app: Starlette, limits: ConnectionLimits | None = None) -> uvicorn.Server:
    """uvicorn with connections within `limits`."""
    limits = limits or ConnectionLimits()
    options: dict[str, Any] = {"http": partial(BoundedProtocol, limits), "ws": "none", "loop": "asyncio"}
    return uvicorn.Server(
        uvicorn.Config(
            app,
            **options,
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=limits.max_connections,
            timeout_keep_alive=limits.keep_alive_s,
            h11_max_incomplete_event_size=limits.max_head_bytes,
        )
    )


async def clean_repeatedly(gateway: Gateway) -> None:
    """Delete what killed processes left, every CLEANUP_INTERVAL_S."""
    while True:
        await asyncio.sleep(CLEANUP_INTERVAL_S)
        await asyncio.to_thread(remove_orphans)
        await asyncio.to_thread(gateway.folders.remove_orphans)


def listen(host: str, port: int) -> socket.socket:
    """The listening socket; ServerError if the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ServerError(f"HOST {host}, PORT {port}: {error.strerror or error}; set another one") from error


def parser() -> Parser:
    """The command line."""
    command = Parser("-m src.serving.cog.server", __doc__)
    command.add_argument("--host", default=os.environ.get("HOST") or DEFAULT_HOST, help="address to listen on (HOST)")
    port = os.environ.get("PORT") or DEFAULT_PORT
    command.add_argument("--port", type=whole_number(1, 65535), default=port, help="port to listen on (PORT)")
    command.add_argument("--upload-url", help="where Cog puts outputs")
    command.add_argument("--folder", type=Path, default=Path(), help="the predictor's folder")
    command.add_argument("--predictor", default=PREDICTOR, help="its file and class")
    command.add_argument("--log-format", default=os.environ.get("LOG_FORMAT") or "console", help="of Cog's log lines")
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        if arguments.log_format == "console":
            sys.stderr.write(f"http://{arguments.host}:{arguments.port} answers, also before the model is loaded\n")
        status = run(arguments)
        if arguments.log_format == "console":
            sys.stderr.write("stopped\n")
        return status
    except (ServerError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
