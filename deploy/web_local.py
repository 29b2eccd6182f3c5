"""Alias of `python -m deploy.web`."""

import runpy
from typing import Any


def __getattr__(name: str) -> Any:
    from deploy.web import local

    return getattr(local, name)


if __name__ == "__main__":
    runpy.run_module("deploy.web", run_name="__main__")
