"""The RunPod worker behind RunPod's own test server, and its handler where that server has no route."""

import asyncio
import base64
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps
from runpod.serverless.modules.rp_fastapi import WorkerAPI

from deploy.runner import Runner
from deploy.runpod_worker import handler
from deploy.runpod_worker.handler import RunPodWorker
from deploy.service import Service
from src.serving.cog.server import free_port
from tests.conftest import ROOT
from tests.deploy.conftest import basic_request, child_environment
from tests.predict.media_files import SIZE, plain, recorded, saved, tones, two_people, uri, voice
from tests.predict.output_video import OutputVideo, decode_output
from tests.src.storage.local_s3 import LocalS3
from tests.waiting import wait_until

LONG = {"num_frames": 33, "sampling_steps": 100}


def decode_video(data: bytes) -> OutputVideo:
    return decode_output({"output": f"data:video/mp4;base64,{base64.b64encode(data).decode()}"})


def download_video(url: str) -> OutputVideo:
    with urllib.request.urlopen(url) as answer:
        return decode_video(answer.read())


def post(port: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    return answer


@pytest.fixture
def call(bucket_service: Service) -> Callable[..., dict[str, Any]]:
    """Posts to RunPod's own test server, with a bucket: the answer to /runsync, or to /run and /status."""
    port = free_port()
    server = WorkerAPI({"handler": make_worker(bucket_service).handle})
    threading.Thread(target=server.start_uvicorn, args=("127.0.0.1", port), daemon=True).start()
    wait_until(lambda: is_listening(port))

    def ask(fields: dict[str, Any], *, sync: bool = True) -> dict[str, Any]:
        if sync:
            return post(port, "/runsync", {"input": fields})
        return post(port, f"/status/{post(port, '/run', {'input': fields})['id']}", {})

    return ask


def is_listening(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/docs")
        return connection.getresponse().status < 500
    except OSError:
        return False


def test_basic_format_over_runpods_server(call: Callable[..., dict[str, Any]]) -> None:
    answer = call(basic_request(audio_2=uri(recorded(tones(0.2)))))
    assert answer["status"] == "COMPLETED"
    assert answer["output"].keys() == {"video_url"}
    video = download_video(answer["output"]["video_url"])
    assert (video.frames, video.fps) == (2, 8.0)
    assert video.sound_seconds == pytest.approx(0.2, abs=0.03)


def test_detailed_format_over_runpods_server(call: Callable[..., dict[str, Any]], shared_store: LocalS3) -> None:
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
    video = download_video(output["video"])
    assert (video.frames, video.fps, video.size) == (6, 30.0, (70, 140))
    info = output["video_info"]
    assert (info["width"], info["height"], info["fps"], info["frames"]) == (70, 140, 30, 6)
    assert info["duration"] == pytest.approx(0.2)
    assert info["models_used"] == ["multitalk-puppet"]
    assert info["audio_features_shape"][0] == 10
    assert info["s3_uri"] == "s3://talks/mine/talk.mp4"
    assert "made at 64 x 128, then scaled to 70 x 140" in info["processing_note"]


def test_masks_of_another_size_over_runpods_server(call: Callable[..., dict[str, Any]]) -> None:
    """Where the left half is who speaks, the right half does not move, and the other way round."""
    fields = {"reference_image": uri(saved(two_people())), "audio": "1.wav", "duration": 0.2, "seed": 1}
    fields |= {"width": 128, "height": 64, "output_format": "base64"}
    masks = [uri(saved(half)) for half in halves()]
    left, right = (call({**fields, "person_masks": each})["output"]["video"] for each in (masks, masks[::-1]))
    assert decode_video(base64.b64decode(left)).size == (128, 64)
    assert left != right


def halves() -> list[Image.Image]:
    """Masks of the left and the right half of an image."""
    left = Image.new("L", SIZE)
    left.paste(255, (0, 0, SIZE[0] // 2, SIZE[1]))
    return [left, ImageOps.invert(left)]


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
        (basic_request(steps=5), "'steps' is not an accepted field"),
        (basic_request(audio_1="missing.wav"), "audio_1: there is no 'missing.wav' in the bucket"),
        (basic_request(audio_1="https://127.0.0.1/a.wav"), "not on the public internet"),
        (basic_request(audio_1=uri(plain())), "no audio stream"),
        (basic_request(reference_image=uri(voice())), "reference_image: the file"),
        ({"audio": "missing.wav", "reference_image": "multi1.png"}, "audio: there is no 'missing.wav'"),
        (
            {"audio": "1.wav", "reference_image": "multi1.png", "width": 1280, "height": 64},
            "reference_image, cut to the proportions of 1280 x 64, has ",
        ),
        (basic_request(person_masks=["missing.png"]), "person_masks-1: there is no 'missing.png' in the bucket"),
        (basic_request(person_masks=[uri(voice())]), "person_masks (number 1): the file"),
        (basic_request(person_masks=["x"] * 11), "person_masks has 11 files; at most 10 are allowed"),
        (basic_request(lora_files=["x"]), "lora_files is given, but this server takes only LoRAs"),
        (basic_request(loras=["nobody"]), "loras has 'nobody', which this server does not have"),
        ({"health_check": False}, "health_check is false"),
    ],
)
def test_errors_over_runpods_server(call: Callable[..., dict[str, Any]], fields: dict[str, Any], words: str) -> None:
    answer = call(fields)
    assert answer["status"] == "FAILED"
    assert words in answer["error"]
    assert "Traceback" not in json.dumps(answer)


def make_worker(service: Service, on_progress: Any = lambda *_: None, **environ: str) -> RunPodWorker:
    return RunPodWorker(service=service, environ={**os.environ, **environ}, on_progress=on_progress)


def handle(worker: RunPodWorker, fields: dict[str, Any], job_id: str = "job") -> dict[str, Any]:
    return asyncio.run(worker.handle({"id": job_id, "input": fields}))


async def wait_for(condition: Callable[[], bool]) -> None:
    """`wait_until` without blocking the event loop."""
    await asyncio.to_thread(wait_until, condition)


def test_without_a_bucket_the_answer_is_base64_and_progress_is_reported(service: Service) -> None:
    messages: list[str] = []
    worker = make_worker(service, lambda job, message: messages.append(f"{job['id']} {message}"))
    video = decode_video(base64.b64decode(handle(worker, basic_request())["video_base64"]))
    assert (video.frames, video.fps) == (2, 8.0)
    assert messages[0] == "job fetching"
    assert "job denoise: chunk 1 of 1, step 2 of 2" in messages
    assert messages[-1] == "job finish"


@pytest.mark.soak
def test_command_serves_and_logs_json(environ: dict[str, str], shared_store: LocalS3, tmp_path: Path) -> None:
    """The log is JSON with the job's id and contains nothing of the request."""
    port = free_port()
    log = tmp_path / "log"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.runpod_worker", "--rp_serve_api", "--rp_api_port", str(port)],
        cwd=ROOT,
        env=child_environment(environ, **shared_store.environ(), TMPDIR=str(scratch)),
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
    )
    try:
        wait_until(lambda: is_listening(port) or process.poll() is not None, log.read_text)
        assert process.poll() is None, log.read_text()
        answer = post(port, "/runsync", {"input": basic_request(prompt="my private matter")})
    finally:
        process.terminate()
        process.wait()
    assert download_video(answer["output"]["video_url"]).frames == 2
    assert list(scratch.glob("multitalk*")) == []
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith('{"time"')]
    of_job = [line for line in lines if line.get("request") == answer["id"]]
    assert [line["outcome"] for line in of_job if line.get("event") == "request"] == ["succeeded"]
    assert [line["metrics"]["frames"] for line in of_job if line.get("event") == "metrics"] == [2]
    assert "private" not in log.read_text()


def test_video_is_marked_as_synthetic(service: Service) -> None:
    data = base64.b64decode(handle(make_worker(service), basic_request(fps=25))["video_base64"])
    assert b"synthetic=true; generator=MultiTalk; model=multitalk-puppet; seed=42" in data


def test_values_of_a_request_are_not_used_as_commands_or_file_names(service: Service) -> None:
    text = "../../pwned$(touch pwned)`touch pwned`;touch pwned\n|touch pwned\x00"
    answer = handle(make_worker(service), basic_request(prompt=text, num_frames=1), job_id=text)
    assert "video_base64" in answer
    for folder in (ROOT, Path(tempfile.gettempdir()), Path(tempfile.gettempdir()).parents[1]):
        assert not [path.name for path in folder.iterdir() if "pwned" in path.name]


def test_too_large_base64_answer_is_an_error(service: Service) -> None:
    answer = handle(make_worker(service, RUNPOD_RESULT_MB="0.001"), basic_request())
    assert "RunPod takes 1,000 in an answer" in answer["error"]
    assert "S3_BUCKET" in answer["error"]


def test_s3_without_a_bucket_is_refused_before_any_work(service: Service) -> None:
    messages: list[str] = []
    fields = {"action": "generate", "audio": uri(voice()), "reference_image": uri(plain()), "output_format": "s3"}
    answer = handle(make_worker(service, lambda _, message: messages.append(message)), fields)
    assert "output_format: this server has no bucket" in answer["error"]
    assert messages == []


def test_cancelled_job_stops_within_a_step_and_the_next_one_runs(service: Service) -> None:
    messages: list[str] = []

    async def cancel_one_and_run_another() -> dict[str, Any]:
        worker = make_worker(service, lambda _, message: messages.append(message))
        job = asyncio.create_task(worker.handle({"id": "long", "input": basic_request(**LONG)}))
        await wait_for(lambda: any(message.startswith("denoise") for message in messages))
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        reached = len(messages)
        answer = await worker.handle({"id": "next", "input": basic_request()})
        assert messages.index("fetching", 1) - reached <= 2
        return answer

    answer = asyncio.run(cancel_one_and_run_another())
    assert not any("step 50 of 100" in message for message in messages)
    assert answer == handle(make_worker(service), basic_request())


def test_queued_job_can_be_cancelled(service: Service) -> None:
    messages: list[str] = []

    async def cancel_both() -> None:
        worker = make_worker(service, lambda job, message: messages.append(f"{job['id']} {message}"))
        first = asyncio.create_task(worker.handle({"id": "first", "input": basic_request(**LONG)}))
        await wait_for(lambda: any("denoise" in message for message in messages))
        second = asyncio.create_task(worker.handle({"id": "second", "input": basic_request()}))
        await wait_for(lambda: "second fetching" in messages)
        for job in (second, first):
            job.cancel()
        await asyncio.gather(first, second, return_exceptions=True)

    asyncio.run(cancel_both())  # returns once the worker's threads have ended
    assert [message for message in messages if message.startswith("second")] == ["second fetching"]


def test_concurrent_jobs_do_not_mix(service: Service) -> None:
    async def several() -> list[dict[str, Any]]:
        worker = make_worker(service)
        return await asyncio.gather(
            *(worker.handle({"id": str(seed), "input": basic_request(seed=seed)}) for seed in (1, 2, 1))
        )

    one, two, again = asyncio.run(several())
    assert one == again
    assert one != two


def test_without_weights_jobs_fail_with_the_reason(
    service: Service, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wav2vec2-base-960h", "gfpgan"):
        (tmp_path / name).mkdir()
    settings = environ | {"MODEL_PATH": str(tmp_path)}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    empty = replace(make_worker(replace(service, runner=Runner())), environ=settings)
    answer = handle(empty, basic_request())
    assert answer.keys() == {"error"}
    assert f"MODEL_PATH is '{tmp_path}'" in answer["error"]
    health = handle(empty, {"health_check": True})
    assert health["status"] == "unhealthy"
    assert health["multitalk_inference"]["available"] is False
    assert health["unused_folders"] == ["wav2vec2-base-960h", "gfpgan"]
    assert str(tmp_path) in health["problem"]


def test_worker_with_a_dead_device_asks_to_be_replaced(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    assert service.runner.generator is not None
    monkeypatch.setitem(service.runner.generator.health.faults, "device", "the device does not answer")
    answer = handle(make_worker(service), basic_request(prompt=" "))
    assert answer["refresh_worker"] is True
    assert handle(make_worker(service), {"health_check": True})["status"] == "unhealthy"


def test_unexpected_error_is_answered_in_one_line(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("inside")

    monkeypatch.setattr(handler, "parse_request", broken)
    assert handle(make_worker(service), basic_request()) == {"error": "KeyError: 'inside'"}
