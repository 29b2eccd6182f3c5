"""Kept for those who call `python preview.py`: the command is `python -m app.preview`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("app.preview", run_name="__main__")
