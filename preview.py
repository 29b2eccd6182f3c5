"""Kept for those who call `python preview.py`: the command is `python -m app.preview`."""

import sys

from app.preview import main

if __name__ == "__main__":
    sys.exit(main())
