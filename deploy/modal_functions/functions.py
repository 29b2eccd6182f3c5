"""The Modal app: `modal run deploy/modal_app.py::download` once, then `modal deploy deploy/modal_app.py`.

From the command line: `modal run deploy/modal_app.py --image-path a.png --audio1-path a.wav --output-path talk.mp4`.
"""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import modal
from fastapi import FastAPI

from deploy.errors import CLIENT_ERRORS
from deploy.fields import FILE_LISTS, LIST_FIELDS, LORAS, file_lists, lora_list, translate_names
from deploy.modal_functions.settings import (
    APP_NAME,
    AWS_SECRET,
    GPU,
    HUGGING_FACE_SECRET,
    SCALEDOWN_S,
    TIMEOUT_S,
    WEB_SECRET,
    WEIGHTS_DIR,
    WEIGHTS_VOLUME,
    make_image,
    secrets,
)
from src.errors import InputError
from src.serving.validation import validate_object

if TYPE_CHECKING:  # imported in the functions: the machine that deploys need not have torch
    from deploy.service import Service

PROMPT = "People talk naturally, with lively faces and small gestures, while the camera stands still."
OUTPUT_FOLDER = "outputs"
MAX_VOICES = 2
Files = Mapping[str, str | Sequence[str]]
"""Files by input name, lists for the inputs that are lists."""
IMAGE_KEY, AUDIO_KEY_1, AUDIO_KEY_2 = "multi1.png", "1.wav", "2.wav"
ARGUMENT_NAMES = {
    "image": "image_key",
    "sampling_steps": "sample_steps",
    "audio_mode": "audio_type",
    "audio_guidance": "audio_cfg",
}
"""Arguments of both functions by the inputs of predict() that they stand for."""

app = modal.App(APP_NAME, image=make_image())
gpu_options: dict[str, Any] = {
    "gpu": GPU,
    "volumes": {WEIGHTS_DIR: WEIGHTS_VOLUME},
    "secrets": secrets(AWS_SECRET, HUGGING_FACE_SECRET),
    "timeout": TIMEOUT_S,
    "scaledown_window": SCALEDOWN_S,
}


@cache
def service() -> "Service":
    """The container's service; its model is loaded by the first request."""
    from deploy.runner import Runner
    from deploy.service import Service
    from src.storage.fetcher import make_fetcher
    from src.storage.settings import read_settings

    return Service(runner=Runner(), fetcher=make_fetcher(read_settings(os.environ)))


@app.function(**gpu_options)
def generate_video_cuda(
    prompt: str = PROMPT, image_key: str = IMAGE_KEY, audio_key: str = AUDIO_KEY_1, sample_steps: int = 20
) -> dict[str, str]:
    """One person. The keys are of the bucket; `s3_output` is the video's `s3://` address."""
    files = {"image": image_key, "first_audio": audio_key}
    names = {**ARGUMENT_NAMES, "first_audio": "audio_key"}
    return {"s3_output": generate_to_bucket(files, {"prompt": prompt, "sampling_steps": sample_steps}, names)}


@app.function(**gpu_options)
def generate_multi_person_video(
    prompt: str = PROMPT,
    image_key: str = IMAGE_KEY,
    audio_keys: Sequence[str] = (AUDIO_KEY_1, AUDIO_KEY_2),
    sample_steps: int = 20,
    audio_type: str = "add",
    audio_cfg: float = 4.0,
    color_correction: float = 0.7,
    **lists: list[str],
) -> dict[str, str]:
    """Two persons who speak one after the other (`add`) or at the same time (`para`).

    `lists`: person_masks, conditioning_audio and lora_files, which are keys of the bucket, and loras.
    """
    if isinstance(audio_keys, str) or not 1 <= len(audio_keys) <= MAX_VOICES:
        raise InputError(f"audio_keys is {audio_keys!r}; a list of 1 or {MAX_VOICES} keys is needed")
    given = validate_object(lists, {"properties": LIST_FIELDS}, noun="accepted argument")
    voices = dict(zip(("first_audio", "second_audio"), audio_keys, strict=False))
    files = {"image": image_key, **voices, **file_lists(given)}
    values = {
        **lora_list(given),
        "prompt": prompt,
        "sampling_steps": sample_steps,
        "audio_mode": audio_type,
        "audio_guidance": audio_cfg,
        "color_correction": color_correction,
    }
    names = {**ARGUMENT_NAMES, "first_audio": "audio_keys[0]", "second_audio": "audio_keys[1]"}
    return {"s3_output": generate_to_bucket(files, values, names)}


def generate_to_bucket(files: Files, values: Mapping[str, object], names: Mapping[str, str]) -> str:
    """Store the video under `outputs/`; its `s3://` address. Raises InputError with the function's argument names."""
    from src.serving.cancellation import RequestContext
    from src.storage.outputs import resolve_destination

    destination = resolve_destination(service().fetcher.bucket, None, folder=OUTPUT_FOLDER, name="s3_output")
    context = RequestContext(request_id=uuid4().hex)
    try:
        service().process(files, values, context, lambda output: destination.upload(output.path))
    except CLIENT_ERRORS as error:
        raise InputError(translate_names(str(error), names)) from error
    return destination.uri


@app.function(**gpu_options)
def generate_video(files: Files, prompt: str | None = None, loras: Sequence[str] | None = None) -> bytes:
    """The MP4's bytes, for the HTTP API and the command line. `files` are by input name, in any form of a file."""
    from src.serving.cancellation import RequestContext

    context = RequestContext(request_id=modal.current_function_call_id() or uuid4().hex)
    values = {"prompt": prompt, LORAS: loras}
    return service().process(files, values, context, lambda output: output.path.read_bytes())


@app.function(volumes={WEIGHTS_DIR: WEIGHTS_VOLUME}, secrets=secrets(HUGGING_FACE_SECRET), timeout=6 * TIMEOUT_S)
def download(names: str = "") -> list[str]:
    """Download weights into the volume: bundles by name, separated by commas, by default those of the model."""
    import weights
    from app.settings import read_settings

    settings = read_settings(os.environ)
    needed = [name for name in settings.config.files.bundles if name in weights.BUNDLES]
    selected = names.split(",") if names else needed
    weights.ensure(settings.model_path, selected)
    if not modal.is_local():
        WEIGHTS_VOLUME.commit()
    return selected


@app.function(secrets=secrets(WEB_SECRET), timeout=10 * 60)
@modal.asgi_app()
def web() -> FastAPI:
    """The HTTP API in front of `generate_video`."""
    from deploy.modal_functions.backend import ModalBackend
    from deploy.web.app import make_app, read_credentials
    from src.storage.settings import read_settings

    limits = read_settings(os.environ).limits
    return make_app(ModalBackend(generate_video), read_credentials(os.environ), limits)


@app.local_entrypoint()
def main(  # noqa: PLR0913 - the options of the command
    image_path: str,
    audio1_path: str,
    audio2_path: str = "",
    two_person: bool = False,
    prompt: str = PROMPT,
    output_path: str = "output.mp4",
    overwrite: bool = False,
    person_masks: str = "",
    conditioning_audio: str = "",
    lora_files: str = "",
    loras: str = "",
) -> None:
    """Generate a video from files of this machine and save it. The last four are lists, separated by commas; a file in
    them may be a URL. ValueError for a file that exists, without overwrite."""
    from src.command_line import require_new, write_atomically

    require_new(Path(output_path), overwrite=overwrite)
    lists = dict(zip(FILE_LISTS, map(split, (person_masks, conditioning_audio, lora_files)), strict=True))
    files = encode_files(image_path, audio1_path, audio2_path, two_person=two_person) | encode_lists(lists)
    video = generate_video.remote(files, prompt, **lora_list({LORAS: split(loras)}))

    def write(partial: Path) -> None:
        partial.write_bytes(video)

    write_atomically(Path(output_path), write, overwrite=overwrite)


def split(text: str) -> list[str]:
    """The items of a list that commas separate."""
    return [item.strip() for item in text.split(",") if item.strip()]


def encode_lists(lists: Mapping[str, Sequence[str]]) -> dict[str, str | Sequence[str]]:
    """Lists of files by input name, the URLs unchanged and the files of this machine as data URIs."""
    from src.serving.cog.cli_inputs import data_uri

    return {
        name: [item if "://" in item else data_uri(Path(item)) for item in items]
        for name, items in lists.items()
        if items
    }


def encode_files(
    image_path: str, audio1_path: str, audio2_path: str, *, two_person: bool
) -> dict[str, str | Sequence[str]]:
    """Files as data URIs by input name. InputError for two persons with one voice and for one person with two."""
    from src.serving.cog.cli_inputs import data_uri

    if two_person != bool(audio2_path):
        raise InputError(f"two_person is {two_person} and audio2_path {audio2_path!r}; both or neither are needed")
    paths = {"image": image_path, "first_audio": audio1_path, "second_audio": audio2_path}
    return {name: data_uri(Path(path)) for name, path in paths.items() if path}
