"""The predictor where nobody waits for the answer: async requests, webhooks, one PUT given twice."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.predict.conftest import Service, good
from tests.predict.output_video import decode_output
from tests.src.serving.cog.webhook_receiver import WebhookReceiver, receive_webhooks


@pytest.fixture
def received() -> Iterator[WebhookReceiver]:
    with receive_webhooks() as receiver:
        yield receiver


def put(service: Service, name: str, hook: WebhookReceiver, **inputs: Any) -> tuple[int, Any]:
    body = json.dumps({"input": good() | inputs, "webhook": hook.url}).encode()
    headers = {"Prefer": "respond-async"}
    return service.server.request("PUT", f"/predictions/{name}", body, headers=headers)


def test_put_twice_runs_once_and_calls_the_webhook(service: Service, received: WebhookReceiver) -> None:
    begin = len(service.lines)
    answers = [put(service, "webhook-once", received, num_frames=9) for _ in range(2)]
    assert [status for status, _ in answers] == [202, 202]
    told = received.wait_for("succeeded")
    assert decode_output(told).frames == 9
    assert told["metrics"]["frames"] == 9
    assert [line for line in service.lines[begin:] if line.startswith("seed")] == ["seed 1, 9 frames"]


def test_webhook_after_cancel(service: Service, received: WebhookReceiver) -> None:
    begin = len(service.lines)
    put(service, "webhook-long", received, num_frames=33, sampling_steps=100)
    service.wait_for_line("denoise: chunk 1 of 1, step 2", after=begin)
    service.server.cancel("webhook-long")
    told = received.wait_for("canceled")
    assert told.get("output") is None
    assert service.succeed()["metrics"]["frames"] == 1


def test_log_has_the_prediction_id_and_not_the_prompt(service: Service, received: WebhookReceiver) -> None:
    """Cog's server writes the lines as JSON, each with the id of its prediction."""
    written = len(service.server.logs)
    put(service, "webhook-logged", received, prompt="my private matter " * 200)
    received.wait_for("succeeded")
    lines = [json.loads(line) for line in service.server.logs[written:]]
    named = [line["fields"] for line in lines if line["fields"].get("prediction_id") == "webhook-logged"]
    messages = [fields["message"] for fields in named]
    assert {"seed 1, 1 frames", "denoise: chunk 1 of 1, step 2 of 2"} <= set(messages)
    assert any("tokens; the first" in message for message in messages)
    assert not any("private" in line for line in service.server.logs[written:])
