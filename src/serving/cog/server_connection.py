"""HTTP requests to a Cog server: its health, its schema, predictions."""

import contextlib
import http.client
import json
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from src.errors import truncated_repr
from src.serving.cog.cli_inputs import MAX_BODY_BYTES
from src.serving.cog.environment import ServerError
from src.serving.cog.failure import truncate_middle

POLL_INTERVAL_S = 0.05
HEALTH_TIMEOUT_S = 5.0
SCHEMA_TIMEOUT_S = 30.0
BUSY_TIMEOUT_S = 120.0
"""How long `predict` waits for a previous request to end."""
SETUP_ERROR_PREFIX = re.compile(r"^worker setup failed.*?Setup failed: (setup failed: )?", re.DOTALL)


class InputRefusedError(ServerError):
    """An input violates the schema; the message says which and why."""


class ServerConnection:
    """A Cog server at a URL."""

    def __init__(self, url: str) -> None:
        """ValueError for what is not an http or https URL."""
        try:
            address = urlsplit(url)
            is_url = address.scheme in {"http", "https"} and bool(address.hostname) and address.port != 0
        except ValueError:
            is_url = False
        if not is_url:
            raise ValueError(f"the server's URL is {truncated_repr(url)}; one like http://127.0.0.1:5000 is needed")
        self._url = url

    @property
    def url(self) -> str:
        """The server's base URL."""
        return self._url

    def check_running(self) -> None:
        """ServerError if the server is known to have ended; a remote one is not."""

    def schema(self) -> dict[str, Any]:
        """The server's OpenAPI document. ServerError if nothing answers, or something else than a Cog server."""
        try:
            status, document = self.request("GET", "/openapi.json", timeout=SCHEMA_TIMEOUT_S)
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"no server answers at {self.url}: {error}") from error
        try:
            document["components"]["schemas"]["Input"]["properties"]
        except (KeyError, TypeError) as error:
            raise ServerError(f"{self.url} is not a Cog server: its /openapi.json was answered {status}") from error
        return dict(document)

    def wait_ready(self, timeout_s: float) -> None:
        """Return once the server accepts a request, that is after setup and between requests.

        ServerError, with the server's own message, if it exits, fails its setup or crashes, or after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while (state := (health := self.health()).get("status")) != "READY":
            self.check_running()
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
        address = urlsplit(self.url)
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        connection = kind(address.hostname or "", address.port, timeout=timeout)
        with contextlib.closing(connection):
            target = address.path.rstrip("/") + path
            connection.request(method, target, body, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            text = response.read().decode("utf-8", "replace")
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text


def validation_message(answer: Any) -> str:
    """Which inputs a 422 refused and why, shortened: the server repeats the value, which may be a whole file."""
    try:
        return "; ".join(f"{problem['loc'][-1]}: {truncate_middle(problem['msg'])}" for problem in answer["detail"])
    except (KeyError, IndexError, TypeError):
        return f"the server refused the inputs: {truncate_middle(str(answer))}"
