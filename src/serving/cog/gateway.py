"""The HTTP gateway before Cog's server: checks ids, sizes, times and input names, and deletes what Cog leaves behind.

Everything else is Cog's: webhooks, async requests, idempotent PUT, cancellation, also by closing the connection.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx2
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from src.serving.cog import page
from src.serving.cog.backend import Backend
from src.serving.cog.failure import simplify_answer
from src.serving.cog.prediction_folders import FolderInUseError, PredictionFolders
from src.serving.cog.prediction_request import (
    RefusedError,
    check_fields,
    check_id,
    check_input_names,
    check_webhook,
    defer_files,
    parse_body,
)
from src.serving.cog.request_body import BodyReader
from src.serving.cog.sender import JSON_TYPE, check_content_type, check_origin, is_loopback
from src.serving.cog.supervisor import Supervisor
from src.serving.validation import Schema

logger = logging.getLogger(__name__)

BUSY_WAIT_S = 1.0
"""Cog answers 409 for a moment after each prediction; one that still runs then is really busy."""
BUSY_POLL_S = 0.02
STATE_POLL_S = 0.25
MAX_REWRITTEN_BYTES = 1 << 20
"""Answers of this size and more hold a video, and are passed on as they come."""
FORWARDED_HEADERS = ("accept", "prefer", "traceparent", "tracestate")
CLOSED_REQUEST = 499
"""Status in the log when the caller has closed the connection before the response."""


@dataclass(slots=True, kw_only=True)
class Gateway:
    """Forwards requests to `backend`. `document` is the OpenAPI document of the predictor.

    `defer_inputs` leaves the fetching of file inputs to the predictor, within the limits of `src.storage`.
    """

    backend: Backend
    document: Schema
    folders: PredictionFolders = field(default_factory=PredictionFolders)
    defer_inputs: bool = True
    bodies: BodyReader = field(default_factory=BodyReader)
    detached: list[str] = field(default_factory=list)
    """Accepted async predictions that have not been seen to end."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    supervisor: Supervisor = field(init=False)

    def __post_init__(self) -> None:
        self.supervisor = Supervisor(backend=self.backend)

    def make_app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/", self.root, methods=["GET"]),
                Route("/docs", self.docs, methods=["GET"]),
                Route("/docs/{name}", self.docs_file, methods=["GET"]),
                Route("/health-check", self.health, methods=["GET"]),
                Route("/openapi.json", self.openapi, methods=["GET"]),
                Route("/shutdown", self.shutdown, methods=["POST"]),
                Route("/predictions", self.predict, methods=["POST"]),
                Route("/predictions/{id:path}/cancel", self.cancel, methods=["POST"]),
                Route("/predictions/{id:path}", self.predict, methods=["PUT"]),
            ],
            exception_handlers={
                RefusedError: refuse,
                httpx2.HTTPError: report_unreachable,
                ClientDisconnect: ignore_disconnect,
            },
        )

    async def root(self, request: Request) -> Response:
        """A page for browsers, Cog's list of addresses for programs."""
        if "text/html" in request.headers.get("accept", ""):
            return page.index(self.document)
        return await self.forward(request, "GET", "/")

    async def docs(self, _: Request) -> Response:
        """The page, at the address that Cog's list names."""
        return page.index(self.document)

    async def docs_file(self, request: Request) -> Response:
        """One of the pages in docs/."""
        return page.document(request.path_params["name"])

    async def health(self, _: Request) -> Response:
        """Cog's state; STARTING until it listens."""
        return JSONResponse(await self.backend.health())

    async def openapi(self, request: Request) -> Response:
        """The schema."""
        return await self.forward(request, "GET", "/openapi.json")

    async def shutdown(self, request: Request) -> Response:
        """Cog's /shutdown, for processes on this machine only, and for no web page."""
        if not is_loopback(request):
            raise RefusedError(403, "/shutdown is for programs on the server's own machine")
        check_origin(request)
        return await self.forward(request, "POST", "/shutdown")

    async def cancel(self, request: Request) -> Response:
        """Cancel a prediction."""
        check_origin(request)
        prediction_id = id_in_path(request)
        return await self.forward(request, "POST", f"/predictions/{prediction_id}/cancel", b"{}")

    async def predict(self, request: Request) -> Response:
        """Check a prediction request, forward it, and delete the prediction's folder when it has ended."""
        check_content_type(request)
        check_origin(request)
        path_id = id_in_path(request) if request.method == "PUT" else None
        prediction_id, content = await self.read_prediction(request, path_id)
        self.claim(prediction_id)
        path = "/predictions" if path_id is None else f"/predictions/{path_id}"
        try:
            response = await self.forward(request, request.method, path, content)
        except BaseException:
            self.folders.release(prediction_id)
            raise
        if response.status_code == 202:
            self.detach(prediction_id)
        else:
            self.folders.release(prediction_id)
        return response

    async def read_prediction(self, request: Request, path_id: str | None) -> tuple[str, bytes]:
        """The id and the body that is forwarded."""
        async with self.bodies.read(request) as data:
            body = parse_body(data)
        check_fields(body)
        if body.get("id") is None:
            body["id"] = path_id or uuid4().hex
        prediction_id = check_id(body["id"], "body", "id")
        check_webhook(body.get("webhook"))
        check_input_names(body.get("input"), self.document)
        if self.defer_inputs and "input" in body:
            body["input"] = defer_files(body["input"], self.document)
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        self.bodies.check_length(len(content))
        return prediction_id, content

    def claim(self, prediction_id: str) -> None:
        """Make the prediction's folder, which Cog needs; RefusedError if that is impossible."""
        try:
            self.backend.temp_dir.restore()
            self.folders.claim(prediction_id)
        except FolderInUseError as error:
            raise RefusedError(409, str(error)) from error
        except OSError as error:
            logger.error("%s cannot be made: %s", self.folders.folder / prediction_id, error)
            raise RefusedError(503, f"the server cannot store a prediction ({error.strerror})") from error

    def detach(self, prediction_id: str) -> None:
        """Release an async prediction's folder when it has ended: Cog runs one prediction at a time."""
        ended = [earlier for earlier in self.detached if earlier != prediction_id]
        self.detached = [earlier for earlier in self.detached if earlier == prediction_id] + [prediction_id]
        for earlier in ended:
            self.folders.release(earlier)
        task = asyncio.create_task(self.release_when_ready())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def release_when_ready(self) -> None:
        """Release every detached prediction once Cog is not busy."""
        while self.detached:
            known = list(self.detached)
            if (await self.backend.health()).get("status") not in {"BUSY", "STARTING"}:
                for prediction_id in known:
                    if prediction_id in self.detached:
                        self.detached.remove(prediction_id)
                        self.folders.release(prediction_id)
            await asyncio.sleep(STATE_POLL_S)

    async def forward(self, request: Request, method: str, path: str, content: bytes | None = None) -> Response:
        """Cog's answer. A caller who closes the connection closes that to Cog too, which cancels the prediction."""
        given = {name: request.headers.get(name, "") for name in FORWARDED_HEADERS}
        headers = {name: value for name, value in given.items() if value and value.isascii()}
        headers["content-type"] = JSON_TYPE
        answer = await self.unless_disconnected(request, self.send(method, path, content, headers))
        if answer is None:
            return Response(status_code=CLOSED_REQUEST)
        if answer.status_code == 409 and await self.backend.has_crashed():
            await answer.aclose()
            raise RefusedError(503, f"the worker has crashed; {self.supervisor.advice}")
        length = int(answer.headers.get("content-length", MAX_REWRITTEN_BYTES))
        media_type = answer.headers.get("content-type")
        if length >= MAX_REWRITTEN_BYTES and answer.status_code != 422:  # which repeats the value that is refused
            sizes = {name: answer.headers[name] for name in ("content-length",) if name in answer.headers}
            return StreamingResponse(stream(answer), answer.status_code, sizes, media_type)
        data = await answer.aread()
        await answer.aclose()
        return Response(simplify_answer(data), answer.status_code, media_type=media_type)

    async def send(self, method: str, path: str, content: bytes | None, headers: Mapping[str, str]) -> httpx2.Response:
        """Cog's answer with its body unread. A 409 is asked again for BUSY_WAIT_S."""
        deadline = time.monotonic() + BUSY_WAIT_S
        while True:
            answer = await self.backend.send(method, path, content, headers)
            if answer.status_code != 409 or time.monotonic() > deadline:
                return answer
            await answer.aclose()
            await asyncio.sleep(BUSY_POLL_S)

    async def unless_disconnected(
        self, request: Request, sending: Awaitable[httpx2.Response]
    ) -> httpx2.Response | None:
        """The answer, None if the caller closes the connection before."""
        answer = asyncio.ensure_future(sending)
        closed = asyncio.ensure_future(wait_for_disconnect(request))
        try:
            await asyncio.wait({answer, closed}, return_when=asyncio.FIRST_COMPLETED)
            return answer.result() if answer.done() else None
        finally:
            for task in (answer, closed):
                if not task.done():
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError, httpx2.HTTPError):
                        await task


async def stream(answer: httpx2.Response) -> AsyncIterator[bytes]:
    """The body as it comes."""
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()


async def wait_for_disconnect(request: Request) -> None:
    """Return when the caller closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def id_in_path(request: Request) -> str:
    """The prediction id in the path; RefusedError for one that is not allowed. The router drops a final line break."""
    path: str = request.scope["path"].removeprefix("/predictions/")
    return check_id(path.removesuffix("/cancel") if request.method == "POST" else path, "path", "prediction_id")


async def refuse(_: Request, error: Exception) -> Response:
    """The answer to a request that is not forwarded, in the form of Cog's own refusals."""
    assert isinstance(error, RefusedError)
    detail: Any = str(error)
    if error.status == 422:
        detail = [{"loc": list(error.loc), "msg": str(error), "type": "value_error"}]
    return JSONResponse({"detail": detail}, error.status)


async def report_unreachable(_: Request, error: Exception) -> Response:
    """The answer while Cog's server is starting, or after it has ended."""
    logger.warning("Cog's server does not answer: %s", type(error).__name__)
    return JSONResponse({"detail": "the server is starting or has ended; try again"}, 503)


async def ignore_disconnect(_: Request, __: Exception) -> Response:
    """Nobody reads this."""
    return Response(status_code=CLOSED_REQUEST)
