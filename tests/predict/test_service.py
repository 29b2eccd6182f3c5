"""The server around the predictor: closed connections, isolation of requests, temporary files, command line."""

import functools
import http.client
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.predict.conftest import STATE_TIMEOUT_S, Service, environment, good
from tests.predict.media_files import plain, recorded, saved, tones, two_people, uri, voice
from tests.predict.output_video import decode_output

LONG = {"num_frames": 33, "sampling_steps": 100, "turbo": False}
"""A request that runs for many steps."""
RESAMPLED = recorded(tones(0.4, 44_100), 44_100)


def files(folder: Path) -> list[str]:
    """Every file below, by name."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


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
    assert files(service.scratch) == []
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


def test_only_the_last_output_and_no_input_is_kept(service: Service) -> None:
    service.succeed()
    (first,) = service.scratch.rglob("output-*")
    assert files(service.scratch) == ["output.mp4"]
    service.succeed(second_audio=uri(voice()))
    (second,) = service.scratch.rglob("output-*")
    assert second != first
    assert files(service.scratch) == ["output.mp4"]
    assert service.server.predict(good() | {"prompt": " "})["status"] == "failed"
    assert files(service.scratch) == []


def test_command_line(service: Service, trained_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(plain())
    (tmp_path / "voice.wav").write_bytes(RESAMPLED)
    inputs = (f"image=@{tmp_path}/picture.png", f"first_audio=@{tmp_path}/voice.wav", "sampling_steps=2", "seed=1")
    command = [sys.executable, "predict.py", "-o", f"{tmp_path}/out.mp4", "-i", "num_frames=5"]
    done = subprocess.run(
        [*command, *(part for text in inputs for part in ("-i", text))],
        cwd=ROOT,
        env={**os.environ, **environment(trained_folder, tmp_path)},
        capture_output=True,
        text=True,
        timeout=STATE_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "out.mp4")
    expected = decode_output(service.succeed(num_frames=5, first_audio=uri(RESAMPLED))).data
    assert (tmp_path / "out.mp4").read_bytes() == expected
    lines = done.stderr.splitlines()
    assert {"seed 1, 5 frames", "denoise: chunk 1 of 1, step 2 of 2"} <= set(lines)
    assert json.loads(lines[-1].removeprefix("metrics: "))["frames"] == 5
