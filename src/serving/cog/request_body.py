"""Reading the body of a request within limits of size and time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.requests import Request

from src.serving.cog.cli_inputs import MAX_BODY_BYTES
from src.serving.cog.prediction_request import RefusedError


@dataclass(slots=True, kw_only=True)
class BodyReader:
    """Reads bodies of at most `max_bytes` within `timeout_s`, all that are in memory together at most
    `max_buffered_bytes`."""

    max_bytes: int = MAX_BODY_BYTES
    max_buffered_bytes: int = 4 * MAX_BODY_BYTES
    timeout_s: float = 120.0
    buffered_bytes: int = 0

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytearray]:
        """The body, which counts as buffered inside the `async with` block; RefusedError beyond the limits."""
        data = bytearray()
        try:
            self.check_length(int(request.headers.get("content-length", "0")))
            async with asyncio.timeout(self.timeout_s):
                async for chunk in request.stream():
                    data += chunk
                    self.buffered_bytes += len(chunk)
                    self.check_length(len(data))
                    if self.buffered_bytes > self.max_buffered_bytes:
                        raise RefusedError(503, "the server is reading too many requests; try again")
            yield data
        except TimeoutError as error:
            raise RefusedError(408, f"the request body was not here after {self.timeout_s:g} s") from error
        finally:
            self.buffered_bytes -= len(data)

    def check_length(self, num_bytes: int) -> None:
        """RefusedError for a body above the limit."""
        if num_bytes > self.max_bytes:
            raise RefusedError(
                413,
                f"the request body has {num_bytes:,} bytes or more; at most {self.max_bytes:,} are allowed: give URLs",
            )
