"""What cannot be served is refused at once, in words that help, and harms nothing."""

import json
import time
from typing import Any

import pytest

from src.serving.cog import schema
from src.serving.cog.server import InputRefusedError, Server
from tests.conftest import ROOT
from tests.predict.cases import ABSENT, CASES, Case
from tests.predict.conftest import Service, good

MOST_SECONDS = 2.0
MOST_LETTERS = 500
GOOD_EVERY = 20
STAGES = ("seed", "speech", "prepare", "condition", "denoise", "decode", "encode", "finish")


def refused(server: Server, inputs: dict[str, Any], *, schema: bool) -> str:
    """Why a request was not served; the assertions are what holds for every one of them."""
    started = time.monotonic()
    if schema:
        with pytest.raises(InputRefusedError) as error:
            server.predict(inputs)
        reason = str(error.value)
    else:
        answer = server.predict(inputs)
        assert answer["status"] == "failed"
        assert answer.get("output") is None
        assert not [line for line in answer["logs"].splitlines() if line.startswith(STAGES)]
        reason = answer["error"]
    assert time.monotonic() - started < MOST_SECONDS
    return reason


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.title for case in CASES])
def test_is_refused(service: Service, number: int) -> None:
    case: Case = CASES[number]
    inputs = {name: value for name, value in (good() | case.inputs).items() if value is not ABSENT}
    reason = refused(service.server, inputs, schema=case.schema)
    assert not [word for word in case.words if word not in reason], reason
    assert len(reason) < MOST_LETTERS
    assert service.server.health()["status"] in {"READY", "BUSY"}
    if number % GOOD_EVERY == 0:
        service.succeed()


def test_a_good_request_after_all_of_them(service: Service) -> None:
    assert service.succeed()["metrics"]["frames"] == 1


def test_the_table_is_long_and_names_every_input() -> None:
    assert len(CASES) >= 60
    assert len({case.title for case in CASES}) == len(CASES)
    inputs = schema.openapi((ROOT / "predict.py").read_text())["components"]["schemas"]["Input"]["properties"]
    assert set(inputs) == {case.words[0] for case in CASES}


@pytest.mark.parametrize("number", ["NaN", "1e999", "-Infinity"])
def test_what_is_no_json_number(service: Service, number: str) -> None:
    body = json.dumps({"input": good() | {"audio_start": 0.25}}).replace("0.25", number)
    status, answer = service.server.request("POST", "/predictions", body.encode())
    assert status == 400
    assert "audio_start" in answer
    service.succeed()


def test_several_mistakes_are_told_together(service: Service) -> None:
    with pytest.raises(InputRefusedError) as error:
        service.server.predict(good() | {"num_frames": 0, "audio_mode": "loud", "color_correction": 2})
    assert all(name in str(error.value) for name in ("num_frames", "audio_mode", "color_correction"))
