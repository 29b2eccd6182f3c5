"""The server around the predictor: cancellation, busy answers, isolation of requests, start-up errors, command line."""

import functools
import http.client
import json
import os
import select
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from src.serving.cog.server import Server, ServerError
from tests.conftest import ROOT
from tests.predict.conftest import STATE_TIMEOUT_S, Service, environment, good
from tests.predict.media_files import plain, recorded, saved, tones, two_people, uri, voice
from tests.predict.output_video import decode_output

STEPS = 100
LONG = {"num_frames": 33, "sampling_steps": STEPS, "turbo": False}
"""A request that runs for many steps."""
RESAMPLED = recorded(tones(0.4, 44_100), 44_100)


@dataclass
class Running:
    """A request whose answer is awaited in another thread."""

    service: Service
    inputs: dict[str, Any]
    prediction_id: str
    answers: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.service.wait_ready()
        self.begin = len(self.service.lines)
        self.thread = threading.Thread(target=self.ask)
        self.thread.start()

    def ask(self) -> None:
        self.answers.append(self.service.server.predict(good() | self.inputs, prediction_id=self.prediction_id))

    def wait_for_line(self, start: str) -> None:
        self.service.wait_for_line(start, after=self.begin)

    def answer(self) -> dict[str, Any]:
        self.thread.join(STATE_TIMEOUT_S)
        assert self.answers, f"{self.prediction_id} was not answered"
        return self.answers[0]

    def cancel(self) -> dict[str, Any]:
        self.service.server.cancel(self.prediction_id)
        return self.answer()

    def lines(self, start: str) -> list[str]:
        """Log lines of this request so far that begin like this."""
        return [line for line in self.service.lines[self.begin :] if line.startswith(start)]


def files(folder: Path) -> list[str]:
    """Every file below, by name."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def output_dirs(service: Service) -> list[Path]:
    return list(service.scratch.rglob("output-*"))


def test_cancel_stops_between_steps_and_the_next_request_succeeds(service: Service) -> None:
    undisturbed = service.succeed(num_frames=5)["output"]
    running = Running(service, LONG, "cancelled")
    running.wait_for_line("denoise: chunk 1 of 1, step 2")
    answer = running.cancel()
    assert answer["status"] == "canceled"
    assert answer.get("output") is None
    assert len(running.lines("denoise")) < STEPS
    assert not running.lines("decode")
    assert service.succeed(num_frames=5)["output"] == undisturbed


def test_cancel_while_frames_are_encoded_leaves_no_partial_file(service: Service) -> None:
    undisturbed = service.succeed()["output"]
    running = Running(service, {"num_frames": 100, "sampling_steps": 20}, "partial")
    running.wait_for_line("decode: chunk 2")  # by then the encoder has begun to write the first chunk
    assert [name for name in files(service.scratch) if name.endswith(".part")]
    assert running.cancel()["status"] == "canceled"
    assert not [name for name in files(service.scratch) if name.endswith((".part", ".mp4"))]
    assert service.succeed()["output"] == undisturbed
    assert len(output_dirs(service)) == 1


def test_409_while_busy(service: Service) -> None:
    changes = {"num_frames": 9, "sampling_steps": STEPS}
    alone = service.succeed(**changes)["output"]
    running = Running(service, changes, "first")
    running.wait_for_line("speech")
    status, _ = service.server.request("POST", "/predictions", json.dumps({"input": good()}).encode())
    assert status == 409
    assert service.server.health()["status"] == "BUSY"
    assert running.answer()["output"] == alone


def request_in_progress(service: Service, inputs: dict[str, Any]) -> http.client.HTTPConnection:
    """The connection of a request that has reached denoising and is not answered; a 409 is retried."""
    body = json.dumps({"input": good() | inputs})
    begin = len(service.lines)

    def denoising() -> bool:
        return any(line.startswith("denoise") for line in service.lines[begin:])

    def denoising_or_answered(connection: http.client.HTTPConnection) -> bool:
        return denoising() or bool(select.select([connection.sock], [], [], 0)[0])

    while True:
        service.wait_ready()
        connection = http.client.HTTPConnection("127.0.0.1", service.server.port)
        connection.request("POST", "/predictions", body, {"Content-Type": "application/json"})
        service.wait_until(functools.partial(denoising_or_answered, connection), "denoising")
        if denoising():
            return connection
        assert connection.getresponse().status == 409


def test_closing_the_connection_cancels_the_request(service: Service) -> None:
    begin = len(service.lines)
    request_in_progress(service, LONG).close()
    service.wait_ready()
    assert not [line for line in service.lines[begin:] if line.startswith("decode")]
    assert service.succeed()["metrics"]["frames"] == 1


def test_requests_do_not_affect_each_other(service: Service) -> None:
    other = {
        "image": uri(saved(two_people(100, 180).rotate(180))),
        "first_audio": uri(recorded(tones(1.0, pitch=900))),
        "second_audio": uri(recorded(tones(0.5, 44_100, 2), 44_100)),
        "prompt": "a storm at sea",
        "negative_prompt": "rain",
        "num_frames": 9,
        "seed": 9,
        "turbo": False,
        "use_apg": True,
        "color_correction": 1,
        "person_boxes": "0.05,0.1,0.4,0.6;0.6,0.1,0.95,1",
    }
    plain_first = service.succeed(num_frames=5)
    others_first = service.succeed(**other)
    plain_second = service.succeed(num_frames=5)
    others_second = service.succeed(**other)
    assert decode_output(others_first).frames == 9
    for first, second in ((plain_first, plain_second), (others_first, others_second)):
        assert decode_output(first).data == decode_output(second).data
        assert first["logs"] == second["logs"]
        assert first["metrics"].keys() == second["metrics"].keys()


def test_same_request_gives_same_bytes(service: Service) -> None:
    upright = {"image": uri(plain(size=(100, 180))), "num_frames": 5, "color_correction": 1}
    assert len({service.succeed(**upright)["output"] for _ in range(5)}) == 1


def test_only_the_last_output_and_no_input_is_kept(service: Service) -> None:
    service.succeed()
    (first,) = output_dirs(service)
    assert files(service.scratch) == ["output.mp4"]
    service.succeed(second_audio=uri(voice()))
    (second,) = output_dirs(service)
    assert second != first
    assert files(service.scratch) == ["output.mp4"]
    assert service.server.predict(good() | {"prompt": " "})["status"] == "failed"
    assert files(service.scratch) == []


def setup_error(tmp_path: Path, **env: str) -> str:
    """The error of a server that fails to start with these variables."""
    server = Server(ROOT, env=environment(tmp_path, tmp_path) | env, setup_timeout=STATE_TIMEOUT_S)
    with pytest.raises(ServerError) as error, server:
        pass
    return str(error.value)


def test_large_model_without_a_gpu(tmp_path: Path) -> None:
    reason = setup_error(tmp_path, MULTITALK_MODEL="multitalk-14B", CUDA_VISIBLE_DEVICES="")
    assert "multitalk-14B needs an NVIDIA GPU" in reason
    assert "set MULTITALK_MODEL=multitalk-puppet" in reason


def test_folder_without_weights(tmp_path: Path) -> None:
    reason = setup_error(tmp_path)
    assert f"MODEL_PATH is '{tmp_path}'" in reason
    assert "no weights of multitalk-puppet" in reason
    assert str(tmp_path / "Wan2.1-I2V-puppet") in reason


def command_line(folder: Path, tmp_path: Path, *inputs: str) -> subprocess.CompletedProcess[str]:
    """`python predict.py`, as a user runs it, on files in `tmp_path`."""
    (tmp_path / "picture.png").write_bytes(plain())
    (tmp_path / "voice.wav").write_bytes(RESAMPLED)
    return subprocess.run(
        [
            *(sys.executable, "predict.py", "-o", str(tmp_path / "out.mp4")),
            *("-i", f"image=@{tmp_path / 'picture.png'}", "-i", f"first_audio=@{tmp_path / 'voice.wav'}"),
            *("-i", "sampling_steps=2", "-i", "seed=1"),
            *(part for text in inputs for part in ("-i", text)),
        ],
        cwd=ROOT,
        env={**os.environ, **environment(folder, tmp_path)},
        capture_output=True,
        text=True,
        timeout=STATE_TIMEOUT_S,
        check=False,
    )


def test_command_line(service: Service, trained_folder: Path, tmp_path: Path) -> None:
    done = command_line(trained_folder, tmp_path, "num_frames=5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == decode_output(
        service.succeed(num_frames=5, first_audio=uri(RESAMPLED))
    ).data
    lines = done.stderr.splitlines()
    assert "seed 1, 5 frames" in lines
    assert "denoise: chunk 1 of 1, step 2 of 2" in lines
    metrics = json.loads(lines[-1].removeprefix("metrics: "))
    assert metrics["frames"] == 5


def test_command_line_with_an_invalid_input(trained_folder: Path, tmp_path: Path) -> None:
    done = command_line(trained_folder, tmp_path, "audio_start=7")
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last == ("error: audio_start is 7 s, but first_audio ends at 0.40 s; it must begin before that")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.mp4").exists()
