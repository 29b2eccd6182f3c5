"""Alias of `python -m deploy.runpod_worker`."""

import runpy
from typing import Any


def __getattr__(name: str) -> Any:
    from deploy.runpod_worker import handler

    return getattr(handler, name)


if __name__ == "__main__":
    runpy.run_module("deploy.runpod_worker", run_name="__main__")
