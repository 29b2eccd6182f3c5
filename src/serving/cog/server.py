"""The real Cog server without Docker: started, watched, asked, and always stopped.

`python -m src.serving.cog.server` writes the schema and becomes the server, on `PORT` (5000 if unset).
`Server` runs one as a child on a free loopback port, for the command line and for tests.
"""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
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

PREDICTOR = "predict.py:Predictor"
COMMAND = [sys.executable, "-m", "cog.server.http"]
POLL_S = 0.1
BUSY_WAIT_S = 10.0
STOP_WAIT_S = 15.0
MALLOC_ENV = {"MALLOC_ARENA_MAX": "1"}
"""Cog's worker predicts in threads, and glibc gives each an arena that it keeps: memory would grow for hundreds of
requests (3 MB each with the built-in model) although nothing leaks. cog.yaml says the same."""
SETUP_WRAPPING = re.compile(r"^worker setup failed.*?Setup failed: (setup failed: )?", re.DOTALL)


class ServerError(RuntimeError):
    """The server did not start, went away, or refused a request."""


class InputRefusedError(ServerError):
    """The schema refused an input: the message says which and why."""


def environment(predictor: str, port: int, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that `cog build` would have set, and a PATH on which `python` is this one.

    The server starts its worker as plain `python`, whatever interpreter it runs on itself.
    """
    interpreters = Path(sys.executable).parent
    if not (interpreters / "python").exists():
        raise ServerError(f"Cog needs a `python` beside {sys.executable}: use a virtual environment")
    path = f"{interpreters}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    cog = {"COG_PREDICT_TYPE_STUB": predictor, "PORT": str(port), "PATH": path}
    return {**MALLOC_ENV, **os.environ, "LOG_FORMAT": "json", **(extra or {}), **cog}


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A Cog server for the predictor in `folder`, as a context manager.

    `arguments` are for Cog's server, such as `--upload-url`.
    `on_log` is called with each readable line of the predictor's own output as it comes;
    `logs` keeps every line that the server wrote, as it wrote it.
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
    ) -> None:
        self.folder = folder
        self.predictor = predictor
        self.env = env
        self.setup_timeout = setup_timeout
        self.on_log = on_log
        self.arguments = arguments
        self.port = free_port()
        self.logs: list[str] = []

    @property
    def url(self) -> str:
        """Where the server listens."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        schema.write(self.folder, self.predictor)
        self.process = subprocess.Popen(
            [*COMMAND, "--host", "127.0.0.1", *self.arguments],
            cwd=self.folder,
            env=environment(self.predictor, self.port, self.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches the caller only, who then stops us in order
        )
        self.reader = threading.Thread(target=self.read_logs, daemon=True)
        self.reader.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def read_logs(self) -> None:
        """Keep and pass on what the server writes, until it closes its end."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.logs.append(line.rstrip("\n"))
            message = predictor_line(line)
            if message is not None and self.on_log is not None:
                self.on_log(message)

    def wait_ready(self) -> None:
        """Return once setup has succeeded; ServerError with the server's words when it has not."""
        deadline = time.monotonic() + self.setup_timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                self.reader.join(1.0)
                tail = "\n".join(self.logs[-20:])
                raise ServerError(f"the server ended with status {self.process.returncode}:\n{tail}")
            status = self.health()
            if status.get("status") in {"READY", "BUSY"}:
                return
            if status.get("status") not in {None, "STARTING"}:
                words = status.get("setup", {}).get("logs", "").strip()
                raise ServerError(f"setup failed: {SETUP_WRAPPING.sub('', words)}")
            time.sleep(POLL_S)
        raise ServerError(f"setup did not end within {self.setup_timeout:g} s (--setup-timeout)")

    def health(self) -> dict[str, Any]:
        """The server's own account of its state; empty while nobody answers."""
        try:
            status, answer = self.request("GET", "/health-check", timeout=5.0)
        except (OSError, http.client.HTTPException):
            return {}
        return answer if status == 200 and isinstance(answer, dict) else {}

    def predict(self, inputs: Mapping[str, Any], *, prediction_id: str | None = None) -> dict[str, Any]:
        """Ask for a prediction and wait; the answer's `status` is succeeded, failed or canceled.

        Raises InputRefusedError for a 422, ServerError for anything else that is no answer. A 409, which the
        server also gives for a moment after a finished request, is asked again for a while.
        """
        body = json.dumps({"input": inputs} | ({"id": prediction_id} if prediction_id else {})).encode()
        if len(body) > MAX_BODY_BYTES:
            raise ServerError(
                f"the inputs are {len(body) / 2**20:.0f} MiB once encoded; "
                f"the server takes {MAX_BODY_BYTES // 2**20} MiB: give URLs instead of files"
            )
        deadline = time.monotonic() + BUSY_WAIT_S
        status, answer = self.request("POST", "/predictions", body)
        while status == 409 and time.monotonic() < deadline:
            if self.health().get("status") not in {"READY", "BUSY"}:
                raise ServerError("the worker has crashed; the server must be started again")
            time.sleep(POLL_S / 10)
            status, answer = self.request("POST", "/predictions", body)
        if status == 422:
            raise InputRefusedError(validation_message(answer))
        if status != 200 or not isinstance(answer, dict):
            raise ServerError(f"the server answered {status}: {shortened(str(answer))}")
        return answer

    def cancel(self, prediction_id: str) -> None:
        """Ask the server to stop a prediction; its own request then ends as canceled."""
        status, answer = self.request("POST", f"/predictions/{prediction_id}/cancel")
        if status != 200:
            raise ServerError(f"cancel of {prediction_id} was answered {status}: {shortened(str(answer))}")

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """One HTTP exchange, around any proxy that the environment names."""
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
        """End the server and its worker: asked first, forced after a while. Harmless when repeated."""
        try:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_WAIT_S)
        finally:  # also when a second Ctrl-C ends the waiting
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.reader.join(1.0)


def predictor_line(line: str) -> str | None:
    """What the predictor itself wrote, without the server's wrapping; None for the server's own chatter."""
    try:
        record = json.loads(line)
        fields, level, target = record["fields"], record["level"], record["target"]
        message: str = fields["message"]
    except (ValueError, KeyError, TypeError):
        return line.rstrip("\n")
    if "is deprecated; use" in message:  # the names that earlier users of this model fixed
        return None
    if "source" in fields or target == "coglet::user" or level in {"WARN", "ERROR"}:
        return message
    return None


def validation_message(answer: Any) -> str:
    """Which input a 422 refused and why, short: the server repeats the value, which may be a file."""
    try:
        return "; ".join(f"{problem['loc'][-1]}: {shortened(problem['msg'])}" for problem in answer["detail"])
    except (KeyError, IndexError, TypeError):
        return f"the server refused the inputs: {shortened(str(answer))}"


def shortened(text: str) -> str:
    """Both ends of a long text: the value comes first and what is allowed comes last."""
    return text if len(text) <= 200 else f"{text[:80]} ... {text[-110:]}"


def serve() -> None:
    """Write the schema and become the server, so that signals reach it directly."""
    schema.write()
    port = int(os.environ.get("PORT", "5000"))
    default = {"LOG_FORMAT": os.environ.get("LOG_FORMAT", "console")}
    os.execve(sys.executable, [*COMMAND, *sys.argv[1:]], environment(PREDICTOR, port, default))


if __name__ == "__main__":
    serve()
