"""HTTP API with a queue: submit a request, poll its result, cancel it.

`deploy/web/local.py` serves it on one machine, `deploy/modal_functions/functions.py` in front of Modal's GPUs.
"""

import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from app.inputs import check_files
from deploy.fields import LIST_FIELDS, file_lists, lora_list, translate_names
from src.errors import InputError
from src.serving.validation import validate_object
from src.storage.settings import DownloadLimits

SUBMIT_SCHEMA = {
    "properties": {**{name: {"type": "string"} for name in ("image", "audio1", "audio2", "prompt")}, **LIST_FIELDS},
    "required": ["image", "audio1"],
}
FIELD_NAMES = {"image": "image", "first_audio": "audio1", "second_audio": "audio2"}
"""The API's fields by input name, for error messages."""
MAX_BODY_BYTES = 1 << 20
EXPIRED = "the result has expired"
URL_PREFIXES = ("https://", "http://")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRequest:
    """A parsed request: URLs by input name, the prompt, and inputs that are lists but no files (`loras`)."""

    files: Mapping[str, str | Sequence[str]]
    prompt: str | None
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Working:
    """Queued or running; the last progress message, where the backend knows it."""

    progress: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The video, as a file or as bytes."""

    video: Path | bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The error message."""

    message: str


class UnknownCallError(LookupError):
    """No call has this id."""


class ExpiredError(LookupError):
    """The call's result has been deleted."""


class QueueFullError(RuntimeError):
    """Too many calls are queued or running."""


class Backend(Protocol):
    """Runs the requests."""

    def submit(self, request: SubmitRequest) -> str:
        """Start a call; returns its id. Raises QueueFullError."""

    def result(self, call_id: str) -> Working | Finished | Failed:
        """The state of a call. Raises UnknownCallError, ExpiredError."""

    def cancel(self, call_id: str) -> None:
        """Cancel a call. Raises UnknownCallError, ExpiredError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What clients must present: a bearer token, or a key with its secret."""

    token: str = ""
    key: str = ""
    secret: str = ""

    def configured(self) -> bool:
        """Whether any client can authenticate."""
        return bool(self.token or (self.key and self.secret))

    def authenticate(self, request: Request) -> None:
        """HTTPException 401 for wrong or missing credentials, 503 when none are configured."""
        if not self.configured():
            raise HTTPException(503, "no token is configured; the operator sets WEB_TOKEN, or WEB_KEY and WEB_SECRET")
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        key, secret = (request.headers.get(name, "") for name in ("Modal-Key", "Modal-Secret"))
        has_token = bool(self.token) and scheme.lower() == "bearer" and constant_time_equal(token, self.token)
        has_key = (
            bool(self.key and self.secret)
            and constant_time_equal(key, self.key)
            and constant_time_equal(secret, self.secret)
        )
        if not has_token and not has_key:
            challenge = {"WWW-Authenticate": "Bearer"}
            raise HTTPException(401, "a valid bearer token, or Modal-Key and Modal-Secret, is needed", challenge)


def read_credentials(environ: Mapping[str, str]) -> Credentials:
    """From WEB_TOKEN, WEB_KEY and WEB_SECRET."""
    return Credentials(
        token=environ.get("WEB_TOKEN", ""), key=environ.get("WEB_KEY", ""), secret=environ.get("WEB_SECRET", "")
    )


def constant_time_equal(value: str, expected: str) -> bool:
    """Comparison whose duration does not depend on the number of equal characters."""
    return hmac.compare_digest(value.encode(), expected.encode())


async def read_json_body(request: Request) -> dict[str, Any]:
    """The request body, a JSON object of at most MAX_BODY_BYTES. HTTPException 413 or 422."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"the request is longer than {MAX_BODY_BYTES:,} bytes; give URLs for files")
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise HTTPException(422, "the request is not a JSON object")
    return fields


def parse_submit(fields: Mapping[str, Any], limits: DownloadLimits) -> SubmitRequest:
    """Check the fields of a request. InputError, which names the field, also for more files than `limits` allow."""
    values = validate_object(fields, SUBMIT_SCHEMA, noun="accepted field")
    present = {name: field for name, field in FIELD_NAMES.items() if field != "audio2" or values[field]}
    files = {name: require_url(values[field], field) for name, field in present.items()}
    lists = file_lists(values)
    check_files(lists, limits)
    urls = {
        name: [require_url(url, f"{name} (number {n})") for n, url in enumerate(urls, 1)]
        for name, urls in lists.items()
    }
    return SubmitRequest(files={**files, **urls}, prompt=values["prompt"], lists=lora_list(values))


def require_url(text: str, name: str) -> str:
    """The text if it is an HTTP URL. InputError for the other forms of a file, which only trusted callers may use."""
    if not text.startswith(URL_PREFIXES):
        raise InputError(f"{name} is {text[:80]!r}; a URL is needed")
    return text


def make_app(backend: Backend, credentials: Credentials, limits: DownloadLimits | None = None) -> FastAPI:
    """The ASGI application. Without credentials it answers every request with 503. `limits` are those of the backend,
    so that a request that it would refuse is not queued."""
    app = FastAPI(
        title="MultiTalk",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(credentials.authenticate)],
    )

    @app.post("/submit")
    def submit(fields: Annotated[dict[str, Any], Depends(read_json_body)]) -> JSONResponse:
        try:
            return JSONResponse({"call_id": backend.submit(parse_submit(fields, limits or DownloadLimits()))}, 202)
        except InputError as error:
            raise HTTPException(422, str(error)) from error
        except QueueFullError as error:
            raise HTTPException(429, str(error), {"Retry-After": "60"}) from error

    @app.api_route("/result/{call_id}", methods=["GET", "HEAD"])
    def result(call_id: str) -> Response:
        return to_response(lookup(backend.result, call_id))

    @app.post("/cancel/{call_id}")
    def cancel(call_id: str) -> JSONResponse:
        lookup(backend.cancel, call_id)
        return JSONResponse({"call_id": call_id, "status": "canceled"})

    return app


def lookup(method: Callable[[str], T], call_id: str) -> T:
    """Call a method of the backend. HTTPException 404 for an unknown call, 410 for an expired one."""
    try:
        return method(call_id)
    except UnknownCallError as error:
        raise HTTPException(404, "there is no such call") from error
    except ExpiredError as error:
        raise HTTPException(410, EXPIRED) from error


def to_response(state: Working | Finished | Failed) -> Response:
    """202 while working, 200 with the video, 500 with the error message in terms of the API's fields."""
    if isinstance(state, Working):
        return JSONResponse({"status": "working", "progress": state.progress}, 202)
    if isinstance(state, Failed):
        return JSONResponse({"status": "failed", "detail": translate_names(state.message, FIELD_NAMES)}, 500)
    if isinstance(state.video, Path) and not state.video.is_file():
        raise HTTPException(410, EXPIRED)
    if isinstance(state.video, Path):
        return FileResponse(state.video, media_type="video/mp4")
    return Response(state.video, media_type="video/mp4")
