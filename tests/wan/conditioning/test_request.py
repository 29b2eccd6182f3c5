"""Both known forms of `input_data`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from wan.conditioning.request import parse_lengths, parse_request
from wan.conditioning.speakers import BoxRegion

TRACK = torch.randn(30, 4, 64)
PICTURE = Image.new("RGB", (200, 100))
TWO: dict[str, Any] = {"cond_audio": {"person1": TRACK, "person2": TRACK}}
CLASSIC: dict[str, Any] = {"prompt": "hello", "cond_image": PICTURE, "cond_audio": {"person1": TRACK}}


def test_classic_form() -> None:
    boxes = {"person1": [10, 5, 90, 95], "person2": [10, 105, 90, 195]}
    two = {"person1": TRACK, "person2": TRACK}
    request = parse_request({**CLASSIC, "cond_audio": two, "audio_type": "para", "bbox": boxes})
    assert request.regions == (
        BoxRegion(top=10, left=5, bottom=90, right=95),
        BoxRegion(top=10, left=105, bottom=90, right=195),
    )
    assert len(request.tracks) == 2


@pytest.mark.parametrize("speech", [TRACK, [TRACK], {"person1": TRACK}, TRACK.numpy()])
def test_plain_form(speech: Any) -> None:
    data = {"prompt": "hello", "image": PICTURE, "audio_embeddings": speech, "num_frames": 21, "motion_frame": 5}
    assert torch.equal(cast(Tensor, parse_request(data).tracks[0]), TRACK)
    assert parse_lengths(data, longest=30) == (21, 5)


@pytest.mark.parametrize("num_frames", [0, -5, 31])
def test_a_length_that_the_speech_does_not_have_is_named(num_frames: int) -> None:
    with pytest.raises(ValueError, match=f"num_frames is {num_frames}; 1 to 30"):
        parse_lengths({"num_frames": num_frames}, longest=30)


def test_pictures_are_upright_and_of_eight_bits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    PICTURE.save(tmp_path / "turned.jpg", exif=exif)
    assert parse_request({**CLASSIC, "cond_image": tmp_path / "turned.jpg"}).picture.size == (100, 200)
    with pytest.raises(ValueError, match="cond_image has mode 'I;16'; 8 bits"):
        parse_request({**CLASSIC, "cond_image": Image.new("I;16", (8, 8))})


def test_an_absent_second_person_and_the_box_of_one_are_fine() -> None:
    one = {"person1": TRACK, "person2": None}
    assert parse_request({**CLASSIC, "cond_audio": one, "bbox": {"person1": [0, 0, 5, 5]}}).regions is None


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".safetensors"])
def test_saved_embeddings_and_picture_paths(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"track{suffix}"
    {
        ".pt": lambda: torch.save(TRACK, path),
        ".npy": lambda: np.save(path, TRACK.numpy()),
        ".safetensors": lambda: save_file({"track": TRACK}, path),
    }[suffix]()
    PICTURE.save(tmp_path / "picture.png")
    request = parse_request(
        {**CLASSIC, "cond_image": str(tmp_path / "picture.png"), "cond_audio": {"person1": str(path)}}
    )
    assert torch.equal(cast(Tensor, request.tracks[0]), TRACK)
    assert request.picture.size == (200, 100)


def test_sound_files_go_through_the_callers_function() -> None:
    def embed(paths: Sequence[Path], mode: str) -> list[torch.Tensor]:
        assert ([path.name for path in paths], mode) == (["a.wav", "b.wav"], "para")
        return [TRACK, TRACK]

    sounds = {"person1": "a.wav", "person2": "b.wav"}
    request = parse_request({**CLASSIC, "cond_audio": sounds, "audio_type": "para"}, embed)
    assert len(request.tracks) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": "  "}, "prompt is '  '"),
        ({"prompt": None}, "lacks 'prompt'"),
        ({"cond_audio": None}, "lacks 'cond_audio'"),
        ({"cond_audio": {"person3": TRACK}}, "person3"),
        ({"cond_audio": {"person1": "voice.wav"}}, "voice.wav"),
        ({"cond_audio": {"person1": torch.zeros(0, 4, 64)}}, r"\(0, 4, 64\)"),
        ({"cond_audio": [TRACK, TRACK, TRACK]}, "3 speech tracks"),
        ({"audio_type": "both"}, "'both'; allowed are 'add' and 'para'"),
        ({"seed": 3}, "seed"),
        ({"prompt": 5}, "prompt is 5"),
        ({"cond_image": "absent.png"}, "cond_image is 'absent.png'"),
        ({"cond_audio": {"person1": "absent.pt"}}, "cond_audio holds 'absent.pt'"),
        ({**TWO, "bbox": {"person1": [0, 0, 1, 1]}}, "bbox"),
        (
            {**TWO, "bbox": {"person1": [0, 0, 50, 50], "person2": [50, 0, 10, 50]}},
            r"person2 is \[50, 0, 10, 50\].*100.*200",
        ),
        ({**TWO, "bbox": {"person1": [0, 0, 50, 50], "person2": [0, 0, 101, 50]}}, "101"),
        ({**TWO, "bbox": {"person1": [0, 0, 50], "person2": [0, 0, 50, 50]}}, r"\[0, 0, 50\]; four whole numbers"),
        ({**TWO, "bbox": {"person1": [0, 0, 0.5, 0.5], "person2": [0, 0, 50, 50]}}, "four whole numbers"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_request({**CLASSIC, **change})
