"""Plain and JSON log lines, and log levels."""

import json
import logging
from collections.abc import Iterator

import pytest

from src.serving import logs
from src.serving.cancellation import RequestContext, request_context


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    levels = {name: logging.getLogger(name).level for name in logs.OWN_LOGGERS}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, own_level in levels.items():
        logging.getLogger(name).setLevel(own_level)


def test_json_lines_have_the_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure({"MULTITALK_LOG": "json"})
    logger = logging.getLogger("deploy.test")
    with request_context(RequestContext(request_id="r1")):
        logger.info("made %d", 3, extra={"fields": {"event": "request", "seconds": 1.5}})
    logger.warning("äh")
    try:
        raise KeyError("x")
    except KeyError:
        logger.exception("failed")
    first, second, third = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert {name: first[name] for name in ("level", "message", "request", "event", "seconds")} == {
        "level": "INFO",
        "message": "made 3",
        "request": "r1",
        "event": "request",
        "seconds": 1.5,
    }
    assert first["time"].endswith("+00:00")
    assert (second["message"], "request" in second) == ("äh", False)
    assert "KeyError: 'x'" in third["traceback"]


def test_debug_lines_of_libraries_are_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("multitalk").debug("prompt: hidden")
    logs.configure({"MULTITALK_LOG_LEVEL": "DEBUG"})
    logging.getLogger("multitalk").debug("prompt: shown")
    logging.getLogger("urllib3").debug("library")
    assert capsys.readouterr().err.splitlines() == ["prompt: shown"]


@pytest.mark.parametrize(("name", "value"), [("MULTITALK_LOG", "xml"), ("MULTITALK_LOG_LEVEL", "loud")])
def test_invalid_settings_are_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is '{value}'; allowed are"):
        logs.configure({name: value})
