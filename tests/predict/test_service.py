"""The server around the predictor: one request after another, none of which harms or sees the next."""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from src.serving.cog.server import Server, ServerError
from tests.conftest import ROOT
from tests.predict.conftest import Service, environment, good
from tests.predict.movies import movie_of
from tests.predict.uploads import plain, recorded, saved, tones, two_people, uri, voice

STEPS = 100
SOON = 2.0
RESAMPLED = recorded(tones(0.4, 44_100), 44_100)


@dataclass
class Running:
    """A request that is answered in another thread."""

    service: Service
    inputs: dict[str, Any]
    name: str
    answers: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begin = len(self.service.lines)
        self.thread = threading.Thread(target=self.ask)
        self.thread.start()

    def ask(self) -> None:
        self.answers.append(self.service.server.predict(good() | self.inputs, prediction_id=self.name))

    def cancel(self) -> dict[str, Any]:
        """The answer, which must come soon."""
        started = time.monotonic()
        self.service.server.cancel(self.name)
        self.thread.join(20)
        assert time.monotonic() - started < SOON
        return self.answers[0]

    def lines(self, start: str) -> list[str]:
        """What it wrote to the log so far, of the lines that begin like this."""
        return [line for _, line in self.service.lines[self.begin :] if line.startswith(start)]


def files(folder: Path) -> list[str]:
    """Every file and folder below, by their names."""
    return sorted(path.name for path in folder.rglob("*"))


def output_folders(service: Service) -> list[Path]:
    return list(service.scratch.glob("multitalk-*"))


def test_cancel_stops_within_a_step_and_the_next_request_is_unharmed(service: Service) -> None:
    undisturbed = service.succeed(num_frames=5)["output"]
    long = Running(service, {"num_frames": 33, "sampling_steps": STEPS, "turbo": False}, "long")
    service.wait_for_line("denoise: chunk 1 of 1, step 2", after=long.begin)
    reached = len(long.lines("denoise"))
    answer = long.cancel()
    assert answer["status"] == "canceled"
    assert answer.get("output") is None
    assert len(long.lines("denoise")) - reached <= 2
    assert not long.lines("decode")
    assert service.succeed(num_frames=5)["output"] == undisturbed


def test_cancel_while_frames_are_written_leaves_no_draft(service: Service) -> None:
    undisturbed = service.succeed()["output"]
    long = Running(service, {"num_frames": 100}, "drafted")
    service.wait_for_line("decode: chunk 2", after=long.begin)  # by then the encoder has begun on the first one
    assert [name for name in files(service.scratch) if name.endswith(".part")]
    assert long.cancel()["status"] == "canceled"
    assert not [name for name in files(service.scratch) if name.endswith((".part", ".mp4"))]
    assert service.succeed()["output"] == undisturbed
    assert len(output_folders(service)) == 1


def test_busy_is_said_and_harms_nobody(service: Service) -> None:
    alone = service.succeed(num_frames=9)["output"]
    first = Running(service, {"num_frames": 9}, "first")
    service.wait_for_line("speech", after=first.begin)
    status, _ = service.server.request("POST", "/predictions", json.dumps({"input": good()}).encode())
    assert status == 409
    assert service.server.health()["status"] == "BUSY"
    first.thread.join(20)
    assert first.answers[0]["output"] == alone


def test_a_caller_who_leaves_stops_the_work(service: Service) -> None:
    begin = len(service.lines)
    body = json.dumps({"input": good() | {"num_frames": 33, "sampling_steps": STEPS, "turbo": False}})
    connection = http.client.HTTPConnection("127.0.0.1", service.server.port)
    connection.request("POST", "/predictions", body, {"Content-Type": "application/json"})
    service.wait_for_line("denoise", after=begin)
    connection.close()
    left = time.monotonic()
    while service.server.health()["status"] != "READY":
        assert time.monotonic() - left < SOON
        time.sleep(0.01)
    assert service.succeed()["metrics"]["frames"] == 1


def test_nothing_of_one_request_is_in_the_next(service: Service) -> None:
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
    assert movie_of(others_first).frames == 9
    for first, second in ((plain_first, plain_second), (others_first, others_second)):
        assert movie_of(first).data == movie_of(second).data
        assert first["logs"] == second["logs"]
        assert first["metrics"].keys() == second["metrics"].keys()


def test_the_same_request_gives_the_same_bytes(service: Service) -> None:
    upright = {"image": uri(plain(size=(100, 180))), "num_frames": 5, "color_correction": 1}
    assert len({service.succeed(**upright)["output"] for _ in range(5)}) == 1


def test_only_the_last_output_is_kept_and_no_input(service: Service) -> None:
    service.succeed()
    (first,) = output_folders(service)
    assert files(service.scratch) == [first.name, "output.mp4"]
    service.succeed(second_audio=uri(voice()))
    (second,) = output_folders(service)
    assert second != first
    assert files(service.scratch) == [second.name, "output.mp4"]
    assert service.server.predict(good() | {"prompt": " "})["status"] == "failed"
    assert files(service.scratch) == []


def started(tmp_path: Path, **env: str) -> str:
    """Why a server that is started so does not become ready."""
    server = Server(ROOT, env=environment(tmp_path, tmp_path) | env, setup_timeout=60)
    with pytest.raises(ServerError) as error, server:
        pass
    return str(error.value)


def test_the_large_model_without_a_gpu_says_what_to_set(tmp_path: Path) -> None:
    reason = started(tmp_path, MULTITALK_MODEL="multitalk-14B", CUDA_VISIBLE_DEVICES="")
    assert "multitalk-14B needs an NVIDIA GPU" in reason
    assert "set MULTITALK_MODEL=multitalk-puppet" in reason


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    reason = started(tmp_path)
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
        timeout=120,
        check=False,
    )


def test_the_command_line(service: Service, trained_folder: Path, tmp_path: Path) -> None:
    done = command_line(trained_folder, tmp_path, "num_frames=5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == movie_of(
        service.succeed(num_frames=5, first_audio=uri(RESAMPLED))
    ).data
    lines = done.stderr.splitlines()
    assert "seed 1, 5 frames" in lines
    assert "denoise: chunk 1 of 1, step 2 of 2" in lines
    metrics = json.loads(lines[-1].removeprefix("metrics: "))
    assert metrics["frames"] == 5
    # The first request of a server: what is imported late has been imported by the warm-up.
    stages = sum(seconds for stage, seconds in metrics["seconds"].items() if stage != "total")
    assert metrics["seconds"]["total"] - stages < 0.5


def test_the_command_line_with_a_bad_input(trained_folder: Path, tmp_path: Path) -> None:
    done = command_line(trained_folder, tmp_path, "audio_start=7")
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last == (
        "error: Prediction failed: InputError: audio_start is 7 s, but first_audio ends at 0.40 s; "
        "it must begin before that"
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.mp4").exists()
