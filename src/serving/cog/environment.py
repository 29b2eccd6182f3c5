"""The environment in which Cog's server runs outside an image."""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

MALLOC_ENV = {"MALLOC_ARENA_MAX": "1"}
"""Cog's worker predicts in threads, and glibc keeps an arena for each: memory would grow over hundreds of requests
(3 MB each with the built-in model) without a leak. cog.yaml sets the same variable."""


class ServerError(RuntimeError):
    """The server did not start, exited, or refused a request."""


def server_environment(predictor: str, port: int, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that `cog build` sets, and a PATH on which `python` is this interpreter.

    The server starts its worker as plain `python`, whatever interpreter it runs on itself.
    """
    bin_dir = Path(sys.executable).parent
    if not (bin_dir / "python").exists():
        raise ServerError(f"Cog needs a `python` beside {sys.executable}: use a virtual environment")
    path = f"{bin_dir}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    cog = {"COG_PREDICT_TYPE_STUB": predictor, "PORT": str(port), "PATH": path}
    return {**MALLOC_ENV, **os.environ, "LOG_FORMAT": "json", **(extra or {}), **cog}


def free_port() -> int:
    """An unused loopback port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
