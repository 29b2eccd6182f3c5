"""Run Cog's own HTTP server behind the gateway, without Docker.

`python -m src.serving.cog.server` serves on HOST and PORT: see `src.serving.cog.gateway_server`.
`Server` runs one as a child process on a free loopback port, for the command line and for tests.
"""

if __name__ == "__main__":  # before the imports below, so that a missing package is said in one sentence
    from src.command_line import launch

    launch("src.serving.cog.gateway_server")

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from src.serving.cog import schema
from src.serving.cog.environment import MALLOC_ENV, ServerError, free_port, server_environment
from src.serving.cog.server_connection import InputRefusedError, ServerConnection, validation_message

__all__ = [
    "MALLOC_ENV",
    "InputRefusedError",
    "Server",
    "ServerError",
    "free_port",
    "predictor_line",
    "validation_message",
]

PREDICTOR = "predict.py:Predictor"
REPOSITORY = Path(__file__).resolve().parents[3]
GATEWAY = [sys.executable, "-m", "src.serving.cog.gateway_server"]
COG_SERVER = [sys.executable, "-m", "cog.server.http"]
STOP_TIMEOUT_S = 15.0


class Server(ServerConnection):
    """Context manager that runs a Cog server for the predictor in `folder`.

    `arguments` are command-line arguments of the gateway, such as `--upload-url`, or of Cog's server without `gateway`.
    `on_log` is called with each line of the predictor's own output as it arrives; `logs` keeps every line of the
    server's output unchanged.
    """

    def __init__(
        self,
        folder: Path = Path(),
        predictor: str = PREDICTOR,
        *,
        env: Mapping[str, str] | None = None,
        setup_timeout: float = 300.0,
        on_log: Callable[[str], None] | None = None,
        arguments: Sequence[str] = (),
        gateway: bool = True,
    ) -> None:
        self.folder = folder
        self.predictor = predictor
        self.env = env
        self.setup_timeout = setup_timeout
        self.on_log = on_log
        self.arguments = arguments
        self.gateway = gateway
        self.port = free_port()
        self.logs: list[str] = []

    @property
    def url(self) -> str:
        """The server's base URL."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        schema.write(self.folder, self.predictor)
        command, folder = COG_SERVER, self.folder
        if self.gateway:
            command = [*GATEWAY, "--predictor", self.predictor, "--folder", str(self.folder.resolve())]
            folder = REPOSITORY
        self.process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", *self.arguments],
            cwd=folder,
            env=server_environment(self.predictor, self.port, self.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches this process only, which then stops the server
        )
        self._log_thread = threading.Thread(target=self._read_logs, daemon=True)
        self._log_thread.start()
        try:
            self.wait_ready(self.setup_timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _read_logs(self) -> None:
        """Collect the server's output until it closes the pipe."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.logs.append(line.rstrip("\n"))
            message = predictor_line(line)
            if message is not None and self.on_log is not None:
                self.on_log(message)

    def check_running(self) -> None:
        """ServerError, with the end of its output, if the process has ended."""
        if self.process.poll() is not None:
            self._log_thread.join(1.0)
            tail = "\n".join(self.logs[-20:])
            raise ServerError(f"the server exited with status {self.process.returncode}:\n{tail}")

    def stop(self) -> None:
        """Terminate the server and its worker, kill them after STOP_TIMEOUT_S; may be called again."""
        try:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT_S)
        finally:  # also if a second Ctrl-C interrupts the wait
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self._log_thread.join(1.0)


def predictor_line(line: str) -> str | None:
    """A line of the predictor's output without the server's JSON around it; None for lines of the server itself."""
    try:
        record = json.loads(line)
        fields, level, target = record["fields"], record["level"], record["target"]
        message: str = fields["message"]
    except (ValueError, KeyError, TypeError):
        return line.rstrip("\n")
    if "is deprecated; use" in message:  # the predictor's published names
        return None
    if "source" in fields or target == "coglet::user" or level in {"WARN", "ERROR"}:
        return message
    return None
