"""Progress and cancellation reach the code that works on a request, and only that."""

import ctypes
import threading

import pytest

from src.serving.cancellation import (
    CancelledError,
    RequestContext,
    current_request_id,
    raise_if_cancelled,
    report_progress,
    request_context,
    run_cancellable,
    start_thread,
)


def test_progress_is_passed_to_the_callback() -> None:
    messages: list[str] = []
    with request_context(RequestContext(request_id="r1", on_progress=messages.append)):
        assert current_request_id() == "r1"
        report_progress("denoise: step 1 of 2")
        report_progress("encode")
    assert messages == ["denoise: step 1 of 2", "encode"]


def test_a_cancelled_request_raises_where_it_is_checked() -> None:
    context = RequestContext(request_id="r1")
    with request_context(context):
        raise_if_cancelled()
        context.cancelled.set()
        with pytest.raises(CancelledError, match="r1 was cancelled"):
            raise_if_cancelled()


def test_outside_a_request_nothing_is_reported_or_cancelled() -> None:
    report_progress("ignored")
    raise_if_cancelled()
    assert current_request_id() is None


def test_a_thread_is_started_by_another_one_than_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """An asynchronous exception for the thread that calls `Thread.start` may end the new thread instead."""
    starters: list[int] = []
    start = threading.Thread.start

    def record(thread: threading.Thread) -> None:
        starters.append(threading.get_ident())
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", record)
    ran = threading.Event()
    start_thread(threading.Thread(target=ran.set))
    assert ran.wait(60)
    assert run_cancellable(threading.get_ident) != threading.get_ident()
    assert len(starters) == 2
    assert threading.get_ident() not in starters


@pytest.mark.parametrize("repetition", range(20))
def test_an_asynchronous_exception_ends_what_waits_for_a_new_thread(repetition: int) -> None:
    beginning, ended = threading.Event(), threading.Event()

    def begin_and_wait() -> None:
        try:
            beginning.set()
            run_cancellable(lambda: ended.wait(60))
        except CancelledError:
            ended.set()

    caller = threading.Thread(target=begin_and_wait, daemon=True)
    caller.start()
    assert beginning.wait(60)
    assert caller.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(caller.ident), ctypes.py_object(CancelledError))
    caller.join(60)
    assert ended.is_set(), repetition
