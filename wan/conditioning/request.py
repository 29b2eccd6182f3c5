"""What a caller asks for, parsed once from the dictionaries that earlier packages took."""

import itertools
import operator
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wan.conditioning.protocols import SpeechEmbeddings
from wan.conditioning.speakers import BoxRegion, PersonRegion
from wan.conditioning.video_source import VideoSource

EmbedSpeech = Callable[[Sequence[Path], str], Sequence[SpeechEmbeddings]]
"""Sound files and how they follow each other ("add" or "para") to one track per person."""

_CLASSIC_KEYS = {"prompt", "cond_image", "cond_video", "cond_audio", "audio_type", "bbox"}
_PLAIN_KEYS = {"prompt", "image", "audio_embeddings", "num_frames", "motion_frame", "bbox"}
_EMBEDDING_SUFFIXES = (".pt", ".pth", ".npy", ".safetensors")
_PERSONS = ("person1", "person2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A picture, one or two speech tracks, a prompt; regions when the persons are not the picture's halves.

    With a `source` the picture is its frame 0, on which the regions are.
    """

    picture: Image.Image
    tracks: tuple[SpeechEmbeddings, ...]
    prompt: str
    regions: tuple[PersonRegion, PersonRegion] | None = None
    source: VideoSource | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise ValueError(f"prompt is {self.prompt!r}; it needs at least one visible character")
        if len(self.tracks) not in (1, 2):
            raise ValueError(f"{len(self.tracks)} speech tracks; the published weights tell 1 or 2 persons apart")
        for person, track in zip(_PERSONS, self.tracks, strict=False):
            if len(track.shape) != 3 or not len(track):
                raise ValueError(
                    f"speech of {person} has shape {tuple(track.shape)}; frames x layers x width is expected, "
                    "with at least 1 frame"
                )
        if self.regions is not None and len(self.tracks) != 2:
            raise ValueError(f"regions were given for {len(self.tracks)} speech track; they are for 2 persons")
        if any(cut <= before for before, cut in itertools.pairwise((0, *self.cuts))):
            raise ValueError(f"cuts are {self.cuts}; they must ascend, and be above 0")

    @property
    def cuts(self) -> tuple[int, ...]:
        """Frames of the video at which a scene begins, the first excepted."""
        return () if self.source is None else self.source.cuts

    def frame(self, index: int) -> Image.Image:
        """What is seen at a frame of the video: of the source, or the picture at all times.

        Raises ValueError for a source whose frames differ in size.
        """
        frame = self.picture if self.source is None else self.source.frame(index)
        if frame.size != self.picture.size:
            raise ValueError(f"frame {index} of the source is {frame.size}; the first one is {self.picture.size}")
        return frame


def parse_request(input_data: Mapping[str, Any], embed_speech: EmbedSpeech | None = None) -> Request:
    """Either known form of `input_data` as a `Request`.

    Classic: {prompt, cond_image or cond_video, cond_audio: {person1, person2}, audio_type, bbox}; plain: {image,
    audio_embeddings, prompt, num_frames, motion_frame}. What is shown is a picture, a path to one, or a `VideoSource`.
    Speech is given as tensors, as paths to saved embeddings (.pt, .npy, .safetensors), or as sound files when
    `embed_speech` is there to turn them into tracks.
    `bbox` maps person1 and person2 to [top, left, bottom, right] in pixels of the upright picture, the order the
    classic files use; for one person it is not needed and not used.

    Raises ValueError that names the key, its value, and what is allowed.
    """
    image_key, speech_key = _check_keys(input_data)
    shown = input_data[image_key]
    source = shown if isinstance(shown, VideoSource) else None
    picture = _read_picture(shown if source is None else source.frame(0), image_key)
    voices = _by_person(input_data[speech_key], speech_key)
    tracks = _read_tracks(voices, input_data.get("audio_type", "add"), speech_key, embed_speech)
    regions = _read_boxes(input_data.get("bbox"), picture) if len(tracks) == 2 else None
    return Request(picture=picture, tracks=tracks, prompt=input_data["prompt"], regions=regions, source=source)


def parse_lengths(input_data: Mapping[str, Any], longest: int) -> tuple[int | None, int | None]:
    """(num_frames, motion_frame) of the plain form, None where it does not say.

    Raises ValueError for a `num_frames` that is not between 1 and `longest`, the frames of the longest track.
    """
    num_frames, motion_frame = (input_data.get(key) for key in ("num_frames", "motion_frame"))
    if num_frames is not None and not 1 <= num_frames <= longest:
        raise ValueError(f"num_frames is {num_frames}; 1 to {longest}, the frames of the longest track, are allowed")
    return num_frames, motion_frame


def _check_keys(input_data: Mapping[str, Any]) -> tuple[str, str]:
    """The form's names for picture and speech, once no key is unknown or missing."""
    classic = any(key.startswith("cond_") for key in input_data)
    allowed = _CLASSIC_KEYS if classic else _PLAIN_KEYS
    if unknown := sorted(set(input_data) - allowed):
        raise ValueError(f"input_data has the unknown keys {unknown}; allowed are {sorted(allowed)}")
    image_key, speech_key = ("cond_image", "cond_audio") if classic else ("image", "audio_embeddings")
    if input_data.get("cond_video") is not None:
        if input_data.get("cond_image") is not None:
            raise ValueError("input_data has both cond_image and cond_video; one of them is allowed")
        image_key = "cond_video"
    for key in ("prompt", image_key, speech_key):
        if input_data.get(key) is None:
            raise ValueError(f"input_data lacks {key!r}")
    return image_key, speech_key


def _read_picture(value: Any, key: str) -> Image.Image:
    """8-bit RGB, upright. Deeper pictures must be converted by the caller, who knows their range."""
    try:
        picture = value if isinstance(value, Image.Image) else Image.open(value)
    except (OSError, AttributeError, TypeError) as error:
        raise ValueError(f"{key} is {value!r}; a picture or a path to one is needed ({error})") from error
    if picture.mode.startswith(("I", "F")):
        raise ValueError(f"{key} has mode {picture.mode!r}; 8 bits a channel are needed")
    return ImageOps.exif_transpose(picture).convert("RGB")


def _by_person(value: Any, key: str) -> list[Any]:
    """Tensors or paths in order of person from a mapping, a sequence, or a single one."""
    if isinstance(value, Mapping):
        given = {person: voice for person, voice in value.items() if voice is not None}
        if set(given) - set(_PERSONS) or "person1" not in given:
            raise ValueError(f"{key} has the keys {sorted(given)}; allowed are person1 and, optionally, person2")
        return [given[person] for person in _PERSONS if person in given]
    if isinstance(value, (list, tuple)):
        return list(value)
    return [value]


def _read_tracks(
    voices: list[Any], audio_type: str, key: str, embed_speech: EmbedSpeech | None
) -> tuple[SpeechEmbeddings, ...]:
    if audio_type not in ("add", "para"):
        raise ValueError(f"audio_type is {audio_type!r}; allowed are 'add' and 'para'")
    sounds = [voice for voice in voices if not _is_embedding(voice)]
    if not sounds:
        return tuple(_read_embedding(voice, key) for voice in voices)
    if embed_speech is None or len(sounds) != len(voices):
        raise ValueError(
            f"{key} holds {[str(sound) for sound in sounds]}; allowed are tensors, saved embeddings "
            f"({', '.join(_EMBEDDING_SUFFIXES)}), or sound files for every person together with `embed_speech`"
        )
    return tuple(embed_speech([Path(sound) for sound in sounds], audio_type))


def _is_embedding(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray)) or Path(value).suffix in _EMBEDDING_SUFFIXES


def _read_embedding(value: Any, key: str) -> Tensor:
    """A track from a tensor, an array, or a file that holds exactly one."""
    if isinstance(value, Tensor):
        return value.float()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value).float()
    try:
        return _load_embedding(Path(value)).float()
    except (OSError, ValueError, AttributeError, pickle.UnpicklingError, SafetensorError) as error:
        raise ValueError(f"{key} holds {str(value)!r}, which is no saved track: {error}") from error


def _load_embedding(path: Path) -> Tensor:
    if path.suffix == ".npy":
        return torch.from_numpy(np.load(path, allow_pickle=False))
    if path.suffix == ".safetensors":
        (track,) = load_file(path).values()
        return track
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_boxes(value: Any, picture: Image.Image) -> tuple[BoxRegion, BoxRegion] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or set(value) != set(_PERSONS):
        raise ValueError(f"bbox is {value!r}; it must map person1 and person2 to [top, left, bottom, right]")
    first, second = (_read_box(person, value[person], picture) for person in _PERSONS)
    return first, second


def _read_box(person: str, sides: Any, picture: Image.Image) -> BoxRegion:
    limits = f"0 <= top < bottom <= {picture.height} and 0 <= left < right <= {picture.width}, the picture's size"
    try:
        top, left, bottom, right = (operator.index(side) for side in sides)
        fits = 0 <= top < bottom <= picture.height and 0 <= left < right <= picture.width
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"bbox of {person} is {sides!r}; four whole numbers [top, left, bottom, right] with {limits}")
    return BoxRegion(top=top, left=left, bottom=bottom, right=right)
