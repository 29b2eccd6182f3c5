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
from pathlib import Path
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from src.serving.cog import schema
from src.serving.cog.backend import Backend
from src.serving.cog.environment import ServerError
from src.serving.cog.gateway import Gateway
from src.serving.temp_dirs import OwnedDir, remove_orphans

logger = logging.getLogger(__name__)

PREDICTOR = "predict.py:Predictor"
FETCHING = "fetched_inputs"
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = "5000"
HEADER_TIMEOUT_S = 10.0
MAX_HEADER_BYTES = 32 << 10
MAX_CONNECTIONS = 128
KEEP_ALIVE_S = 5
CLEANUP_INTERVAL_S = 600.0


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose request head is not complete after HEADER_TIMEOUT_S."""

    timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_timer()
        super().connection_lost(exc)

    def watch_head(self) -> None:
        """Start the timer while a request head is awaited, stop it once it is there."""
        if self.conn.their_state is not h11.IDLE:
            self.stop_timer()
        elif self.timer is None:
            self.timer = self.loop.call_later(HEADER_TIMEOUT_S, self.transport.close)

    def stop_timer(self) -> None:
        """Stop the timer, if it runs."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


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
        await gateway.backend.process.wait()
        server.should_exit = True

    app.router.lifespan_context = lifespan
    options: dict[str, Any] = {"http": BoundedProtocol, "ws": "none", "loop": "asyncio", "lifespan": "on"}
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            **options,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_S,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        )
    )
    asyncio.run(server.serve(sockets=[listener]))
    return max(status, 0)


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
        return socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
    except OSError as error:
        raise ServerError(f"HOST {host}, PORT {port}: {error.strerror or error}; set another one") from error


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(prog="python -m src.serving.cog.gateway_server", description=__doc__)
    command.add_argument("--host", default=os.environ.get("HOST") or DEFAULT_HOST)
    command.add_argument("--port", type=int, default=os.environ.get("PORT") or DEFAULT_PORT)
    command.add_argument("--upload-url", help="where Cog puts outputs")
    command.add_argument("--folder", type=Path, default=Path(), help="the predictor's folder")
    command.add_argument("--predictor", default=PREDICTOR)
    command.add_argument("--log-format", default=os.environ.get("LOG_FORMAT") or "console", help="of Cog's log lines")
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        if arguments.log_format == "console":
            sys.stderr.write(f"http://{arguments.host}:{arguments.port} answers, also before the model is loaded\n")
        return run(arguments)
    except (ServerError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
