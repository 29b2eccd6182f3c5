"""RunPod's worker: over RunPod's own test server, and, for what that has not, at the handler."""

import asyncio
import base64
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runpod.serverless.modules.rp_fastapi import WorkerAPI

from deploy.runner import Runner
from deploy.runpod_worker import handler
from deploy.runpod_worker.handler import RunPodWorker
from deploy.service import Service
from src.serving.cog.server import free_port
from tests.conftest import ROOT
from tests.deploy.conftest import child_environment, first_form
from tests.predict.media_files import plain, recorded, tones, uri, voice
from tests.predict.output_video import OutputVideo, decode_output
from tests.src.storage.store import LocalStore

LONG = {"num_frames": 33, "sampling_steps": 100}
SOON = 5.0


def unpacked(data: bytes) -> OutputVideo:
    return decode_output({"output": f"data:video/mp4;base64,{base64.b64encode(data).decode()}"})


def downloaded(url: str) -> OutputVideo:
    with urllib.request.urlopen(url) as answer:
        return unpacked(answer.read())


def post(port: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    return answer


@pytest.fixture
def call(stored: Service) -> Callable[..., dict[str, Any]]:
    """Ask RunPod's own test server, with a bucket: the answer to /runsync, or to /run and /status."""
    port = free_port()
    server = WorkerAPI({"handler": worker(stored).handle})
    threading.Thread(target=server.start_uvicorn, args=("127.0.0.1", port), daemon=True).start()
    deadline = time.monotonic() + 60
    while not listening(port):
        assert time.monotonic() < deadline
        time.sleep(0.02)

    def ask(fields: dict[str, Any], *, sync: bool = True) -> dict[str, Any]:
        if sync:
            return post(port, "/runsync", {"input": fields})
        return post(port, f"/status/{post(port, '/run', {'input': fields})['id']}", {})

    return ask


def listening(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/docs")
        return connection.getresponse().status < 500
    except OSError:
        return False


def test_the_first_form_over_runpods_server(call: Callable[..., dict[str, Any]]) -> None:
    answer = call(first_form(audio_2=uri(recorded(tones(0.2)))))
    assert answer["status"] == "COMPLETED"
    assert answer["output"].keys() == {"video_url"}
    movie = downloaded(answer["output"]["video_url"])
    assert (movie.frames, movie.fps) == (2, 8.0)
    assert movie.sound_seconds == pytest.approx(0.2, abs=0.03)


def test_the_second_form_over_runpods_server(call: Callable[..., dict[str, Any]], shared_store: LocalStore) -> None:
    fields = {
        "action": "generate",
        "audio": "1.wav",
        "reference_image": "multi1.png",
        "duration": 0.2,
        "width": 70,
        "height": 140,
        "fps": 30,
        "output_format": "s3",
        "s3_output_key": "mine/talk.mp4",
    }
    output = call(fields, sync=False)["output"]
    assert "mine/talk.mp4" in shared_store.objects()
    movie = downloaded(output["video"])
    assert (movie.frames, movie.fps, movie.size) == (6, 30.0, (70, 140))
    info = output["video_info"]
    assert (info["width"], info["height"], info["fps"], info["frames"]) == (70, 140, 30, 6)
    assert info["duration"] == pytest.approx(0.2)
    assert info["models_used"] == ["multitalk-puppet"]
    assert info["audio_features_shape"][0] == 10
    assert info["s3_uri"] == "s3://talks/mine/talk.mp4"
    assert "made at 64 x 128, then scaled to 70 x 140" in info["processing_note"]


def test_health_over_runpods_server(call: Callable[..., dict[str, Any]]) -> None:
    health = call({"health_check": True})["output"]
    assert health["status"] == "healthy"
    inference = health["multitalk_inference"]
    assert (inference["available"], inference["loaded"], inference["engine"]) == (True, True, "MultiTalkPipeline")
    assert health["versions"]["runpod"]
    assert "available" in health["gpu"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (first_form(steps=5), "'steps' is an unknown field"),
        (first_form(audio="1.wav"), "contradict"),
        (first_form(reference_image=None), "reference_image is missing"),
        (first_form(audio_1="missing.wav"), "audio_1: there is no 'missing.wav' in the bucket"),
        (first_form(audio_1="https://127.0.0.1/a.wav"), "not on the public internet"),
        (first_form(audio_1="/etc/passwd"), "audio_1 is '/etc/passwd'"),
        (first_form(audio_1=uri(plain())), "no sound track"),
        (first_form(prompt=" "), "prompt is ' '"),
        (first_form(reference_image=uri(voice())), "reference_image: the file"),
        ({"action": "generate", "audio": "1.wav"}, "reference_image is missing"),
        ({"audio": "missing.wav", "reference_image": "multi1.png"}, "audio: there is no 'missing.wav'"),
        (
            {"audio": "1.wav", "reference_image": "multi1.png", "width": 1280, "height": 64},
            "reference_image, cut to the proportions of 1280 x 64, has ",
        ),
        ({"health_check": False}, "health_check is false"),
    ],
)
def test_errors_over_runpods_server(call: Callable[..., dict[str, Any]], fields: dict[str, Any], words: str) -> None:
    answer = call(fields)
    assert answer["status"] == "FAILED"
    assert words in answer["error"]
    assert "Traceback" not in json.dumps(answer)


def worker(service: Service, tell: Any = lambda *_: None, **environ: str) -> RunPodWorker:
    return RunPodWorker(service=service, environ={**os.environ, **environ}, tell=tell)


def handled(worker: RunPodWorker, fields: dict[str, Any], name: str = "job") -> dict[str, Any]:
    return asyncio.run(worker.handle({"id": name, "input": fields}))


def test_without_a_bucket_the_answer_is_base64_and_progress_is_told(service: Service) -> None:
    told: list[str] = []
    answer = handled(worker(service, lambda job, text: told.append(f"{job['id']} {text}")), first_form())
    movie = unpacked(base64.b64decode(answer["video_base64"]))
    assert (movie.frames, movie.fps) == (2, 8.0)
    assert told[0] == "job fetching"
    assert "job denoise: chunk 1 of 1, step 2 of 2" in told
    assert told[-1] == "job finish"


@pytest.mark.soak
def test_the_command(environ: dict[str, str], shared_store: LocalStore, tmp_path: Path) -> None:
    """As an operator tries it; the log is JSON with the id of the job, and says nothing of what was asked."""
    port = free_port()
    log = tmp_path / "log"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.runpod_worker.handler", "--rp_serve_api", "--rp_api_port", str(port)],
        cwd=ROOT,
        env=child_environment(environ, **shared_store.environ(), TMPDIR=str(scratch)),
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + 120
        while not listening(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        answer = post(port, "/runsync", {"input": first_form(prompt="my private matter")})
    finally:
        process.terminate()
        process.wait(20)
    assert downloaded(answer["output"]["video_url"]).frames == 2
    assert list(scratch.glob("multitalk*")) == []
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith('{"time"')]
    of_job = [line for line in lines if line.get("request") == answer["id"]]
    assert [line["outcome"] for line in of_job if line.get("event") == "request"] == ["succeeded"]
    assert [line["metrics"]["frames"] for line in of_job if line.get("event") == "metrics"] == [2]
    assert "private" not in log.read_text()


def test_the_file_says_that_it_is_synthetic(service: Service) -> None:
    data = base64.b64decode(handled(worker(service), first_form(fps=25))["video_base64"])
    assert b"synthetic=true; generator=MultiTalk; model=multitalk-puppet; seed=42" in data


def test_what_a_request_says_becomes_no_command_and_no_file_name(service: Service) -> None:
    text = "../../pwned$(touch pwned)`touch pwned`;touch pwned\n|touch pwned\x00"
    answer = handled(worker(service), first_form(prompt=text, num_frames=1), name=text)
    assert "video_base64" in answer
    for folder in (ROOT, Path(tempfile.gettempdir()), Path(tempfile.gettempdir()).parents[1]):
        assert not [path.name for path in folder.iterdir() if "pwned" in path.name]


def test_an_answer_that_runpod_would_not_take(service: Service) -> None:
    answer = handled(worker(service, RUNPOD_RESULT_MB="0.001"), first_form())
    assert "RunPod takes 1,000 in an answer" in answer["error"]
    assert "S3_BUCKET" in answer["error"]


def test_s3_without_a_bucket_is_refused_before_any_work(service: Service) -> None:
    told: list[str] = []
    fields = {"action": "generate", "audio": uri(voice()), "reference_image": uri(plain()), "output_format": "s3"}
    answer = handled(worker(service, lambda _, text: told.append(text)), fields)
    assert "output_format: this server has no bucket" in answer["error"]
    assert told == []


def test_a_cancelled_job_stops_within_a_step_and_the_next_is_unharmed(service: Service) -> None:
    async def both() -> tuple[list[str], float, dict[str, Any]]:
        told: list[str] = []
        ours = worker(service, lambda _, text: told.append(text))
        job = asyncio.create_task(ours.handle({"id": "long", "input": first_form(**LONG)}))
        while not any(line.startswith("denoise") for line in told):
            await asyncio.sleep(0.01)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        started, reached = time.monotonic(), len(told)
        answer = await ours.handle({"id": "next", "input": first_form()})
        first_of_next = told.index("fetching", 1)
        assert first_of_next - reached <= 2
        return told, time.monotonic() - started, answer

    told, seconds, answer = asyncio.run(both())
    assert seconds < SOON
    assert not any("step 50 of 100" in line for line in told)
    assert answer == handled(worker(service), first_form())


def test_a_job_that_waits_can_be_cancelled(service: Service) -> None:
    async def waiting() -> list[str]:
        told: list[str] = []
        ours = worker(service, lambda job, text: told.append(f"{job['id']} {text}"))
        first = asyncio.create_task(ours.handle({"id": "first", "input": first_form(**LONG)}))
        while not any("denoise" in line for line in told):
            await asyncio.sleep(0.01)
        second = asyncio.create_task(ours.handle({"id": "second", "input": first_form()}))
        while "second fetching" not in told:
            await asyncio.sleep(0.01)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        await asyncio.sleep(0.2)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        return told

    assert not any("second denoise" in line or "second speech" in line for line in asyncio.run(waiting()))


def test_jobs_at_once_do_not_mix(service: Service) -> None:
    async def several() -> list[dict[str, Any]]:
        ours = worker(service)
        return await asyncio.gather(
            *(ours.handle({"id": str(seed), "input": first_form(seed=seed)}) for seed in (1, 2, 1))
        )

    one, two, again = asyncio.run(several())
    assert one == again
    assert one != two


def test_without_weights_it_says_so_and_makes_nothing(
    service: Service, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wav2vec2-base-960h", "gfpgan"):
        (tmp_path / name).mkdir()
    settings = environ | {"MODEL_PATH": str(tmp_path)}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    empty = replace(worker(replace(service, engine=Runner())), environ=settings)
    answer = handled(empty, first_form())
    assert answer.keys() == {"error"}
    assert f"MODEL_PATH is '{tmp_path}'" in answer["error"]
    health = handled(empty, {"health_check": True})
    assert health["status"] == "unhealthy"
    assert health["multitalk_inference"]["available"] is False
    assert health["unused_folders"] == ["wav2vec2-base-960h", "gfpgan"]
    assert str(tmp_path) in health["problem"]


def test_a_dead_device_asks_for_a_fresh_worker(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    assert service.engine.generator is not None
    monkeypatch.setitem(service.engine.generator.health.faults, "device", "the device does not answer")
    answer = handled(worker(service), first_form(prompt=" "))
    assert answer["refresh_worker"] is True
    assert handled(worker(service), {"health_check": True})["status"] == "unhealthy"


def test_an_unexpected_failure_is_one_sentence(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("inside")

    monkeypatch.setattr(handler, "parse_request", broken)
    assert handled(worker(service), first_form()) == {"error": "KeyError: 'inside'"}
