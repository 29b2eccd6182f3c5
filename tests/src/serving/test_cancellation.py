"""Progress and cancellation reach the code that works on a request, and only that."""

import pytest

from src.serving.cancellation import (
    CancelledError,
    RequestContext,
    current_request_id,
    raise_if_cancelled,
    report_progress,
    request_context,
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
