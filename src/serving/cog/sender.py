"""Who may send a request: programs, and the pages of this server itself, but no web page of another one."""

import ipaddress

from starlette.requests import Request

from src.errors import truncated_repr
from src.serving.cog.prediction_request import RefusedError

JSON_TYPE = "application/json"


def check_content_type(request: Request) -> None:
    """RefusedError for a body that is declared as anything but JSON, as Cog does."""
    media_type = request.headers.get("content-type", JSON_TYPE).partition(";")[0].strip().lower()
    if media_type != JSON_TYPE and not media_type.endswith("+json"):
        raise RefusedError(415, f"the Content-Type is {truncated_repr(media_type)}; {JSON_TYPE} is needed")


def check_origin(request: Request) -> None:
    """RefusedError for what a browser sends from a page of another server, which needs no consent of its user."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise RefusedError(403, f"a web page of {truncated_repr(origin)} may not use this server")


def is_loopback(request: Request) -> bool:
    """Whether the sender is on this machine."""
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False
