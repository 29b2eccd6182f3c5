"""The Modal app without an account: its functions run in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import modal
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from modal import exception

import weights
from deploy.modal_functions import functions
from deploy.modal_functions.backend import ModalBackend
from deploy.modal_functions.settings import container_environment, secrets
from deploy.service import Service
from deploy.web.app import make_app
from src.errors import InputError
from tests.deploy.runpod_worker.test_handler import decode_video
from tests.deploy.web.test_web import CREDENTIALS, TOKEN_HEADER
from tests.predict.media_files import plain, uri, voice
from tests.predict.output_video import OutputVideo
from tests.src.storage.local_s3 import LocalS3

pytestmark = pytest.mark.filterwarnings("ignore:The .* function is executing locally")


@pytest.fixture
def local(bucket_service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions use the model and the bucket of the tests."""
    monkeypatch.setattr(functions, "service", lambda: bucket_service)


def download_video(store: LocalS3, result: dict[str, str]) -> OutputVideo:
    bucket, key = result["s3_output"].removeprefix("s3://").split("/", 1)
    assert bucket == "talks"
    assert key.startswith("outputs/")
    return decode_video(store.client().get_object(Bucket=bucket, Key=key)["Body"].read())


def test_one_person_with_default_keys(local: None, store: LocalS3) -> None:
    result = functions.generate_video_cuda.local(sample_steps=2)
    assert download_video(store, result).frames == 10


def test_two_persons(local: None, store: LocalS3) -> None:
    parallel = functions.generate_multi_person_video.local("hello", sample_steps=2, audio_type="para")
    assert download_video(store, parallel).frames == 10
    sequential = functions.generate_multi_person_video.local("hello", "multi1.png", ["1.wav", "2.wav"], 2)
    assert download_video(store, sequential).frames == 20


@pytest.mark.parametrize("keys", [["1.wav", "2.wav", "3.wav"], [], "1.wav"])
def test_number_of_voices_is_checked(local: None, store: LocalS3, keys: Any) -> None:
    with pytest.raises(InputError, match="a list of 1 or 2 keys is needed"):
        functions.generate_multi_person_video.local(audio_keys=keys)


def test_errors_name_the_arguments(local: None, store: LocalS3) -> None:
    with pytest.raises(InputError, match=r"image_key: there is no 'nobody\.png' in the bucket"):
        functions.generate_video_cuda.local(image_key="nobody.png")
    with pytest.raises(ValueError, match="audio_type is 'loud'; allowed are add, para"):
        functions.generate_multi_person_video.local(audio_type="loud")
    with pytest.raises(InputError, match=r"audio_keys\[1\]: there is no '3\.wav' in the bucket"):
        functions.generate_multi_person_video.local(audio_keys=["1.wav", "3.wav"])


def test_lists_of_keys(local: None, store: LocalS3) -> None:
    def error(**lists: Any) -> str:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the callers check the message
            functions.generate_multi_person_video.local(audio_keys=["1.wav"], sample_steps=2, **lists)
        return str(caught.value)

    assert "both persons cover the same area" in error(person_masks=["multi1.png"] * 2)
    assert error(person_masks=["nobody.png"]).startswith("person_masks-1: there is no 'nobody.png' in the bucket")
    assert error(person_masks="multi1.png") == "person_masks is 'multi1.png'; a list is needed"
    assert error(lora_files=["1.wav"]).startswith("lora_files is given, but this server takes only LoRAs")
    assert error(loras=["nobody"]).startswith("loras has 'nobody', which this server does not have")
    assert error(masks=[]).startswith("'masks' is not an accepted argument; allowed are person_masks, ")


def test_local_entrypoint_sends_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    class Function:
        @staticmethod
        def remote(files: dict[str, Any], prompt: str, **lists: Any) -> bytes:
            sent.append(({name: value for name, value in files.items() if isinstance(value, list)}, lists))
            return b"video"

    monkeypatch.setattr(functions, "generate_video", Function)
    path, target = tmp_path / "a.png", str(tmp_path / "out.mp4")
    path.write_bytes(plain())
    masks = f"{path}, https://x/m.png"
    functions.main(str(path), str(path), output_path=target, person_masks=masks, loras="one,two:0.5")
    expected = {"person_masks": [uri(plain(), "image/png"), "https://x/m.png"]}
    assert sent == [(expected, {"loras": ["one", "two:0.5"]})]


def test_local_entrypoint_sends_files_and_saves_the_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / name for name in ("a.png", "1.wav", "2.wav")]
    for path, data in zip(paths, (plain(), voice(), voice()), strict=True):
        path.write_bytes(data)
    sent: list[Any] = []

    class Function:
        @staticmethod
        def remote(files: dict[str, str], prompt: str) -> bytes:
            sent.append((sorted(files), files["image"], prompt))
            return b"video"

    monkeypatch.setattr(functions, "generate_video", Function)
    image, first, second = map(str, paths)
    target = tmp_path / "out.mp4"
    functions.main(image, first, second, two_person=True, prompt="hello", output_path=str(target))
    assert sent == [(["first_audio", "image", "second_audio"], uri(plain(), "image/png"), "hello")]
    assert target.read_bytes() == b"video"
    for wrong in ({"two_person": True}, {"audio2_path": second}):
        with pytest.raises(InputError, match="both or neither"):
            functions.main(image, first, **wrong)


@pytest.mark.usefixtures("local", "few_steps")
def test_video_as_bytes() -> None:
    data = functions.generate_video.local({"image": uri(plain()), "first_audio": uri(voice())}, None)
    assert decode_video(data).frames == 10


def test_download_fetches_bundles_into_the_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(weights, "ensure", lambda folder, names: asked.append((str(folder), names)))
    monkeypatch.setenv("MULTITALK_MODEL", "multitalk-14B")
    monkeypatch.setenv("MODEL_PATH", "/weights")
    three = ["Wan2.1-I2V-14B-480P", "MeiGen-MultiTalk", "chinese-wav2vec2-base"]
    assert functions.download.local() == three
    assert functions.download.local("FusionX,lightx2v") == ["FusionX", "lightx2v"]
    monkeypatch.setenv("MULTITALK_MODEL", "infinitetalk-14B-single")
    infinitetalk = [three[0], "InfiniteTalk-single", three[2]]
    assert functions.download.local() == infinitetalk
    assert asked == [("/weights", three), ("/weights", ["FusionX", "lightx2v"]), ("/weights", infinitetalk)]


def test_web_is_the_http_api() -> None:
    application = functions.web.local()
    assert isinstance(application, FastAPI)
    assert TestClient(application).post("/submit").status_code == 503


def test_our_variables_are_forwarded_to_the_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"MULTITALK_TAG": "0", "MAX_RUNTIME": "600", "MAX_PATH": "x", "AWS_SECRET_ACCESS_KEY": "s"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    forwarded = container_environment()
    assert (forwarded["MULTITALK_TAG"], forwarded["MAX_RUNTIME"], forwarded["MODEL_PATH"]) == ("0", "600", "/weights")
    assert not {"MAX_PATH", "AWS_SECRET_ACCESS_KEY"} & forwarded.keys()


@pytest.mark.parametrize(
    ("variable", "names"),
    [
        (None, ["aws-secret", "multitalk-web"]),
        ("", []),
        (" multitalk-web,", ["multitalk-web"]),
        ("huggingface-secret", []),
    ],
)
def test_only_the_listed_secrets_are_demanded(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, names: list[str]
) -> None:
    monkeypatch.delenv("MODAL_SECRETS", raising=False)
    if variable is not None:
        monkeypatch.setenv("MODAL_SECRETS", variable)
    assert [secret.name for secret in secrets("aws-secret", "multitalk-web")] == names


def test_an_unknown_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_SECRETS", "aws-secrets")
    with pytest.raises(ValueError, match="MODAL_SECRETS names aws-secrets; allowed are aws-secret,huggingface-secret"):
        secrets("aws-secret")


class FakeCall:
    """Stands for `modal.FunctionCall`; `outcome` is returned or raised."""

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
def test_states_of_a_modal_call(monkeypatch: pytest.MonkeyPatch, outcome: Any, status: int, words: str) -> None:
    call = type("Call", (FakeCall,), {"outcome": outcome, "cancelled": []})()
    spawned: list[Any] = []

    class Function:
        @staticmethod
        def spawn(*arguments: Any, **lists: Any) -> FakeCall:
            spawned.append((*arguments, *lists.items()))
            return call

    monkeypatch.setattr(modal.FunctionCall, "from_id", lambda _: call)
    client = TestClient(make_app(ModalBackend(Function()), CREDENTIALS), headers=TOKEN_HEADER)
    answer = client.post("/submit", json={"image": "https://x/a.png", "audio1": "https://x/1.wav"})
    assert answer.json() == {"call_id": "fc-1"}
    assert spawned == [({"image": "https://x/a.png", "first_audio": "https://x/1.wav"}, None)]
    lists = {"person_masks": ["https://x/m.png"], "loras": ["one"]}
    client.post("/submit", json={"image": "https://x/a.png", "audio1": "https://x/1.wav", **lists})
    assert (spawned[1][0]["person_masks"], spawned[1][2]) == (lists["person_masks"], ("loras", ["one"]))
    answer = client.get("/result/fc-1")
    assert answer.status_code == status
    assert words in answer.text
    expected = 404 if status == 404 else 200
    assert client.post("/cancel/fc-1").status_code == expected
    assert call.cancelled == ([] if status == 404 else ["fc-1"])


def test_app_as_the_modal_command_imports_it(run_python: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What `modal run` and `modal deploy` resolve from `deploy/modal_app.py`, on a machine that need not have torch."""
    monkeypatch.setenv("MODAL_GPU", "H100")
    output = run_python(
        "import sys\n"
        "from modal.cli.import_refs import *\n"
        "module = import_file_or_module(parse_import_ref('deploy/modal_app.py'))\n"
        "commands = list_cli_commands(dict(inspect.getmembers(module)))\n"
        "print(import_app_from_ref(parse_import_ref('deploy/modal_app.py')).name)\n"
        "print(next(command.names[0] for command in commands if isinstance(command.runnable, LocalEntrypoint)))\n"
        "print(*sorted(command.names[0] for command in commands))\n"
        "from deploy.modal_functions import functions, settings as s\n"
        "print(functions.gpu_options['gpu'], *(each.name for each in functions.gpu_options['secrets']))\n"
        "print(s.WEIGHTS_VOLUME.name, 'torch' in sys.modules)"
    )
    assert output.splitlines() == [
        "multitalk",
        "main",
        "download generate_multi_person_video generate_video generate_video_cuda main web",
        "H100 aws-secret huggingface-secret",
        "multitalk-weights False",
    ]
