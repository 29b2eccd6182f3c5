"""RunPod's serverless worker: `python -m deploy.runpod_worker.handler`; for trying it, with `--rp_serve_api`.

A failure is an answer with `error`. There is no placeholder video: without weights every request fails and says why.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import runpod

from app.settings import read_settings
from deploy.errors import CLIENT_ERRORS
from deploy.fields import FieldReader, translate_names
from deploy.runner import Output, Runner
from deploy.runpod_worker.health import health
from deploy.runpod_worker.schemas import ParsedRequest, parse_request
from deploy.service import Service, error_message, job_dir, log_metrics
from src.errors import InputError
from src.serving import logs
from src.serving.cancellation import CancelledError, RequestContext
from src.storage.fetcher import make_fetcher
from src.storage.outputs import S3Destination, resolve_destination, to_base64
from src.storage.settings import number
from src.storage.settings import read_settings as read_storage

logger = logging.getLogger("deploy.runpod")

MAX_RESULT_MB = 10.0
"""What RunPod takes as an answer to /run."""
OUTPUTS = "outputs"
Tell = Callable[[Mapping[str, Any], str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPodWorker:
    """Answers jobs; several may come at once, and the model works on one after another."""

    service: Service
    environ: Mapping[str, str]
    tell: Tell = runpod.serverless.progress_update

    async def handle(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one job. Cancelling this stops the work at its next step."""
        follower = RequestContext(request_id=str(job["id"]), on_progress=lambda text: self.tell(job, text))
        work = asyncio.get_running_loop().run_in_executor(None, self.answer, job, follower)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            follower.cancelled.set()
            raise

    def answer(self, job: Mapping[str, Any], follower: RequestContext) -> dict[str, Any]:
        """As `handle`, in a thread of its own."""
        try:
            fields = job.get("input")
            if not isinstance(fields, Mapping):
                raise InputError("input is missing; an object with the fields of the request is needed")
            if "health_check" in fields:
                return self.healthy(fields)
            return self.generate(fields, follower)
        except CancelledError as stopped:
            return {"error": str(stopped)}
        except Exception as error:  # noqa: BLE001 - a raise would show its traceback to the caller
            return {"error": error_message(error)} | self.refresh()

    def healthy(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to `health_check: true`."""
        if not FieldReader(fields, ("health_check",)).switch("health_check", False):
            raise InputError("health_check is false; leave it out, or make it true")
        return health(self.service.engine, read_settings(self.environ))

    def generate(self, fields: Mapping[str, Any], follower: RequestContext) -> dict[str, Any]:
        """Make a video in whichever form it was asked for."""
        wish = parse_request(fields, read_settings(self.environ).limits.max_seconds)
        place = self.place(wish)
        with job_dir(follower) as folder:
            output = self.make(wish, folder, follower)
            log_metrics(output)
            video = place.deliver(output.path) if place else self.inline(output.path)
        if not wish.detailed:
            return {"video_url" if place else "video_base64": video}
        return {"video": video, "video_info": describe(output, wish, place)}

    def make(self, wish: ParsedRequest, folder: Path, follower: RequestContext) -> Output:
        """The video; InputError in the form's own terms."""
        try:
            return self.service.make(wish.media, wish.values, folder, follower, wish.size)
        except CLIENT_ERRORS as error:
            raise InputError(translate_names(str(error), wish.names)) from error

    def place(self, wish: ParsedRequest) -> S3Destination | None:
        """Where the video goes, known before any work; None for the answer itself."""
        bucket = self.service.inputs.bucket
        if wish.output == "base64" or (wish.output is None and bucket is None):
            return None
        name = "s3_output_key" if wish.key else "output_format"
        return resolve_destination(bucket, wish.key, folder=OUTPUTS, name=name)

    def inline(self, path: Path) -> str:
        """The video in base64, if RunPod takes an answer of that length."""
        most = number(self.environ, "RUNPOD_RESULT_MB", MAX_RESULT_MB) * 1e6
        text = to_base64(path)
        if len(text) > most:
            raise InputError(
                f"the video has {len(text):,} characters in base64; RunPod takes {most:,.0f} in an answer, "
                "so the operator has to configure a bucket (S3_BUCKET)"
            )
        return text

    def refresh(self) -> dict[str, Any]:
        """Ask RunPod for a fresh worker when this one's device is dead."""
        predictor = self.service.engine.generator
        dead = predictor is not None and "device" in predictor.health.faults
        return {"refresh_worker": True} if dead else {}


def describe(output: Output, wish: ParsedRequest, place: S3Destination | None) -> dict[str, Any]:
    """The second form's `video_info`: what was made, and what was done to it afterwards."""
    metrics, fps = output.metrics, wish.values["fps"]
    size = (metrics["width"], metrics["height"])
    made = metrics.get("made", size)
    note = f"made at {made[0]} x {made[1]}"
    if made != size:
        note += f", then scaled to {size[0]} x {size[1]}"
    info = {
        "width": metrics["width"],
        "height": metrics["height"],
        "fps": fps,
        "frames": metrics["frames"],
        "duration": metrics["frames"] / fps,
        "seed": metrics["seed"],
        "output_format": "s3" if place else "base64",
        "processing_note": note,
        "models_used": [metrics["model"]],
        "audio_features_shape": metrics["speech_shape"],
    }
    return info | ({"s3_uri": place.address, "s3_key": place.key} if place else {})


def make_worker(environ: Mapping[str, str]) -> RunPodWorker:
    """A worker with the operator's settings; its model is not loaded yet."""
    return RunPodWorker(service=Service(engine=Runner(), inputs=make_fetcher(read_storage(environ))), environ=environ)


def main() -> None:
    """Load the model and take jobs. Without a model jobs are taken as well, to be told why it is not there."""
    os.environ.setdefault("MULTITALK_LOG", "json")
    logs.configure(os.environ)
    worker = make_worker(os.environ)
    try:
        worker.service.engine.load()
    except Exception:
        logger.exception("the model cannot be loaded; every request will fail and say so")
    concurrency = int(number(os.environ, "RUNPOD_CONCURRENCY", 1))
    runpod.serverless.start({"handler": worker.handle, "concurrency_modifier": lambda _: concurrency})
