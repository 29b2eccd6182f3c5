"""Limits of processes that decode untrusted files."""

import threading

import pytest

from src.media.sandbox import Sandbox, SandboxError
from src.serving.cancellation import CancelledError, RequestContext, request_context

MODULE = "tests.src.media.sandboxed"


@pytest.mark.parametrize(
    ("behavior", "error", "words"),
    [
        ("spin", SandboxError, "takes more than 60 s of processor time to decode"),
        ("crash", SandboxError, "the decoder was ended by SIGSEGV"),
        ("allocate", RuntimeError, "ended with status 1"),
    ],
)
def test_process_is_limited(behavior: str, error: type[Exception], words: str) -> None:
    with Sandbox(MODULE, behavior) as process:
        assert process.read_line() == b"ready"
        with pytest.raises(error, match=words):
            process.read(1)


def test_cancel_kills_the_process() -> None:
    context = RequestContext(request_id="r")
    with request_context(context), Sandbox(MODULE, "sleep") as process:
        assert process.read_line() == b"ready"
        threading.Timer(0.2, context.cancelled.set).start()
        with pytest.raises(CancelledError):
            process.read(1)
    assert process.exit_status == -9


def test_secrets_are_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Sandbox(MODULE, "environment") as process:
        assert [process.read_line(), process.read_line()] == [b"ready", b"False"]
