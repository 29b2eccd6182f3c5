"""Both forms of `input_data`, and the checks of `Request`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from safetensors.torch import save_file
from torch import Tensor

from wan.conditioning.request import Request, parse_lengths, parse_request
from wan.conditioning.speakers import box_mask

EMBEDDINGS = torch.randn(30, 4, 64)
IMAGE = Image.new("RGB", (200, 100))
TWO: dict[str, Any] = {"cond_audio": {"person1": EMBEDDINGS, "person2": EMBEDDINGS}}
CLASSIC: dict[str, Any] = {"prompt": "hello", "cond_image": IMAGE, "cond_audio": {"person1": EMBEDDINGS}}


def test_classic_form() -> None:
    boxes = {"person1": [10, 5, 90, 95], "person2": [10, 105, 90, 195]}
    two = {"person1": EMBEDDINGS, "person2": EMBEDDINGS}
    request = parse_request({**CLASSIC, "cond_audio": two, "audio_type": "para", "bbox": boxes})
    assert request.person_masks is not None
    first, second = request.person_masks
    assert torch.equal(first, box_mask(100, 200, top=10, left=5, bottom=90, right=95))
    assert torch.equal(second, box_mask(100, 200, top=10, left=105, bottom=90, right=195))
    assert request.num_persons == 2


@pytest.mark.parametrize("speech", [EMBEDDINGS, [EMBEDDINGS], {"person1": EMBEDDINGS}, EMBEDDINGS.numpy()])
def test_plain_form(speech: Any) -> None:
    data = {"prompt": "hello", "image": IMAGE, "audio_embeddings": speech, "num_frames": 21, "motion_frame": 5}
    assert torch.equal(cast(Tensor, parse_request(data).speech[0]), EMBEDDINGS)
    assert parse_lengths(data, max_frames=30) == (21, 5)


@pytest.mark.parametrize("num_frames", [0, -5, 31])
def test_num_frames_above_the_speech_length_is_an_error(num_frames: int) -> None:
    with pytest.raises(ValueError, match=f"num_frames is {num_frames}; 1 to 30"):
        parse_lengths({"num_frames": num_frames}, max_frames=30)


def test_image_is_turned_upright_and_must_have_eight_bits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    IMAGE.save(tmp_path / "turned.jpg", exif=exif)
    assert parse_request({**CLASSIC, "cond_image": tmp_path / "turned.jpg"}).image.size == (100, 200)
    with pytest.raises(ValueError, match="cond_image has mode 'I;16'; 8 bits"):
        parse_request({**CLASSIC, "cond_image": Image.new("I;16", (8, 8))})


def test_bbox_is_ignored_for_one_person() -> None:
    one = {"person1": EMBEDDINGS, "person2": None}
    assert parse_request({**CLASSIC, "cond_audio": one, "bbox": {"person1": [0, 0, 5, 5]}}).person_masks is None


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".safetensors"])
def test_embeddings_and_images_from_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"embeddings{suffix}"
    if suffix == ".pt":
        torch.save(EMBEDDINGS, path)
    elif suffix == ".npy":
        np.save(path, EMBEDDINGS.numpy())
    else:
        save_file({"embeddings": EMBEDDINGS}, path)
    IMAGE.save(tmp_path / "image.png")
    request = parse_request(
        {**CLASSIC, "cond_image": str(tmp_path / "image.png"), "cond_audio": {"person1": str(path)}}
    )
    assert torch.equal(cast(Tensor, request.speech[0]), EMBEDDINGS)
    assert request.image.size == (200, 100)


def test_audio_files_are_passed_to_embed_speech() -> None:
    def embed(paths: Sequence[Path], mode: str) -> list[torch.Tensor]:
        assert ([path.name for path in paths], mode) == (["a.wav", "b.wav"], "para")
        return [EMBEDDINGS, EMBEDDINGS]

    audio = {"person1": "a.wav", "person2": "b.wav"}
    request = parse_request({**CLASSIC, "cond_audio": audio, "audio_type": "para"}, embed)
    assert request.num_persons == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": "  "}, "prompt is '  '"),
        ({"prompt": None}, "lacks 'prompt'"),
        ({"cond_audio": None}, "lacks 'cond_audio'"),
        ({"cond_audio": {"person3": EMBEDDINGS}}, "person3"),
        ({"cond_audio": {"person1": "voice.wav"}}, "voice.wav"),
        ({"cond_audio": {"person1": torch.zeros(0, 4, 64)}}, r"\(0, 4, 64\)"),
        ({"cond_audio": [EMBEDDINGS, EMBEDDINGS, EMBEDDINGS]}, "speech of 3 persons"),
        ({"audio_type": "both"}, "'both'; allowed are 'add' and 'para'"),
        ({"seed": 3}, "seed"),
        ({"prompt": 5}, "prompt is 5"),
        ({"cond_image": "absent.png"}, "cond_image is 'absent.png'"),
        ({"cond_audio": {"person1": "absent.pt"}}, "cond_audio of person1 holds 'absent.pt'"),
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
def test_invalid_value_is_named_in_the_error(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_request({**CLASSIC, **change})


def test_person_masks_are_bool_and_of_the_image_size() -> None:
    mask = torch.ones(100, 200, dtype=torch.bool)
    for wrong in (mask.float(), mask.T):
        with pytest.raises(ValueError, match=r"mask of person2 is .*bool of shape \(100, 200\)"):
            Request(image=IMAGE, speech=(EMBEDDINGS, EMBEDDINGS), prompt="hello", person_masks=(mask, wrong))
    with pytest.raises(ValueError, match="person_masks with speech of 1 person"):
        Request(image=IMAGE, speech=(EMBEDDINGS,), prompt="hello", person_masks=(mask, mask))


def test_color_profile_of_an_image_is_applied(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A profile whose first channel is green; sRGB and damaged profiles change no pixel."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    green_first = srgb.replace(b"rXYZ", b"?XYZ").replace(b"gXYZ", b"rXYZ").replace(b"?XYZ", b"gXYZ")
    red, green = (255, 0, 0), (0, 255, 0)
    for profile, expected in ((green_first, green), (srgb, red), (srgb[:200], red)):
        Image.new("RGB", (64, 64), red).save(tmp_path / "image.png", icc_profile=profile)
        request = parse_request({**CLASSIC, "cond_image": tmp_path / "image.png"})
        assert request.image.getpixel((5, 5)) == expected
    assert "profile is damaged" in caplog.text
