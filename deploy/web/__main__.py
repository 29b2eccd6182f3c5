"""`python -m deploy.web`: the HTTP API with a queue in this process.

It listens on HOST (127.0.0.1 unless set) and PORT (8000); docs/deploy.md has the other environment variables.
"""

from src.command_line import Parser, launch


def make_parser() -> Parser:
    """The command line, which has no arguments."""
    return Parser("-m deploy.web", __doc__)


if __name__ == "__main__":
    launch("deploy.web.local", make_parser)
