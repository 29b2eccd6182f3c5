"""Invalid requests are refused cheaply, with a message that names the input, and do no harm."""

import json
import sys
from typing import Any

import pytest

from app.inputs import input_schema
from src.serving.cog.server import InputRefusedError
from tests.predict.cases import ABSENT, CASES, REFUSED_BY_PREDICTOR
from tests.predict.conftest import Service, good

MAX_CPU_SECONDS = 2.0
MAX_MESSAGE_CHARS = 500
GOOD_EVERY = 20
STAGES = ("seed", "speech", "prepare", "condition", "denoise", "decode", "encode", "finish")


def error_of(service: Service, inputs: dict[str, Any], *, schema: bool) -> str:
    """The message of a refused request; the assertions hold for every one of them."""
    cpu_before = service.cpu_seconds()
    if schema:
        with pytest.raises(InputRefusedError) as error:
            service.server.predict(inputs)
        reason = str(error.value)
    else:
        answer = service.server.predict(inputs)
        assert answer["status"] == "failed"
        assert answer.get("output") is None
        assert not [line for line in answer["logs"].splitlines() if line.startswith(STAGES)]
        reason = answer["error"]
    if sys.platform == "linux":
        assert service.cpu_seconds() - cpu_before < MAX_CPU_SECONDS
    return reason


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{case.words[0]}-{n}" for n, case in enumerate(CASES)])
def test_invalid_input_is_refused(service: Service, number: int) -> None:
    case = CASES[number]
    inputs = {name: value for name, value in (good() | case.inputs).items() if value is not ABSENT}
    reason = error_of(service, inputs, schema=number >= len(REFUSED_BY_PREDICTOR))
    assert not [word for word in case.words if word not in reason], reason
    assert len(reason) < MAX_MESSAGE_CHARS
    assert service.server.health()["status"] in {"READY", "BUSY"}
    if number % GOOD_EVERY == GOOD_EVERY - 1:
        assert service.succeed()["metrics"]["frames"] == 1


def test_every_input_has_a_case() -> None:
    inputs = input_schema()["components"]["schemas"]["Input"]["properties"]
    assert set(inputs) == {case.words[0] for case in CASES}


@pytest.mark.parametrize("number", ["NaN", "1e999", "-Infinity"])
def test_numbers_that_json_does_not_have(service: Service, number: str) -> None:
    body = json.dumps({"input": good() | {"audio_start": 0.25}}).replace("0.25", number)
    status, answer = service.post(body.encode())
    assert status == 400
    assert "audio_start" in answer
    service.succeed()


def test_several_mistakes_are_reported_together(service: Service) -> None:
    with pytest.raises(InputRefusedError) as error:
        service.server.predict(good() | {"num_frames": 0, "audio_mode": "loud", "color_correction": 2})
    assert all(name in str(error.value) for name in ("num_frames", "audio_mode", "color_correction"))
