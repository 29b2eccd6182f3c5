"""The app on Modal, as far as it runs without an account: its functions in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import modal
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from modal import exception

import weights
from deploy.modal_functions import app as modal_app
from deploy.modal_functions.backend import ModalBackend
from deploy.modal_functions.settings import REPOSITORY, environment, packages
from deploy.service import Service
from deploy.web.app import make_app
from src.errors import InputError
from tests.deploy.runpod_worker.test_handler import unpacked
from tests.deploy.web.test_web import KEYS, TOKEN
from tests.predict.media_files import plain, uri, voice
from tests.src.storage.store import LocalStore

pytestmark = pytest.mark.filterwarnings("ignore:The .* function is executing locally")


@pytest.fixture
def local(stored: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions work with the engine and the bucket of the tests."""
    monkeypatch.setattr(modal_app, "service", lambda: stored)


def video(store: LocalStore, answer: dict[str, str]) -> Any:
    bucket, key = answer["s3_output"].removeprefix("s3://").split("/", 1)
    assert bucket == "talks"
    assert key.startswith("outputs/")
    return unpacked(store.client().get_object(Bucket=bucket, Key=key)["Body"].read())


def test_one_person_with_the_defaults_of_the_bucket(local: None, store: LocalStore) -> None:
    answer = modal_app.generate_video_cuda.local(sample_steps=2)
    assert video(store, answer).frames == 10


def test_two_people(local: None, store: LocalStore) -> None:
    together = modal_app.generate_multi_person_video.local("hello", sample_steps=2, audio_type="para")
    assert video(store, together).frames == 10
    turns = modal_app.generate_multi_person_video.local("hello", "multi1.png", ["1.wav", "2.wav"], 2)
    assert video(store, turns).frames == 20


@pytest.mark.parametrize("keys", [["1.wav", "2.wav", "3.wav"], [], "1.wav"])
def test_three_voices_are_refused(local: None, store: LocalStore, keys: Any) -> None:
    with pytest.raises(InputError, match="the weights know two voices"):
        modal_app.generate_multi_person_video.local(audio_keys=keys)


def test_missing_keys_are_named(local: None, store: LocalStore) -> None:
    with pytest.raises(InputError, match=r"image_key: there is no 'nobody\.png' in the bucket"):
        modal_app.generate_video_cuda.local(image_key="nobody.png")
    with pytest.raises(ValueError, match="audio_type is 'loud'; allowed are add, para"):
        modal_app.generate_multi_person_video.local(audio_type="loud")
    with pytest.raises(InputError, match=r"audio_keys\[1\]: there is no '3\.wav' in the bucket"):
        modal_app.generate_multi_person_video.local(audio_keys=["1.wav", "3.wav"])


def test_the_command_line_sends_files_and_saves_the_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / name for name in ("a.png", "1.wav", "2.wav")]
    for path, data in zip(paths, (plain(), voice(), voice()), strict=True):
        path.write_bytes(data)
    sent: list[Any] = []

    class Function:
        @staticmethod
        def remote(media: dict[str, str], prompt: str) -> bytes:
            sent.append((sorted(media), media["image"], prompt))
            return b"video"

    monkeypatch.setattr(modal_app, "generate_video", Function)
    image, first, second = map(str, paths)
    target = tmp_path / "out.mp4"
    modal_app.main(image, first, second, two_person=True, prompt="hello", output_path=str(target))
    assert sent == [(["first_audio", "image", "second_audio"], uri(plain(), "image/png"), "hello")]
    assert target.read_bytes() == b"video"
    for wrong in ({"two_person": True}, {"audio2_path": second}):
        with pytest.raises(InputError, match="both or neither"):
            modal_app.main(image, first, **wrong)


def test_a_video_itself(local: None, monkeypatch: pytest.MonkeyPatch, stored: Service) -> None:
    check = stored.engine.check
    monkeypatch.setattr(stored.engine, "check", lambda inputs: check({"sampling_steps": 2, **inputs}))
    data = modal_app.generate_video.local({"image": uri(plain()), "first_audio": uri(voice())}, None)
    assert unpacked(data).frames == 10


def test_download_fetches_into_the_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(weights, "ensure", lambda folder, names: asked.append((str(folder), names)))
    monkeypatch.setenv("MULTITALK_MODEL", "multitalk-14B")
    monkeypatch.setenv("MODEL_PATH", "/weights")
    three = ["Wan2.1-I2V-14B-480P", "MeiGen-MultiTalk", "chinese-wav2vec2-base"]
    assert modal_app.download.local() == three
    assert modal_app.download.local("FusionX,lightx2v") == ["FusionX", "lightx2v"]
    assert asked == [("/weights", three), ("/weights", ["FusionX", "lightx2v"])]


def test_the_web_form_is_the_same_application() -> None:
    application = modal_app.web.local()
    assert isinstance(application, FastAPI)
    assert TestClient(application).post("/submit").status_code == 503


def test_the_image_has_every_pinned_package() -> None:
    found = list(packages(REPOSITORY / "requirements-deploy.txt"))
    assert {line.partition("==")[0] for line in found} >= {"torch", "cog", "modal", "boto3", "fastapi"}
    assert all("==" in line or ">=" in line for line in found)


def test_settings_go_along(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"MULTITALK_TAG": "0", "MAX_RUNTIME": "600", "MAX_PATH": "x", "AWS_SECRET_ACCESS_KEY": "s"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = environment()
    assert (found["MULTITALK_TAG"], found["MAX_RUNTIME"], found["MODEL_PATH"]) == ("0", "600", "/weights")
    assert not {"MAX_PATH", "AWS_SECRET_ACCESS_KEY"} & found.keys()


class Call:
    """Modal's call, which ends as told."""

    object_id = "fc-1"
    outcome: Any
    cancelled: list[str]

    def get(self, timeout: float) -> Any:
        assert timeout == 0
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def cancel(self) -> None:
        if isinstance(self.outcome, exception.NotFoundError):
            raise self.outcome
        self.cancelled.append(self.object_id)


@pytest.mark.parametrize(
    ("outcome", "status", "words"),
    [
        (b"video", 200, "video"),
        (TimeoutError(), 202, "working"),
        (exception.TimeoutError(), 202, "working"),
        (exception.OutputExpiredError(), 410, "expired"),
        (exception.NotFoundError("no"), 404, "no such call"),
        (exception.FunctionTimeoutError("too long"), 500, "too long"),
        (InputError("first_audio is silent"), 500, "audio1 is silent"),
    ],
)
def test_what_modal_says_of_a_call(monkeypatch: pytest.MonkeyPatch, outcome: Any, status: int, words: str) -> None:
    call = type("Told", (Call,), {"outcome": outcome, "cancelled": []})()
    spawned: list[Any] = []

    class Function:
        @staticmethod
        def spawn(*arguments: Any) -> Call:
            spawned.append(arguments)
            return call

    monkeypatch.setattr(modal.FunctionCall, "from_id", lambda _: call)
    client = TestClient(make_app(ModalBackend(Function()), KEYS), headers=TOKEN)
    answer = client.post("/submit", json={"image": "https://x/a.png", "audio1": "https://x/1.wav"})
    assert answer.json() == {"call_id": "fc-1"}
    assert spawned == [({"image": "https://x/a.png", "first_audio": "https://x/1.wav"}, None)]
    answer = client.get("/result/fc-1")
    assert answer.status_code == status
    assert words in answer.text
    expected = 404 if status == 404 else 200
    assert client.post("/cancel/fc-1").status_code == expected
    assert call.cancelled == ([] if status == 404 else ["fc-1"])


def test_the_names_that_an_operator_makes(run: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_GPU", "H100")
    names = "on_gpu['gpu'], m.AWS.name, m.HUGGING_FACE.name, m.WEB.name, m.VOLUME.name"
    told = run(
        f"from deploy import modal_settings as m; from deploy.modal_functions.app import on_gpu; print(*({names}))"
    )
    assert told.split() == ["H100", "aws-secret", "huggingface-secret", "multitalk-web", "multitalk-weights"]


def test_importing_the_app_costs_no_model(run: Callable[[str], str]) -> None:
    """`modal deploy` imports it on a machine that need not have torch."""
    assert run("import sys, deploy.modal_functions.app; print('torch' in sys.modules)").strip() == "False"
