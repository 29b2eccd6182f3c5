"""Cog's entry point: a picture, one or two voices and a sentence become an MP4 of people talking."""
# ruff: noqa: B008, E501, UP045 - Cog reads the inputs as text: Input(...) calls, one string each, Optional[...].

if __name__ == "__main__":
    # The command line only talks to the server, which imports this file again: it must not wait for torch.
    import sys

    from src.serving.cog.client import main

    sys.exit(main())

import logging
import os
import secrets
import shutil
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Optional

import numpy as np
import torch
from cog import BasePredictor, Input, Path
from PIL import Image

import weights
from app.settings import read_settings
from app.speakers import draw_preview, layout_speakers, to_person_masks, to_pixels
from src.audio_analysis.long_audio import embed_speech
from src.audio_analysis.timeline import mix
from src.audio_analysis.wav2vec2 import Wav2Vec2Model
from src.errors import InputError, truncated_repr
from src.media.audio.audio import Audio
from src.media.provenance import provenance
from src.media.rates import frames_at
from src.media.video.scene_cuts import detect_scene_cuts
from src.media.video.threaded_writer import ThreadedWriter
from src.media.video.writer import VideoWriter
from src.request import MediaInputs, RawInputs, load_inputs
from src.serving import logs
from src.serving.cancellation import raise_if_cancelled, report_progress
from src.serving.eta import RuntimeEstimator, TimeLimitError
from src.serving.health import Health
from src.serving.malloc import trim_malloc_on_exit
from src.serving.timing import StageTimer
from wan import MultiTalkPipeline
from wan.checkpoint.components import CheckpointError
from wan.checkpoint.layout import find_speech_encoder, is_converted
from wan.checkpoint.lora import Lora
from wan.chunks import fit_chunk
from wan.conditioning.layout import ImageLayout
from wan.conditioning.protocols import SpeechEmbeddings
from wan.conditioning.request import Request
from wan.configs.capabilities import choose_device
from wan.modules.attention import chosen_backends
from wan.modules.kernels import dispatch
from wan.modules.text import clean
from wan.progress import Progress
from wan.sampling.options import SamplingOptions, choose_preset, resolve_options
from wan.types import FPS

logger = logging.getLogger("multitalk")

MAX_PROMPT = 5000
DEFAULT_STEPS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRequest:
    """A request whose every value has been checked; no network has run yet."""

    material: MediaInputs
    framing: ImageLayout
    prompt: str
    options: SamplingOptions
    fps: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the video."""
        return self.framing.crop.size


class Predictor(BasePredictor):
    """Loads the model once and answers one request after another."""

    def setup(self) -> None:
        """Fetch what is missing, load the model and warm it up."""
        logs.configure(os.environ)
        start = time.perf_counter()
        self.settings = read_settings(os.environ)
        config, folder = self.settings.config, self.settings.folder
        choose_device(config, device_id=0)  # before anything is downloaded
        if not is_converted(folder):
            needed = (config.files.base, config.files.audio_bundle or config.files.audio, config.files.speech)
            weights.ensure(folder, [name for name in needed if name in weights.BUNDLES])
        try:
            self.pipeline = MultiTalkPipeline(
                config=config,
                checkpoint_dir=folder,
                device_id=0,
                precision=self.settings.precision,
                memory_limit=self.settings.memory_limit,
                num_persistent_param_in_dit=self.settings.persistent,
            )
        except CheckpointError as error:
            raise RuntimeError(f"MODEL_PATH is {str(folder)!r}: {error}") from error
        speech_folder = find_speech_encoder(config, folder)
        self.speech = Wav2Vec2Model.from_pretrained(speech_folder, local_files_only=True)
        self.speech.to(self.pipeline.device)  # type: ignore[arg-type]
        self.output: Path | None = None
        logger.info("%s loaded on %s in %.1f s", config.name, self.pipeline.device, time.perf_counter() - start)
        self.warm_up()
        self.health = Health(lambda: probe(self.pipeline.device), Path(tempfile.gettempdir()))
        self.health.watch()
        logger.info("ready after %.1f s", time.perf_counter() - start)

    def healthcheck(self) -> bool:
        """Whether the next request can be served; Cog asks often and does not wait."""
        return self.health.well

    # Cog reads this signature as text: literals only, one plain string for each description. Its order is
    # an interface: append new inputs at the end (see CONTRIBUTING.md).
    def predict(
        self,
        image: Path = Input(
            description="Picture of the person or the people who will talk. Faces should be clearly visible and look towards the camera. Where the operator has loaded InfiniteTalk, a video as well (MP4, MOV, WebM, MKV).",
        ),
        first_audio: Path = Input(
            description="What the first person says: any sound file, or a video whose sound is taken. With two people the first is the one on the left, unless person_boxes says otherwise.",
        ),
        second_audio: Optional[Path] = Input(
            description="What the second person says. Leave it empty for one speaker; with person_boxes or person_masks all others then listen.",
            default=None,
        ),
        prompt: str = Input(
            description="What happens in the video: the people, the place, the mood. At most 5,000 characters.",
            default="People talk naturally, with lively faces and small gestures, while the camera stands still.",
        ),
        num_frames: Optional[int] = Input(
            description="Length of the video in frames, 25 of them a second. Left empty, the video is as long as the sound. Ten minutes (15,000 frames) are allowed unless the operator chose another limit.",
            default=None,
            ge=1,
        ),
        sampling_steps: int = Input(
            description="Denoising steps. More of them are slower and cleaner; 40 is full quality, 10 a quick look.",
            default=40,
            ge=2,
            le=100,
        ),
        seed: Optional[int] = Input(
            description="The same seed and inputs give the same video. Left empty, a seed is drawn and reported.",
            default=None,
            ge=0,
            le=2147483647,
        ),
        turbo: bool = Input(
            description="Faster, with a little less detail. Switch it off for the best quality.",
            default=True,
        ),
        audio_mode: str = Input(
            description="How two voices share the time. add: the second starts when the first has ended. para: both start together.",
            default="add",
            choices=["add", "para"],
        ),
        resolution: str = Input(
            description="Size class of the video. 720p shows more detail and takes several times as long.",
            default="480p",
            choices=["480p", "720p"],
        ),
        text_guidance: Optional[float] = Input(
            description="How closely the video follows the prompt. Left empty: 3 with turbo, 5 without (the built-in model: 2 and 3).",
            default=None,
            ge=1,
            le=20,
        ),
        audio_guidance: Optional[float] = Input(
            description="How closely the lips follow the sound. Left empty: 3 with turbo, 4 without (the built-in model: 2).",
            default=None,
            ge=1,
            le=20,
        ),
        shift: Optional[float] = Input(
            description="How many of the steps go to the rough layout rather than to detail. Left empty, it is chosen from turbo and resolution (5 to 11; the built-in model: 3).",
            default=None,
            ge=1,
            le=20,
        ),
        negative_prompt: Optional[str] = Input(
            description="What the video should not show. Left empty, a list of common faults is used.",
            default=None,
        ),
        person_boxes: Optional[str] = Input(
            description="Where the people are: x1,y1,x2,y2 for each person (left, top, right, bottom), people separated by a semicolon, as fractions of the picture or in pixels. Those who speak come first; everybody after them is silent, up to ten in all. Example: 0.05,0.1,0.45,1;0.55,0.1,0.95,1. Left empty, the picture is split into a left and a right half.",
            default=None,
        ),
        audio_start: float = Input(
            description="Seconds to skip at the beginning of each sound file.",
            default=0.0,
            ge=0,
        ),
        audio_duration: Optional[float] = Input(
            description="Seconds to use of each sound file, counted from audio_start. Left empty, all of it.",
            default=None,
            ge=0.04,
        ),
        color_correction: float = Input(
            description="How strongly colours are held to those of the picture, against drift in long videos. 0 is off, 1 is full.",
            default=0.3,
            ge=0,
            le=1,
        ),
        use_apg: bool = Input(
            description="Adaptive projected guidance: less oversaturation when the guidance values are high.",
            default=False,
        ),
        lora: str = Input(
            description="A named low-rank change of the weights that the operator has installed: FusionX (fewer steps, richer pictures) or lightx2v (4 steps); distilled (4 steps) is the built-in model's own.",
            default="none",
            choices=["none", "FusionX", "lightx2v", "distilled"],
        ),
        lora_strength: float = Input(
            description="How strongly the LoRA is applied. 1 is what it was made for.",
            default=1.0,
            ge=0,
            le=2,
        ),
        preset: str = Input(
            description="Values that go together, instead of turbo's: quality (40 steps), balanced (25 steps), fast (4 steps with a distilled LoRA: lightx2v, or the built-in model's own). What you set yourself wins; sampling_steps counts as set when it is not 40.",
            default="none",
            choices=["none", "quality", "balanced", "fast"],
        ),
        person_masks: Optional[list[Path]] = Input(
            description="Where the people are, drawn: one picture of the same shape for each person, white where that person is. Instead of person_boxes, and in the same order.",
            default=None,
        ),
        preview_speakers: bool = Input(
            description="Only show who is who: a one-second video of the first frame with the regions and names of the people drawn on it. The model does not run.",
            default=False,
        ),
        aspect: str = Input(
            description="Shape of the video. bucket: the nearest of the shapes that the model was trained on, and the picture is cropped to it. source: the shape of the picture, with as many pixels as the resolution allows.",
            default="bucket",
            choices=["bucket", "source"],
        ),
        fps: int = Input(
            description="Frames a second in the file. The model makes 25; for another number frames are repeated or left out, and the video lasts as long.",
            default=25,
            ge=8,
            le=60,
        ),
        conditioning_audio: Optional[list[Path]] = Input(
            description="What moves the lips instead of first_audio and second_audio, in this order: the same sound without its music, for example. What is heard in the video does not change.",
            default=None,
        ),
        detect_cuts: bool = Input(
            description="Where image is a video with several scenes: begin anew at each cut, so that no scene runs into the next.",
            default=False,
        ),
        cache: str = Input(
            description="What decides which steps are left out because they change little. teacache: as strongly as turbo or preset has it (fast leaves none out). magcache: often better at the same speed, from 10 steps on. none: every step is computed.",
            default="teacache",
            choices=["teacache", "magcache", "none"],
        ),
        guidance_reuse: bool = Input(
            description="Faster: in the second half of the steps every other one takes over the guidance of the one before. Needs text_guidance or audio_guidance above 1.",
            default=False,
        ),
    ) -> Path:
        """Make one video."""
        self.remove_last_output()
        start = time.perf_counter()
        with torch.inference_mode(), trim_malloc_on_exit():
            try:
                check_prompt("prompt", prompt)
                if negative_prompt:
                    check_prompt("negative_prompt", negative_prompt)
                uploads = RawInputs(
                    image=image,
                    first_audio=first_audio,
                    second_audio=second_audio,
                    num_frames=None if num_frames is None else int(num_frames),
                    person_boxes=person_boxes,
                    audio_mode=audio_mode,
                    audio_start=float(audio_start),
                    audio_duration=None if audio_duration is None else float(audio_duration),
                    person_masks=person_masks or [],
                    conditioning_audio=conditioning_audio or [],
                )
                chosen = choose_preset(self.settings.config, turbo, None if preset == "none" else preset)
                loras = self.find_loras(chosen.lora if lora == "none" else lora, float(lora_strength))
                options = self.choose_options(
                    aspect=aspect,
                    size_class=resolution.removesuffix("p"),
                    turbo=turbo,
                    preset_name=None if preset == "none" else preset,
                    sampling_steps=None
                    if preset != "none" and sampling_steps == DEFAULT_STEPS
                    else int(sampling_steps),
                    seed=secrets.randbelow(2**31) if seed is None else int(seed),
                    negative_prompt=negative_prompt,
                    text_guide_scale=text_guidance,
                    audio_guide_scale=audio_guidance,
                    shift=shift,
                    color_correction_strength=color_correction,
                    use_apg=use_apg,
                    cache=cache,
                    guidance_reuse=guidance_reuse,
                )
                with closing(load_inputs(uploads, self.settings.limits)) as material:
                    job = self.plan(material, uploads, prompt, fps=int(fps), options=options)
                    stages = StageTimer()
                    if preview_speakers:
                        path = self.make_preview(job, second_speaks=second_audio is not None)
                    else:
                        if detect_cuts:
                            detect_scene_cuts_of(material, stages)
                        self.pipeline.use_loras(loras)
                        path = self.make_movie(job, stages, start)
            except (InputError, TimeLimitError):
                raise
            except torch.OutOfMemoryError as error:
                logger.exception("the prediction ran out of memory")
                advice = "resolution 480p needs less"
                raise RuntimeError(f"the GPU's memory is not enough for this request ({error}); {advice}") from error
            except Exception:
                logger.exception("the prediction failed")
                raise
        self.record(job, stages, time.perf_counter() - start)
        return path

    def choose_options(self, **sampling: Any) -> SamplingOptions:
        """Every sampling value, of any length as yet; InputError for values that contradict each other."""
        try:
            return resolve_options(self.settings.config, **sampling)
        except ValueError as error:
            raise InputError(str(error)) from error

    def plan(
        self, material: MediaInputs, uploads: RawInputs, prompt: str, *, fps: int, options: SamplingOptions
    ) -> PreparedRequest:
        """Find everybody on the model's grid; InputError when somebody has no place left there."""
        config = self.settings.config
        frame_num, motion_frame = fit_chunk(material.num_frames, config.frame_num, config.motion_frame)
        options = replace(options, frame_num=frame_num, motion_frame=motion_frame, max_frames_num=material.num_frames)
        framing = layout_speakers(config, material, uploads, options.size_class, options.aspect)
        return PreparedRequest(material=material, framing=framing, prompt=prompt, options=options, fps=fps)

    def find_loras(self, name: str | None, strength: float) -> list[Lora]:
        """The installed LoRA of a name; InputError for one that is not there."""
        if name is None or strength == 0:
            return []
        path = weights.locate_lora(self.settings.folder, name)
        if path is None:
            fetch = f"python weights.py download {name} --dest {self.settings.folder}"
            how = fetch if name in weights.BUNDLES else "it comes with the built-in model only"
            raise InputError(
                f"lora is {name!r}, which this server does not have; allowed is what the operator has installed "
                f"({how}), or none"
            )
        return [Lora(source=path, strength=strength)]

    def make_movie(self, job: PreparedRequest, stages: StageTimer, start: float) -> Path:
        """Run the networks, and hand every chunk to the encoder as it comes. Returns the MP4's path.

        `start` is when the request began. Raises `TimeLimitError` as soon as it will not be done in time.
        """
        material = job.material
        logger.info("seed %d, %d frames", job.options.seed, material.num_frames)
        logger.debug("prompt: %s", job.prompt)
        tracks = tuple(self.embed(track_N) for track_N in material.timeline.waveforms)
        finish_stage(stages, "speech")
        request = Request(
            picture=material.image,
            tracks=tracks,
            prompt=job.prompt,
            regions=to_person_masks(material.person_masks),
            source=material.video,
        )
        height, width = job.size
        path = self.make_room()
        forecast = RuntimeEstimator(stages, self.settings.max_runtime, start)
        writer = VideoWriter(
            path,
            width=width,
            height=height,
            fps=job.fps,
            soundtrack=material.timeline.soundtrack,
            num_frames=material.num_frames,
            comment=self.comment(job),
        )
        try:
            with writer as movie, ThreadedWriter(movie.write) as encoder:

                def encode(frames_CFHW: torch.Tensor) -> None:
                    encoder.write(self.checked_pixels(frames_CFHW))

                for _ in self.pipeline.stream(
                    request, job.options, lambda done: report(done, stages, forecast), hand_on=encode
                ):
                    finish_stage(stages, "encode")
        except BaseException:
            self.remove_last_output()
            raise
        finish_stage(stages, "finish")
        return path

    def make_preview(self, job: PreparedRequest, *, second_speaks: bool) -> Path:
        """A second of the first frame with everybody's name on it; no network runs. Returns the MP4's path."""
        picture_HWC = np.asarray(draw_preview(job.material, job.framing, second_speaks=second_speaks))
        path = self.make_room()
        height, width, _ = picture_HWC.shape
        with VideoWriter(path, width=width, height=height, fps=job.fps, num_frames=FPS) as movie:
            movie.write(np.repeat(picture_HWC[None], FPS, axis=0))
        return path

    def make_room(self) -> Path:
        """Where this request's video goes: a folder of its own, which `remove_last_output` removes."""
        self.output = Path(tempfile.mkdtemp(prefix="multitalk-"))
        return self.output / "output.mp4"

    def comment(self, job: PreparedRequest) -> str | None:
        """What the file says of itself, unless the operator does not want it."""
        return provenance(self.settings.config.name, job.options.seed) if self.settings.tagged else None

    def checked_pixels(self, video_CFHW: torch.Tensor) -> np.ndarray:
        """Pixels; RuntimeError for a video of which a part is no numbers: it would be black, and so may the next be."""
        if torch.isfinite(video_CFHW).all():
            self.health.note("result", None)
            return to_pixels(video_CFHW)
        self.health.note("result", "the last video held values that are no numbers")
        raise RuntimeError("the model gave values that are no numbers; the video is not used")

    def embed(self, track_N: np.ndarray) -> SpeechEmbeddings:
        """Speech states of a 16 kHz track, frames x layers x width; those of a long one are made as they are heard."""
        return embed_speech(self.speech, track_N)

    def record(self, job: PreparedRequest, stages: StageTimer, seconds: float) -> None:
        """Tell Cog what was done."""
        self.record_metric("model", self.settings.config.name)
        self.record_metric("memory_plan", str(self.pipeline.residence.plan))
        transformer = self.pipeline.models.transformer
        self.record_metric(
            "kernels", "triton" if dispatch.is_enabled(transformer.device, transformer.dtype) else "plain"
        )
        for shape, backend in chosen_backends().items():
            self.record_metric(f"attention.{shape.kind}", backend)
        self.record_metric("seed", job.options.seed)
        height, width = job.size
        self.record_metric("frames", frames_at(job.fps, job.material.num_frames))
        self.record_metric("width", width)
        self.record_metric("height", height)
        if stages.counts["denoise"]:
            self.record_metric("seconds_per_step", stages.mean("denoise"))
        self.record_metric("seconds.total", seconds)
        for stage, spent in stages.seconds.items():
            self.record_metric(f"seconds.{stage}", spent)

    def warm_up(self) -> None:
        """One step of a short clip with as many persons as there may be, so that the first request meets no cold start."""
        config = self.settings.config
        rate = 48_000
        second = Audio(samples_CN=np.sin(np.arange(rate, dtype=np.float32))[None], sample_rate=rate)
        tracks_N = mix((second,) * config.persons, "para").waveforms
        with torch.inference_mode():
            request = Request(
                picture=Image.new("RGB", (512, 256), "grey"),
                tracks=tuple(self.embed(track_N) for track_N in tracks_N),
                prompt="warm-up",
            )
            size_class = next(iter(config.buckets))
            options = resolve_options(config, size_class=size_class, turbo=True, sampling_steps=1, seed=0)
            for _ in self.pipeline.stream(request, options):
                pass

    def remove_last_output(self) -> None:
        """Cog deletes a request's inputs, never its outputs: the last one's goes when the next begins."""
        if self.output is not None:
            shutil.rmtree(self.output, ignore_errors=True)
            self.output = None


def check_prompt(name: str, text: str) -> None:
    """InputError for more than MAX_PROMPT characters, and for text of which cleaning leaves nothing."""
    if len(text) > MAX_PROMPT:
        raise InputError(f"{name} has {len(text):,} characters; at most {MAX_PROMPT:,} are allowed")
    if not clean(text):
        raise InputError(
            f"{name} is {truncated_repr(text)}; it needs 1 to {MAX_PROMPT:,} characters that are not all blank"
        )


def detect_scene_cuts_of(material: MediaInputs, stages: StageTimer) -> None:
    """Find where the source's scenes begin; a picture has one scene."""
    if material.video is not None:
        material.video.cuts = detect_scene_cuts(material.video, material.num_frames, raise_if_cancelled)
        finish_stage(stages, "cuts", f"at frames {', '.join(map(str, material.video.cuts)) or 'none'}")


def finish_stage(timer: StageTimer, stage: str, details: str = "") -> None:
    """Record, log and report the end of a stage. CancelledError if the request has been cancelled."""
    timer.mark(stage)
    message = f"{stage}: {details}" if details else stage
    logger.info("%s", message)
    raise_if_cancelled()
    report_progress(message)


def probe(device: torch.device) -> None:
    """Raise what the device's driver raises when it is dead; work that is under way is not waited for."""
    if device.type == "cuda":
        with torch.cuda.stream(torch.cuda.Stream(device)):
            torch.ones(1, device=device).item()


def report(done: Progress, stages: StageTimer, forecast: RuntimeEstimator) -> None:
    """Pass a report of the pipeline on; `TimeLimitError` when it says that the request will not be done in time."""
    step = f", step {done.step} of {done.steps}" if done.steps > 1 else ""
    finish_stage(stages, done.stage, f"chunk {done.chunk} of {done.chunks}{step}")
    if done.stage in ("denoise", "decode"):
        forecast.update(done.chunk, done.chunks, done.share)
