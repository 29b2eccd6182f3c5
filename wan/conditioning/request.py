"""The pipeline's request, and its parser for the `input_data` dictionaries of earlier packages."""

import io
import itertools
import logging
import operator
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops, ImageCms, ImageOps
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wan.conditioning.layout import ImageLayout
from wan.conditioning.protocols import SpeechEmbeddings, VideoSource
from wan.conditioning.speakers import PersonMasks, box_mask

logger = logging.getLogger(__name__)

EmbedSpeech = Callable[[Sequence[Path], str], Sequence[SpeechEmbeddings]]
"""(audio files, "add" or "para") to the embeddings of each person: one after the other, or both at once."""

_CLASSIC_KEYS = {"prompt", "cond_image", "cond_video", "cond_audio", "audio_type", "bbox"}
_PLAIN_KEYS = {"prompt", "image", "audio_embeddings", "num_frames", "motion_frame", "bbox"}
_EMBEDDING_SUFFIXES = (".pt", ".pth", ".npy", ".safetensors")
_PERSONS = ("person1", "person2")
MAX_SRGB_DIFFERENCE = 2
"""Of 255; a profile that changes no pixel by more counts as sRGB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to generate: an RGB image, the speech of one or two persons, a prompt. Raises ValueError for invalid fields.

    `speech`: embeddings of each person, frames x layers x width at 25 frames a second. `person_masks`: where two
    persons are, bool, height x width of the image; None for the left and the right half. With a `video` the image is
    its frame 0, to which the masks refer. `layout` is what `MultiTalkPipeline.resolve_layout` returns for this request,
    where the caller has computed it already.
    """

    image: Image.Image
    speech: tuple[SpeechEmbeddings, ...]
    prompt: str
    person_masks: PersonMasks | None = None
    video: VideoSource | None = None
    layout: ImageLayout | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise ValueError(f"prompt is {self.prompt!r}; it needs at least one visible character")
        if not isinstance(self.image, Image.Image) or self.image.mode != "RGB":
            raise ValueError(f"image is {_brief(self.image)}; a PIL image of mode 'RGB' is needed")
        if len(self.speech) not in (1, 2):
            raise ValueError(f"speech of {len(self.speech)} persons; the published weights tell 1 or 2 persons apart")
        for person, embeddings in zip(_PERSONS, self.speech, strict=False):
            if len(embeddings.shape) != 3 or not len(embeddings):
                raise ValueError(
                    f"speech of {person} has shape {tuple(embeddings.shape)}; frames x layers x width is expected, "
                    "with at least 1 frame"
                )
            if isinstance(embeddings, Tensor):
                _check_values(embeddings, f"speech of {person}")
        self._check_masks()
        if any(cut <= previous for previous, cut in itertools.pairwise((0, *self.cuts))):
            raise ValueError(f"cuts are {self.cuts}; they must ascend, and be above 0")

    def _check_masks(self) -> None:
        if self.person_masks is None:
            return
        if self.num_persons != 2:
            raise ValueError(f"person_masks with speech of {self.num_persons} person; they are for 2 persons")
        for person, mask_HW in zip(_PERSONS, self.person_masks, strict=True):
            if not isinstance(mask_HW, Tensor):
                raise ValueError(f"the mask of {person} is {_brief(mask_HW)}; a bool tensor is needed")
            if mask_HW.dtype != torch.bool or mask_HW.shape != (self.image.height, self.image.width):
                raise ValueError(
                    f"the mask of {person} is {mask_HW.dtype} of shape {tuple(mask_HW.shape)}; "
                    f"bool of shape {(self.image.height, self.image.width)}, the image's, is expected"
                )

    @property
    def num_persons(self) -> int:
        """1 or 2."""
        return len(self.speech)

    @property
    def num_frames(self) -> int:
        """Video frames of the longest speech."""
        return max(map(len, self.speech))

    @property
    def cuts(self) -> tuple[int, ...]:
        """First frame of each scene but the first."""
        return () if self.video is None else self.video.cuts

    def frame_at(self, index: int) -> Image.Image:
        """The video's frame at an index, or the image.

        Raises ValueError for a video whose frames differ in size.
        """
        frame = self.image if self.video is None else self.video.frame_at(index)
        if frame.size != self.image.size:
            raise ValueError(f"frame {index} of the video is {frame.size}; the first one is {self.image.size}")
        return frame


def parse_request(input_data: Mapping[str, Any], embed_speech: EmbedSpeech | None = None) -> Request:
    """Convert either known form of `input_data` to a `Request`.

    Classic: {prompt, cond_image or cond_video, cond_audio: {person1, person2}, audio_type, bbox}; plain: {image,
    audio_embeddings, prompt, num_frames, motion_frame}. The image is a PIL image, a path, or a `VideoSource`.
    Speech is given as tensors, as paths to saved embeddings (.pt, .npy, .safetensors), or as audio files, which
    `embed_speech` converts to embeddings.
    `bbox` maps person1 and person2 to [top, left, bottom, right] in pixels of the upright image, the order of the
    classic files; it is ignored for one person.

    Raises ValueError that names the key, its value, and what is allowed.
    """
    if not isinstance(input_data, Mapping):
        raise ValueError(f"input_data is {_brief(input_data)}; a mapping is needed")
    image_key, speech_key = _check_keys(input_data)
    value = input_data[image_key]
    video = value if isinstance(value, VideoSource) else None
    image = _read_image(value if video is None else video.frame_at(0), image_key)
    voices = _by_person(input_data[speech_key], speech_key)
    speech = _read_speech(voices, input_data.get("audio_type", "add"), speech_key, embed_speech)
    masks = _read_boxes(input_data.get("bbox"), image) if len(speech) == 2 else None
    return Request(image=image, speech=speech, prompt=input_data["prompt"], person_masks=masks, video=video)


def parse_lengths(input_data: Mapping[str, Any], max_frames: int) -> tuple[int | None, int | None]:
    """(num_frames, motion_frame) of the plain form, None where absent.

    Raises ValueError for a `num_frames` outside 1 to `max_frames`, the frames of the longest speech.
    """
    num_frames, motion_frame = (input_data.get(key) for key in ("num_frames", "motion_frame"))
    for name, value in (("num_frames", num_frames), ("motion_frame", motion_frame)):
        if value is not None and (not isinstance(value, Integral) or isinstance(value, bool)):
            raise ValueError(f"{name} is {_brief(value)}; a whole number is needed")
    if num_frames is not None and not 1 <= num_frames <= max_frames:
        raise ValueError(
            f"num_frames is {num_frames}; 1 to {max_frames}, the frames of the longest speech, are allowed"
        )
    return num_frames, motion_frame


def _brief(value: object) -> str:
    """The beginning of a value's repr on one line."""
    return " ".join(repr(value).split())[:100]


def _check_keys(input_data: Mapping[str, Any]) -> tuple[str, str]:
    """The form's keys for image and speech. Raises ValueError for unknown and missing keys."""
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


def _read_image(value: Any, key: str) -> Image.Image:
    """8-bit RGB in sRGB, upright. ValueError for more bits a channel, whose range only the caller knows."""
    try:
        image = value if isinstance(value, Image.Image) else Image.open(value)
        image.load()
    except (OSError, AttributeError, TypeError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{key} is {_brief(value)}; an image or a path to one is needed ({error})") from error
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{key} has mode {image.mode!r}; 8 bits a channel are needed")
    return _to_srgb(ImageOps.exif_transpose(image), key)


def _to_srgb(image: Image.Image, key: str) -> Image.Image:
    """RGB, converted by an ICC profile unless that changes nothing but the rounding. Warns about a damaged profile."""
    rgb = image.convert("RGB")
    profile = image.info.get("icc_profile")
    if not profile:
        return rgb
    source = image if image.mode in ("CMYK", "L") else rgb
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(source, embedded, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        logger.warning("%s: its color profile is damaged, or made for other images, and is ignored (%s)", key, error)
        return rgb
    assert converted is not None
    _, differences = zip(*ImageChops.difference(rgb, converted).getextrema(), strict=True)
    return converted if max(differences) > MAX_SRGB_DIFFERENCE else rgb


def _by_person(value: Any, key: str) -> list[Any]:
    """The speech of person 1 and person 2, from a mapping, a sequence, or a single value."""
    if isinstance(value, Mapping):
        present = {person: speech for person, speech in value.items() if speech is not None}
        if set(present) - set(_PERSONS) or "person1" not in present:
            raise ValueError(f"{key} has the keys {sorted(present)}; allowed are person1 and, optionally, person2")
        return [present[person] for person in _PERSONS if person in present]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _read_speech(
    values: list[Any], audio_type: str, key: str, embed_speech: EmbedSpeech | None
) -> tuple[SpeechEmbeddings, ...]:
    if audio_type not in ("add", "para"):
        raise ValueError(f"audio_type is {audio_type!r}; allowed are 'add' and 'para'")
    for value in values:
        if not isinstance(value, (Tensor, np.ndarray, str, Path)):
            raise ValueError(f"{key} holds {_brief(value)}; tensors or paths to files are needed")
    audio_files = [value for value in values if not _is_embeddings(value)]
    if not audio_files:
        return tuple(_read_embeddings(value, f"{key} of person{n}") for n, value in enumerate(values, 1))
    if embed_speech is None or len(audio_files) != len(values):
        raise ValueError(
            f"{key} holds {[str(each) for each in audio_files]}; allowed are tensors, saved embeddings "
            f"({', '.join(_EMBEDDING_SUFFIXES)}), or audio files for every person together with `embed_speech`"
        )
    return tuple(embed_speech([Path(each) for each in audio_files], audio_type))


def _is_embeddings(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray)) or Path(value).suffix in _EMBEDDING_SUFFIXES


def _read_embeddings(value: Any, key: str) -> Tensor:
    """Float32 embeddings from a tensor, an array, or a file that holds exactly one."""
    if isinstance(value, np.ndarray):
        if not np.issubdtype(value.dtype, np.floating):
            raise ValueError(f"{key} holds an array of {value.dtype}; floating point is needed")
        return torch.from_numpy(value.astype(np.float32))
    if isinstance(value, Tensor):
        _check_values(value, key)
        return value.detach().float()
    try:
        embeddings = _load_embeddings(Path(value))
        _check_values(embeddings, key)
        return embeddings.float()
    except (OSError, ValueError, TypeError, AttributeError, pickle.UnpicklingError, SafetensorError) as error:
        raise ValueError(f"{key} holds {str(value)!r}, which cannot be read as one saved tensor: {error}") from error


def _check_values(embeddings: Tensor, what: str) -> None:
    """Raise ValueError unless the embeddings are a dense tensor of finite floating-point numbers."""
    if not embeddings.is_floating_point() or embeddings.layout != torch.strided:
        raise ValueError(
            f"{what} is {embeddings.dtype} with layout {embeddings.layout}; a dense tensor in floating point is needed"
        )
    if not embeddings.isfinite().all():
        raise ValueError(f"{what} has NaN or Inf; finite numbers are needed")


def _load_embeddings(path: Path) -> Tensor:
    if path.suffix == ".npy":
        return torch.from_numpy(np.load(path, allow_pickle=False))
    if path.suffix == ".safetensors":
        (embeddings,) = load_file(path).values()
        return embeddings
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_boxes(value: Any, image: Image.Image) -> PersonMasks | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or set(value) != set(_PERSONS):
        raise ValueError(f"bbox is {value!r}; it must map person1 and person2 to [top, left, bottom, right]")
    first, second = (_read_box(person, value[person], image) for person in _PERSONS)
    return first, second


def _read_box(person: str, sides: Any, image: Image.Image) -> Tensor:
    limits = f"0 <= top < bottom <= {image.height} and 0 <= left < right <= {image.width}, the image's size"
    try:
        top, left, bottom, right = (operator.index(side) for side in sides)
        fits = 0 <= top < bottom <= image.height and 0 <= left < right <= image.width
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"bbox of {person} is {sides!r}; four whole numbers [top, left, bottom, right] with {limits}")
    return box_mask(image.height, image.width, top=top, left=left, bottom=bottom, right=right)
