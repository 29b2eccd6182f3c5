"""The web form of the deployments on Modal: submit a request, ask for its result, cancel it.

`deploy/web/local.py` serves it from this machine; `deploy/modal_functions/app.py` puts it before Modal's GPUs.
"""

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from deploy.fields import FieldReader, translate_names
from src.errors import InputError

FIELDS = ("image", "audio1", "audio2", "prompt")
NAMES = {"image": "image", "audio1": "first_audio", "audio2": "second_audio"}
OWN_NAMES = {name: own for own, name in NAMES.items()}
MAX_BODY_BYTES = 1 << 20
EXPIRED = "the result has expired"
URLS = ("https://", "http://")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRequest:
    """A request of the form: URLs by the predictor's names, and its words."""

    media: Mapping[str, str]
    prompt: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Working:
    """Not finished; how far it is, where that is known."""

    progress: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The video, as a file or as bytes."""

    video: Path | bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Why there is no video."""

    message: str


class UnknownCallError(LookupError):
    """There was never such a call."""


class ExpiredError(LookupError):
    """The result was there and has been thrown away."""


class QueueFullError(RuntimeError):
    """More calls wait than are allowed."""


class Backend(Protocol):
    """Where the work is done."""

    def submit(self, talk: SubmitRequest) -> str:
        """Begin, and give the call's id. QueueFullError when too many wait."""

    def result(self, call_id: str) -> Working | Finished | Failed:
        """How it stands. UnknownCallError, ExpiredError."""

    def cancel(self, call_id: str) -> None:
        """Stop the work. UnknownCallError, ExpiredError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Who may ask: the bearer of a token, or of a key and its secret."""

    token: str = ""
    key: str = ""
    secret: str = ""

    def configured(self) -> bool:
        """Whether anybody may."""
        return bool(self.token or (self.key and self.secret))

    def admit(self, request: Request) -> None:
        """HTTPException 401 for a stranger, 503 while nothing is configured: then nobody is let in."""
        if not self.configured():
            raise HTTPException(503, "no token is configured; the operator sets WEB_TOKEN, or WEB_KEY and WEB_SECRET")
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        key, secret = (request.headers.get(name, "") for name in ("Modal-Key", "Modal-Secret"))
        bearer = bool(self.token) and scheme.lower() == "bearer" and constant_time_equal(token, self.token)
        pair = (
            bool(self.key and self.secret)
            and constant_time_equal(key, self.key)
            and constant_time_equal(secret, self.secret)
        )
        if not bearer and not pair:
            challenge = {"WWW-Authenticate": "Bearer"}
            raise HTTPException(401, "a valid bearer token, or Modal-Key and Modal-Secret, is needed", challenge)


def read_credentials(environ: Mapping[str, str]) -> Credentials:
    """WEB_TOKEN, WEB_KEY, WEB_SECRET."""
    return Credentials(**{name: environ.get(f"WEB_{name.upper()}", "") for name in ("token", "key", "secret")})


def constant_time_equal(given: str, expected: str) -> bool:
    """Compared in a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode(), expected.encode())


async def read_json_body(request: Request) -> dict[str, Any]:
    """The JSON object of a request, its length bounded while it comes; HTTPException 413 or 422."""
    body = b""
    async for block in request.stream():
        body += block
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"the request is longer than {MAX_BODY_BYTES:,} bytes; give URLs for files")
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise HTTPException(422, "the request is no JSON object")
    return fields


def parse_submit(fields: Mapping[str, Any]) -> SubmitRequest:
    """The request; InputError names the field."""
    form = FieldReader(fields, FIELDS)
    media = {NAMES[name]: url(form.needed(name, "a URL"), name) for name in ("image", "audio1")}
    if second := form.text("audio2"):
        media["second_audio"] = url(second, "audio2")
    return SubmitRequest(media=media, prompt=form.text("prompt"))


def url(text: str, name: str) -> str:
    """A URL; other forms are for callers who are no strangers."""
    if not text.startswith(URLS):
        raise InputError(f"{name} is {text[:80]!r}; a URL is needed")
    return text


def make_app(backend: Backend, keys: Credentials) -> FastAPI:
    """The application. Without keys it starts, and lets nobody in."""
    app = FastAPI(
        title="MultiTalk", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(keys.admit)]
    )

    @app.post("/submit")
    def submit(fields: Annotated[dict[str, Any], Depends(read_json_body)]) -> JSONResponse:
        try:
            return JSONResponse({"call_id": backend.submit(parse_submit(fields))}, 202)
        except InputError as error:
            raise HTTPException(422, str(error)) from error
        except QueueFullError as error:
            raise HTTPException(429, str(error), {"Retry-After": "60"}) from error

    @app.api_route("/result/{call_id}", methods=["GET", "HEAD"])
    def result(call_id: str) -> Response:
        return answer(lookup(lambda: backend.result(call_id)))

    @app.post("/cancel/{call_id}")
    def cancel(call_id: str) -> JSONResponse:
        lookup(lambda: backend.cancel(call_id))
        return JSONResponse({"call_id": call_id, "status": "canceled"})

    return app


def lookup(ask: Any) -> Any:
    """What the backend says of a call; HTTPException 404 or 410 when it has none."""
    try:
        return ask()
    except UnknownCallError as error:
        raise HTTPException(404, "there is no such call") from error
    except ExpiredError as error:
        raise HTTPException(410, EXPIRED) from error


def answer(state: Working | Finished | Failed) -> Response:
    """202 while working, 200 with the video, 500 with the reason in the form's own terms."""
    if isinstance(state, Working):
        return JSONResponse({"status": "working", "progress": state.progress}, 202)
    if isinstance(state, Failed):
        return JSONResponse({"status": "failed", "detail": translate_names(state.message, OWN_NAMES)}, 500)
    if isinstance(state.video, Path) and not state.video.is_file():
        raise HTTPException(410, EXPIRED)
    if isinstance(state.video, Path):
        return FileResponse(state.video, media_type="video/mp4")
    return Response(state.video, media_type="video/mp4")
