"""The predictions of README.md and docs/inputs.md, as they stand there, through the real server."""

from pathlib import Path

import pytest

from app import preview
from app.inputs import input_schema
from src.serving.cog.cli_inputs import read_inputs
from tests.conftest import ROOT
from tests.predict.conftest import Service
from tests.test_docs import examples

VIDEO, OWN_LORA = "MULTITALK_MODEL=infinitetalk-puppet ", "MULTITALK_LORA_FILES=1 "
LINES = dict(examples("predict.py"))


def run(service: Service, line: str) -> None:
    """One line; it makes as many frames as it says."""
    inputs = read_inputs(LINES[line], input_schema())
    answer = service.server.predict(inputs)
    assert answer["status"] == "succeeded", answer.get("error")
    assert answer["output"].startswith("data:video/mp4;base64,")
    if "num_frames" in inputs and not inputs.get("preview_speakers"):
        assert answer["metrics"]["frames"] == round(inputs["num_frames"] * inputs.get("fps", 25) / 25)


@pytest.mark.parametrize("line", [line for line in LINES if not line.startswith((VIDEO, OWN_LORA))])
@pytest.mark.usefixtures("short_examples", "fusionx")
def test_example(service: Service, line: str) -> None:
    run(service, line)


def test_preview_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MULTITALK_MODEL", "multitalk-puppet")
    ((_, tokens),) = examples("app.preview")
    options = [word for token in tokens for word in ("-i", token)]
    assert preview.main([*options, "-o", f"{tmp_path}/who.png"]) == 0
