"""What a caller asks for, parsed once from the dictionaries that earlier packages took.

A track is the speech states of one person, frames x layers x width, 25 frames a second.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from wan.conditioning.speakers import Box

EmbedSpeech = Callable[[Sequence[Path], str], Sequence[Tensor]]
"""Sound files and how they follow each other ("add" or "para") to one track per person."""

_CLASSIC_KEYS = {"prompt", "cond_image", "cond_audio", "audio_type", "bbox"}
_PLAIN_KEYS = {"prompt", "image", "audio_embeddings", "num_frames", "motion_frame", "bbox"}
_EMBEDDING_SUFFIXES = (".pt", ".pth", ".npy", ".safetensors")
_PERSONS = ("person1", "person2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A picture, one or two speech tracks, a prompt; boxes when the persons are not the picture's halves."""

    picture: Image.Image
    tracks: tuple[Tensor, ...]
    prompt: str
    boxes: tuple[Box, Box] | None = None
    num_frames: int | None = None
    motion_frame: int | None = None

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError(f"prompt is {self.prompt!r}; it needs at least one visible character")
        if len(self.tracks) not in (1, 2):
            raise ValueError(f"{len(self.tracks)} speech tracks; the published weights tell 1 or 2 persons apart")
        for person, track in zip(_PERSONS, self.tracks, strict=False):
            if track.ndim != 3 or not len(track):
                raise ValueError(
                    f"speech of {person} has shape {tuple(track.shape)}; frames x layers x width is expected, "
                    "with at least 1 frame"
                )
        if self.boxes is not None and len(self.tracks) != 2:
            raise ValueError(f"boxes were given for {len(self.tracks)} speech track; they are for 2 persons")


def parse_request(input_data: Mapping[str, Any], embed_speech: EmbedSpeech | None = None) -> Request:
    """Either known form of `input_data` as a `Request`.

    Classic: {prompt, cond_image, cond_audio: {person1, person2}, audio_type, bbox}; plain: {image,
    audio_embeddings, prompt, num_frames, motion_frame}. Speech is given as tensors, as paths to saved embeddings
    (.pt, .npy, .safetensors), or as sound files when `embed_speech` is there to turn them into tracks.
    `bbox` maps person1 and person2 to [top, left, bottom, right] in pixels, the order the classic files use.

    Raises ValueError that names the key, its value, and what is allowed.
    """
    allowed = _CLASSIC_KEYS if "cond_image" in input_data else _PLAIN_KEYS
    unknown = sorted(set(input_data) - allowed)
    if unknown:
        raise ValueError(f"input_data has the unknown keys {unknown}; allowed are {sorted(allowed)}")
    image_key, speech_key = ("cond_image", "cond_audio") if allowed is _CLASSIC_KEYS else ("image", "audio_embeddings")
    for key in ("prompt", image_key, speech_key):
        if input_data.get(key) is None:
            raise ValueError(f"input_data lacks {key!r}")
    picture = _read_picture(input_data[image_key])
    voices = _by_person(input_data[speech_key], speech_key)
    return Request(
        picture=picture,
        tracks=_read_tracks(voices, input_data.get("audio_type", "add"), embed_speech),
        prompt=input_data["prompt"],
        boxes=_read_boxes(input_data.get("bbox"), picture),
        num_frames=input_data.get("num_frames"),
        motion_frame=input_data.get("motion_frame"),
    )


def _read_picture(value: Any) -> Image.Image:
    if isinstance(value, Image.Image):
        return value.convert("RGB")
    with Image.open(value) as picture:
        return picture.convert("RGB")


def _by_person(value: Any, key: str) -> list[Any]:
    """Tensors or paths in order of person from a mapping, a sequence, or a single one."""
    if isinstance(value, Mapping):
        unknown = sorted(set(value) - set(_PERSONS))
        if unknown or "person1" not in value:
            raise ValueError(f"{key} has the keys {sorted(value)}; allowed are person1 and, optionally, person2")
        return [value[person] for person in _PERSONS if person in value]
    if isinstance(value, (list, tuple)):
        return list(value)
    return [value]


def _read_tracks(voices: list[Any], audio_type: str, embed_speech: EmbedSpeech | None) -> tuple[Tensor, ...]:
    if audio_type not in ("add", "para"):
        raise ValueError(f"audio_type is {audio_type!r}; allowed are 'add' and 'para'")
    sounds = [voice for voice in voices if not _is_embedding(voice)]
    if not sounds:
        return tuple(_read_embedding(voice) for voice in voices)
    if embed_speech is None or len(sounds) != len(voices):
        raise ValueError(
            f"cond_audio holds {[str(sound) for sound in sounds]}; allowed are tensors, saved embeddings "
            f"({', '.join(_EMBEDDING_SUFFIXES)}), or sound files for every person together with `embed_speech`"
        )
    return tuple(embed_speech([Path(sound) for sound in sounds], audio_type))


def _is_embedding(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray)) or Path(value).suffix in _EMBEDDING_SUFFIXES


def _read_embedding(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.float()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value).float()
    path = Path(value)
    if path.suffix == ".npy":
        return torch.from_numpy(np.load(path, allow_pickle=False)).float()
    if path.suffix == ".safetensors":
        (track,) = load_file(path).values()
        return track.float()
    return torch.load(path, map_location="cpu", weights_only=True).float()


def _read_boxes(value: Any, picture: Image.Image) -> tuple[Box, Box] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or set(value) != set(_PERSONS):
        raise ValueError(f"bbox is {value!r}; it must map person1 and person2 to [top, left, bottom, right]")
    boxes = []
    for person in _PERSONS:
        top, left, bottom, right = (int(side) for side in value[person])
        if not (0 <= top < bottom <= picture.height and 0 <= left < right <= picture.width):
            raise ValueError(
                f"bbox of {person} is {list(value[person])}; [top, left, bottom, right] must hold 0 <= top < bottom "
                f"<= {picture.height} and 0 <= left < right <= {picture.width}, the picture's size"
            )
        boxes.append(Box(top=top, left=left, bottom=bottom, right=right))
    return boxes[0], boxes[1]
