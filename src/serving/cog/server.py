"""Run Cog's own HTTP server behind the gateway, without Docker.

`python -m src.serving.cog.server` serves on HOST and PORT: see `src.serving.cog.gateway_server`.
`Server` runs one as a child process on a free loopback port, for the command line and for tests.
"""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from src.serving.cog import schema
from src.serving.cog.cli_inputs import MAX_BODY_BYTES
from src.serving.cog.environment import MALLOC_ENV, ServerError, free_port, server_environment

__all__ = ["MALLOC_ENV", "InputRefusedError", "Server", "ServerError", "free_port", "predictor_line"]

PREDICTOR = "predict.py:Predictor"
REPOSITORY = Path(__file__).resolve().parents[3]
GATEWAY = [sys.executable, "-m", "src.serving.cog.gateway_server"]
COG_SERVER = [sys.executable, "-m", "cog.server.http"]
POLL_INTERVAL_S = 0.05
HEALTH_TIMEOUT_S = 5.0
BUSY_TIMEOUT_S = 120.0
"""How long `Server.predict` waits for a previous request to end."""
STOP_TIMEOUT_S = 15.0
MAX_QUOTED_CHARS = 200
SETUP_ERROR_PREFIX = re.compile(r"^worker setup failed.*?Setup failed: (setup failed: )?", re.DOTALL)


class InputRefusedError(ServerError):
    """An input violates the schema; the message says which and why."""


class Server:
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

    def wait_ready(self, timeout_s: float) -> None:
        """Return once the server accepts a request, that is after setup and between requests.

        ServerError, with the server's own message, if it exits, fails its setup or crashes, or after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while (state := (health := self.health()).get("status")) != "READY":
            if self.process.poll() is not None:
                self._log_thread.join(1.0)
                tail = "\n".join(self.logs[-20:])
                raise ServerError(f"the server exited with status {self.process.returncode}:\n{tail}")
            if state in {"DEFUNCT", "UNHEALTHY"}:
                raise ServerError(f"the worker has crashed or is unhealthy ({state}); the server must be started again")
            if state not in {None, "STARTING", "BUSY"}:
                logs = health.get("setup", {}).get("logs", "").strip()
                raise ServerError(f"setup failed: {SETUP_ERROR_PREFIX.sub('', logs)}")
            if time.monotonic() > deadline:
                unfinished = "the previous request" if state == "BUSY" else "setup (--setup-timeout)"
                raise ServerError(f"{unfinished} did not end within {timeout_s:g} s")
            time.sleep(POLL_INTERVAL_S)

    def health(self) -> dict[str, Any]:
        """The response of `/health-check`; empty while the server does not answer."""
        try:
            status, answer = self.request("GET", "/health-check", timeout=HEALTH_TIMEOUT_S)
        except (OSError, http.client.HTTPException):
            return {}
        return answer if status == 200 and isinstance(answer, dict) else {}

    def predict(self, inputs: Mapping[str, Any], *, prediction_id: str | None = None) -> dict[str, Any]:
        """Request a prediction and wait; the answer's `status` is succeeded, failed or canceled.

        Waits while a previous request is still ending (409). Raises InputRefusedError for a 422, ServerError for any
        other status.
        """
        body = json.dumps({"input": inputs} | ({"id": prediction_id} if prediction_id else {})).encode()
        if len(body) > MAX_BODY_BYTES:
            raise ServerError(
                f"the inputs are {len(body) / 2**20:.0f} MiB once encoded; "
                f"the server accepts {MAX_BODY_BYTES // 2**20} MiB: give URLs instead of files"
            )
        status, answer = self.request("POST", "/predictions", body)
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while status == 409 and time.monotonic() < deadline:
            self.wait_ready(BUSY_TIMEOUT_S)
            time.sleep(POLL_INTERVAL_S)
            status, answer = self.request("POST", "/predictions", body)
        if status == 422:
            raise InputRefusedError(validation_message(answer))
        if status != 200 or not isinstance(answer, dict):
            raise ServerError(f"the server answered {status}: {truncate_middle(str(answer))}")
        return answer

    def cancel(self, prediction_id: str) -> None:
        """Cancel a prediction; the request that waits for it gets the status canceled."""
        status, answer = self.request("POST", f"/predictions/{prediction_id}/cancel")
        if status != 200:
            raise ServerError(f"cancel of {prediction_id} was answered {status}: {truncate_middle(str(answer))}")

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """The response's status and body, decoded if it is JSON. Proxies of the environment are not used."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            text = response.read().decode("utf-8", "replace")
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text

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


def validation_message(answer: Any) -> str:
    """Which inputs a 422 refused and why, shortened: the server repeats the value, which may be a whole file."""
    try:
        return "; ".join(f"{problem['loc'][-1]}: {truncate_middle(problem['msg'])}" for problem in answer["detail"])
    except (KeyError, IndexError, TypeError):
        return f"the server refused the inputs: {truncate_middle(str(answer))}"


def truncate_middle(text: str) -> str:
    """Both ends of a long message: it begins with the value and ends with what is allowed."""
    return text if len(text) <= MAX_QUOTED_CHARS else f"{text[:80]} ... {text[-110:]}"


if __name__ == "__main__":
    from src.serving.cog.gateway_server import main

    sys.exit(main())
