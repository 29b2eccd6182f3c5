"""RunPod's serverless worker.

A failed job is answered with `error`. No placeholder video is ever sent: without weights every job fails.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import runpod

from app.generator import Output
from app.settings import read_settings
from deploy.errors import CLIENT_ERRORS
from deploy.fields import translate_names
from deploy.runner import Runner
from deploy.runpod_worker.health import health_report
from deploy.runpod_worker.schemas import ParsedRequest, parse_request
from deploy.service import Service, error_message
from src.environment import read_number
from src.errors import InputError
from src.serving import logs
from src.serving.cancellation import CancelledError, RequestContext
from src.serving.validation import validate_object
from src.storage.fetcher import make_fetcher
from src.storage.outputs import S3Destination, resolve_destination, to_base64
from src.storage.settings import read_settings as read_storage_settings

logger = logging.getLogger(__name__)

MAX_RESULT_MB = 10.0
"""Size of a response that RunPod accepts for /run."""
OUTPUT_FOLDER = "outputs"

ProgressCallback = Callable[[Mapping[str, Any], str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPodWorker:
    """Handles jobs. Several may run at the same time: the model processes one, the others fetch their files."""

    service: Service
    environ: Mapping[str, str]
    on_progress: ProgressCallback = runpod.serverless.progress_update

    async def handle(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a job. Cancelling the coroutine cancels the request, which ends at its next step."""
        context = RequestContext(request_id=str(job["id"]), on_progress=lambda message: self.on_progress(job, message))
        work = asyncio.get_running_loop().run_in_executor(None, self.answer, job, context)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            context.cancelled.set()
            raise

    def answer(self, job: Mapping[str, Any], context: RequestContext) -> dict[str, Any]:
        """The answer to a job, or `error`."""
        try:
            fields = job.get("input")
            if not isinstance(fields, Mapping):
                raise InputError("input is missing; an object with the fields of the request is needed")
            if "health_check" in fields:
                return self.health_check(fields)
            return self.generate(fields, context)
        except CancelledError as error:
            return {"error": str(error)}
        except Exception as error:  # noqa: BLE001 - RunPod would send the caller a traceback
            return {"error": error_message(error)} | self.refresh_flag()

    def health_check(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to `health_check: true`."""
        schema = {"properties": {"health_check": {"type": "boolean"}}}
        if not validate_object(fields, schema, noun="accepted field")["health_check"]:
            raise InputError("health_check is false; leave it out, or make it true")
        return health_report(self.service.runner, read_settings(self.environ))

    def generate(self, fields: Mapping[str, Any], context: RequestContext) -> dict[str, Any]:
        """Generate and deliver a video; the answer in the request's format."""
        request = parse_request(fields, read_settings(self.environ).limits.max_seconds)
        destination = self.resolve_destination(request)

        def deliver(output: Output) -> dict[str, Any]:
            video = destination.upload(output.path) if destination else self.encode(output.path)
            if request.include_info:
                return {"video": video, "video_info": video_info(output, request, destination)}
            return {"video_url" if destination else "video_base64": video}

        try:
            return self.service.process(request.files, request.values, context, deliver, request.size)
        except CLIENT_ERRORS as error:
            raise InputError(translate_names(str(error), request.names)) from error

    def resolve_destination(self, request: ParsedRequest) -> S3Destination | None:
        """The object that the video is stored as; None for base64. Checked before any work."""
        bucket = self.service.fetcher.bucket
        if request.output == "base64" or (request.output is None and bucket is None):
            return None
        field = "s3_output_key" if request.key else "output_format"
        return resolve_destination(bucket, request.key, folder=OUTPUT_FOLDER, name=field)

    def encode(self, path: Path) -> str:
        """The video in base64. InputError when it is longer than RunPod accepts."""
        max_chars = read_number(self.environ, "RUNPOD_RESULT_MB", MAX_RESULT_MB) * 1e6
        text = to_base64(path)
        if len(text) > max_chars:
            raise InputError(
                f"the video has {len(text):,} characters in base64; RunPod takes {max_chars:,.0f} in an answer, "
                "so the operator has to configure a bucket (S3_BUCKET)"
            )
        return text

    def refresh_flag(self) -> dict[str, Any]:
        """Asks RunPod to replace this worker if its GPU does not respond."""
        generator = self.service.runner.generator
        dead = generator is not None and "device" in generator.health.faults
        return {"refresh_worker": True} if dead else {}


def video_info(output: Output, request: ParsedRequest, destination: S3Destination | None) -> dict[str, Any]:
    """`video_info` of the detailed format."""
    metrics, fps = output.metrics, request.values["fps"]
    size = (metrics["width"], metrics["height"])
    generated = metrics.get("made", size)
    note = f"made at {generated[0]} x {generated[1]}"
    if generated != size:
        note += f", then scaled to {size[0]} x {size[1]}"
    info = {
        "width": metrics["width"],
        "height": metrics["height"],
        "fps": fps,
        "frames": metrics["frames"],
        "duration": metrics["frames"] / fps,
        "seed": metrics["seed"],
        "output_format": "s3" if destination else "base64",
        "processing_note": note,
        "models_used": [metrics["model"]],
        "audio_features_shape": metrics["speech_shape"],
    }
    return info | ({"s3_uri": destination.uri, "s3_key": destination.key} if destination else {})


def make_worker(environ: Mapping[str, str]) -> RunPodWorker:
    """A worker with the settings of the environment. Its model is not loaded yet."""
    service = Service(runner=Runner(), fetcher=make_fetcher(read_storage_settings(environ)))
    return RunPodWorker(service=service, environ=environ)


def main() -> None:
    """Load the model and take jobs. Without a model jobs are taken too, so that their error says why."""
    os.environ.setdefault("MULTITALK_LOG", "json")
    logs.configure(os.environ)
    worker = make_worker(os.environ)
    try:
        worker.service.runner.load()
    except Exception:
        logger.exception("the model cannot be loaded; every job will fail with this error")
    concurrency = int(read_number(os.environ, "RUNPOD_CONCURRENCY", 1))
    runpod.serverless.start({"handler": worker.handle, "concurrency_modifier": lambda _: concurrency})
