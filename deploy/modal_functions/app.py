"""The app on Modal: run `modal run deploy/modal_app.py::download` once, then `modal deploy deploy/modal_app.py`.

One person or two: `modal run deploy/modal_app.py --image-path a.png --audio1-path a.wav --output-path talk.mp4`.
"""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import modal
from fastapi import FastAPI

from deploy.errors import CLIENT_ERRORS
from deploy.fields import translate_names
from deploy.modal_functions.settings import (
    AWS,
    GPU,
    HUGGING_FACE,
    IDLE_S,
    NAME,
    TIMEOUT_S,
    VOLUME,
    WEB,
    WEIGHTS,
    make_image,
)
from src.errors import InputError

if TYPE_CHECKING:  # what brings torch is imported where the work is done: the machine that deploys may lack it
    from deploy.service import Service

PROMPT = "People talk naturally, with lively faces and small gestures, while the camera stands still."
OUTPUTS = "outputs"
VOICES = 2
IMAGE, FIRST, SECOND = "multi1.png", "1.wav", "2.wav"
NAMES = {
    "image": "image_key",
    "sampling_steps": "sample_steps",
    "audio_mode": "audio_type",
    "audio_guidance": "audio_cfg",
}
"""What both functions call the predictor's inputs."""

app = modal.App(NAME, image=make_image())
on_gpu: dict[str, Any] = {
    "gpu": GPU,
    "volumes": {WEIGHTS: VOLUME},
    "secrets": [AWS, HUGGING_FACE],
    "timeout": TIMEOUT_S,
    "scaledown_window": IDLE_S,
}


@cache
def service() -> "Service":
    """One warm model for each container."""
    from deploy.runner import Runner
    from deploy.service import Service
    from src.storage.fetcher import make_fetcher
    from src.storage.settings import read_settings

    return Service(engine=Runner(), inputs=make_fetcher(read_settings(os.environ)))


@app.function(**on_gpu)
def generate_video_cuda(
    prompt: str = PROMPT, image_key: str = IMAGE, audio_key: str = FIRST, sample_steps: int = 20
) -> dict[str, str]:
    """One person; the keys are of the bucket. `s3_output` is the video's address there."""
    media = {"image": image_key, "first_audio": audio_key}
    names = {**NAMES, "first_audio": "audio_key"}
    return {"s3_output": to_bucket(media, {"prompt": prompt, "sampling_steps": sample_steps}, names)}


@app.function(**on_gpu)
def generate_multi_person_video(
    prompt: str = PROMPT,
    image_key: str = IMAGE,
    audio_keys: Sequence[str] = (FIRST, SECOND),
    sample_steps: int = 20,
    audio_type: str = "add",
    audio_cfg: float = 4.0,
    color_correction: float = 0.7,
) -> dict[str, str]:
    """Two people, who speak in turn (add) or together (para)."""
    if isinstance(audio_keys, str) or not 1 <= len(audio_keys) <= VOICES:
        raise InputError(f"audio_keys is {audio_keys!r}; one or {VOICES} keys are needed: the weights know two voices")
    media = {"image": image_key} | dict(zip(("first_audio", "second_audio"), audio_keys, strict=False))
    values = {
        "prompt": prompt,
        "sampling_steps": sample_steps,
        "audio_mode": audio_type,
        "audio_guidance": audio_cfg,
        "color_correction": color_correction,
    }
    names = {**NAMES, "first_audio": "audio_keys[0]", "second_audio": "audio_keys[1]"}
    return {"s3_output": to_bucket(media, values, names)}


def to_bucket(media: dict[str, str], values: dict[str, object], names: dict[str, str]) -> str:
    """Make the video, store it under outputs/; its `s3://` address. InputError in the function's own terms."""
    from deploy.service import job_dir, log_metrics
    from src.serving.cancellation import RequestContext
    from src.storage.outputs import resolve_destination

    place = resolve_destination(service().inputs.bucket, None, folder=OUTPUTS, name="s3_output")
    follower = RequestContext(request_id=uuid4().hex)
    try:
        with job_dir(follower) as folder:
            output = service().make(media, values, folder, follower)
            log_metrics(output)
            place.deliver(output.path)
    except CLIENT_ERRORS as error:
        raise InputError(translate_names(str(error), names)) from error
    return place.address


@app.function(**on_gpu)
def generate_video(media: dict[str, str], prompt: str | None = None) -> bytes:
    """A video itself, from files in any form that a request may name: for the web form and the command line."""
    from deploy.service import job_dir, log_metrics
    from src.serving.cancellation import RequestContext

    follower = RequestContext(request_id=modal.current_function_call_id() or uuid4().hex)
    with job_dir(follower) as folder:
        output = service().make(media, {"prompt": prompt}, folder, follower)
        log_metrics(output)
        return output.path.read_bytes()


@app.function(volumes={WEIGHTS: VOLUME}, secrets=[HUGGING_FACE], timeout=6 * TIMEOUT_S)
def download(names: str = "") -> list[str]:
    """Fetch weights into the volume: those of the model, or bundles by name, separated by commas."""
    import weights
    from app.settings import read_settings

    settings = read_settings(os.environ)
    files = settings.config.files
    wanted = names.split(",") if names else [files.base, files.audio, files.speech]
    weights.ensure(settings.folder, [name for name in wanted if names or name in weights.BUNDLES])
    if not modal.is_local():
        VOLUME.commit()
    return wanted


@app.function(secrets=[WEB], timeout=10 * 60)
@modal.asgi_app()
def web() -> FastAPI:
    """The web form before `generate_video`."""
    from deploy.modal_functions.backend import ModalBackend
    from deploy.web.app import make_app, read_credentials

    return make_app(ModalBackend(generate_video), read_credentials(os.environ))


@app.local_entrypoint()
def main(
    image_path: str,
    audio1_path: str,
    audio2_path: str = "",
    two_person: bool = False,
    prompt: str = PROMPT,
    output_path: str = "output.mp4",
) -> None:
    """Send files of this machine, and save the video."""
    media = media_of(image_path, audio1_path, audio2_path, two_person=two_person)
    Path(output_path).write_bytes(generate_video.remote(media, prompt))


def media_of(image_path: str, audio1_path: str, audio2_path: str, *, two_person: bool) -> dict[str, str]:
    """The files as data URIs, by the predictor's names; InputError when two persons have one voice, or one has two."""
    from src.serving.cog.cli_inputs import data_uri

    if two_person != bool(audio2_path):
        raise InputError(f"two_person is {two_person} and audio2_path {audio2_path!r}; both or neither are needed")
    paths = {"image": image_path, "first_audio": audio1_path, "second_audio": audio2_path}
    return {name: data_uri(Path(path)) for name, path in paths.items() if path}
