"""Cog's entry point: a picture, one or two voices and a sentence become an MP4 of people talking."""
# ruff: noqa: B008, E501, UP045 - Cog reads the inputs as text: Input(...) calls, one string each, Optional[...].

import sys
from typing import Optional

from cog import BasePredictor, Input, Path


class Predictor(BasePredictor):
    """Loads the model once and answers one request after another."""

    def setup(self) -> None:
        """Load the model and warm it up."""

    # Cog reads this signature as text: literals only, one plain string for each description. Its order is
    # an interface: append new inputs at the end (see CONTRIBUTING.md).
    def predict(
        self,
        image: Path = Input(
            description="Picture of the person or the two people who will talk. Faces should be clearly visible and look towards the camera.",
        ),
        first_audio: Path = Input(
            description="What the first person says: any sound file, or a video whose sound is taken. With two people the first is the one on the left, unless person_boxes says otherwise.",
        ),
        second_audio: Optional[Path] = Input(
            description="What the second person says. Leave it empty for one speaker. A silent file makes the second person listen.",
            default=None,
        ),
        prompt: str = Input(
            description="What happens in the video: the people, the place, the mood. At most 5,000 characters.",
            default="People talk naturally, with lively faces and small gestures, while the camera stands still.",
        ),
        num_frames: Optional[int] = Input(
            description="Length of the video in frames, 25 of them a second. Left empty, the video is as long as the sound.",
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
            description="How closely the video follows the prompt. Left empty: 3 with turbo, 5 without.",
            default=None,
            ge=1,
            le=20,
        ),
        audio_guidance: Optional[float] = Input(
            description="How closely the lips follow the sound. Left empty: 3 with turbo, 4 without.",
            default=None,
            ge=1,
            le=20,
        ),
        shift: Optional[float] = Input(
            description="How many of the steps go to the rough layout rather than to detail. Left empty, it is chosen from turbo and resolution (5 to 11).",
            default=None,
            ge=1,
            le=20,
        ),
        negative_prompt: Optional[str] = Input(
            description="What the video should not show. Left empty, a list of common faults is used.",
            default=None,
        ),
        person_boxes: Optional[str] = Input(
            description="Where the people are: x1,y1,x2,y2 for each person (left, top, right, bottom), people separated by a semicolon, as fractions of the picture or in pixels. Example: 0.05,0.1,0.45,1;0.55,0.1,0.95,1. Left empty, the picture is split into a left and a right half.",
            default=None,
        ),
        audio_start: float = Input(
            description="Seconds of sound to skip at the beginning.",
            default=0.0,
            ge=0,
        ),
        audio_duration: Optional[float] = Input(
            description="Seconds of sound to use, counted from audio_start. Left empty, all of it.",
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
    ) -> Path:
        """Make one video."""
        raise NotImplementedError


if __name__ == "__main__":
    from src.serving.client import main

    sys.exit(main())
