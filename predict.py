"""Cog's entry point: an image, one or two voices and a prompt become an MP4 of people talking."""
# ruff: noqa: B008, E501, UP045 - Cog reads the inputs as text: Input(...) calls, one string each, Optional[...].

if __name__ == "__main__":
    # The command line only talks to the server, which imports this file again: it must not wait for torch.
    from src.command_line import launch

    launch("src.serving.cog.client")

import atexit
import logging
import os
import shutil
import tempfile
import time
from typing import Optional

from cog import BasePredictor, Input, Path

from app.cog_inputs import fetched_inputs, own_inputs
from app.generator import VideoGenerator
from src.serving import logs
from src.serving.temp_dirs import OwnedDir, compiler_cache, disk_errors, remove_orphans

logger = logging.getLogger("multitalk")


class Predictor(BasePredictor):
    """Cog's signature around `app.generator.VideoGenerator`, which does the work."""

    def setup(self) -> None:
        """Fetch missing weights, load the model and warm it up."""
        logs.configure(os.environ)
        remove_orphans()
        os.environ.update(compiler_cache())
        self.temp_dir = OwnedDir("worker-")
        tempfile.tempdir = str(self.temp_dir.path)  # also where Cog writes the inputs that it fetches
        atexit.register(self.temp_dir.remove)
        start = time.perf_counter()
        self.generator = VideoGenerator.from_environment(os.environ)
        self.generator.warm_up()
        self.generator.health.watch()
        logger.info("ready after %.1f s", time.perf_counter() - start)

    def healthcheck(self) -> bool:
        """Whether the next request can be served; Cog polls this and does not wait."""
        return self.generator.health.is_healthy

    # Cog reads this signature as text: literals only, one plain string for each description. Its order is
    # an interface: append new inputs at the end (see CONTRIBUTING.md).
    def predict(
        self,
        image: Path = Input(
            description="Picture of the person or the people who will talk. Faces should be clearly visible and look towards the camera. Where the operator has loaded InfiniteTalk, a video as well (MP4, MOV, WebM, MKV, AVI, TS, FLV, WMV or an animated GIF).",
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
        loras: Optional[list[str]] = Input(
            description="LoRAs that the operator has installed, besides the one of lora or preset: the name of each file, alone or with a strength from -2 to 2 as in name:0.8; at most 8.",
            default=None,
        ),
        lora_files: Optional[list[Path]] = Input(
            description="Your own LoRAs, where the operator allows them, besides those of lora and loras: safetensors files, at most 8. Each is applied at strength 1, or at that which loras gives to file1, file2 and so on, as in file1:0.8.",
            default=None,
        ),
    ) -> Path:
        """Make one video."""
        inputs = {name: value for name, value in locals().items() if name != "self"}
        with disk_errors():
            self.temp_dir.restore()
            self.temp_dir.clear(keep=own_inputs(inputs, self.temp_dir.path))
            output_dir = Path(tempfile.mkdtemp(prefix="output-"))
            try:
                with fetched_inputs(inputs) as values:
                    output = self.generator.generate(values, output_dir)
            except BaseException:
                shutil.rmtree(output_dir, ignore_errors=True)
                raise
        for name, value in output.metrics.items():
            self.record_metric(name, value)
        return Path(output.path)
