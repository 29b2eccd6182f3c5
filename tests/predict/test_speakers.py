"""Who speaks, and what drives the lips: boxes, drawn masks, people without a voice, and the preview of it all."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from app import preview
from tests.predict.conftest import Service
from tests.predict.media_files import SIZE, plain, recorded, saved, tones, uri, voice
from tests.predict.output_video import OutputVideo, correlation, decode_frames, decode_output
from tests.predict.test_prediction import asked, different

BOXES = [(13, 13, 51, 77), (154, 13, 243, 128), (60, 20, 100, 120)]
BEN = uri(recorded(tones(0.4, pitch=2000)))


def boxes(*numbers: int) -> str:
    return ";".join(",".join(map(str, BOXES[number])) for number in numbers)


def drawn(*numbers: int, rest_of: int | None = None) -> list[str]:
    """Masks of the boxes; `rest_of` adds one of all that is not that box."""
    masks: list[str] = []
    for number in numbers if rest_of is None else (*numbers, rest_of):
        outside = len(masks) == len(numbers)
        mask = Image.new("L", SIZE, 255 * outside)
        left, top, right, bottom = BOXES[number]
        ImageDraw.Draw(mask).rectangle((left, top, right - 1, bottom - 1), fill=255 * (not outside))
        masks.append(uri(saved(mask)))
    return masks


@pytest.fixture(scope="module")
def two(service: Service) -> OutputVideo:
    """Two voices and two boxes."""
    return asked(service, second_audio=BEN, person_boxes=boxes(0, 1))


def test_masks_equal_boxes(service: Service, two: OutputVideo) -> None:
    assert not different(asked(service, second_audio=BEN, person_masks=drawn(0, 1)), two)
    assert different(asked(service, second_audio=BEN, person_masks=drawn(1, 0)), two)


def test_one_of_many_persons_speaks(service: Service) -> None:
    one = asked(service, person_boxes=boxes(0))
    assert different(one, asked(service))
    assert not different(one, asked(service, person_masks=drawn(0, rest_of=0)))
    assert different(one, asked(service, person_boxes=boxes(0, 1, 2)))


def test_a_third_person_without_a_voice(service: Service, two: OutputVideo) -> None:
    """Outside of both others it is background, which it was before; inside it takes its place from them."""
    assert not different(asked(service, second_audio=BEN, person_boxes=boxes(0, 1, 2)), two)
    crowd = asked(service, second_audio=BEN, person_boxes=f"{boxes(0, 1)};180,30,220,128")
    assert different(crowd, two)


def test_boxes_may_cover_the_image(service: Service, two: OutputVideo) -> None:
    assert different(asked(service, second_audio=BEN, person_boxes="0,0,0.5,1;0.5,0,1,1"), two)


def test_preview_draws_the_regions_without_the_model(service: Service, tmp_path: Path) -> None:
    answer = service.succeed(preview_speakers=True, person_boxes=boxes(0, 1), num_frames=40)
    frames_FHWC = decode_frames(answer)
    assert frames_FHWC.shape == (25, 384, 768, 3)
    assert np.abs(frames_FHWC[0].astype(int) - frames_FHWC[-1]).mean() < 3
    assert answer["logs"] == ""
    made = {name: answer["metrics"][name] for name in ("frames", "height", "width", "video_seconds", "preview")}
    assert made == {"frames": 25, "height": 384, "width": 768, "video_seconds": 1.0, "preview": True}
    assert "seed" not in answer["metrics"]
    assert answer["metrics"]["seconds"]["total"] > 0
    assert answer["metrics"].keys() >= {"model", "width", "height"}
    assert "seconds_per_step" not in answer["metrics"]
    other = decode_frames(service.succeed(preview_speakers=True, person_boxes=boxes(1, 0)))
    assert np.abs(frames_FHWC[0].astype(int) - other[0]).max() > 100


def test_preview_command_draws_the_same_image(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MULTITALK_MODEL", "multitalk-puppet")
    (tmp_path / "image").write_bytes(plain())
    (tmp_path / "voice").write_bytes(voice())
    inputs = ["-i", f"image=@{tmp_path}/image", "-i", f"first_audio=@{tmp_path}/voice", "-i", "aspect=source"]
    assert preview.main([*inputs, "-o", str(tmp_path / "who.png")]) == 0
    movie_HWC = decode_frames(service.succeed(preview_speakers=True, aspect="source"))[0]
    drawn_HWC = np.asarray(Image.open(tmp_path / "who.png"))
    assert np.abs(movie_HWC.astype(int) - drawn_HWC).mean() < 3
    assert preview.main([*inputs, "-i", "person_boxes=1,2", "-o", str(tmp_path / "none.png")]) == 1
    assert capsys.readouterr().err.startswith("error: person_boxes: box 1 is '1,2'; four numbers are needed")
    assert preview.main([*inputs[2:], "-i", "image=https://example.org/a.png"]) == 1


def test_conditioning_audio_drives_the_lips_and_is_not_in_the_soundtrack(service: Service) -> None:
    mixed = tones(0.4) + 0.2 * tones(0.4, pitch=2000)
    plain_video = asked(service, first_audio=uri(recorded(tones(0.4))))
    video = asked(service, first_audio=uri(recorded(mixed)), conditioning_audio=[uri(recorded(tones(0.4)))])
    assert not different(video, plain_video)
    assert correlation(video.sound, mixed[:, 0]) > 0.98
    assert different(asked(service, first_audio=uri(recorded(mixed))), plain_video)


def test_conditioning_audio_for_both(service: Service, two: OutputVideo) -> None:
    """In the order of the persons; one alone is the first person's, and its length is the voice's."""
    first = uri(recorded(tones(0.4)))
    other = uri(recorded(tones(0.55, pitch=900)))
    inputs = {"person_boxes": boxes(0, 1), "second_audio": BEN}
    assert different(asked(service, conditioning_audio=[other], **inputs), two)
    assert not different(asked(service, conditioning_audio=[first], **inputs), two)
    assert not different(asked(service, conditioning_audio=[first, BEN], **inputs), two)
    longer = asked(service, conditioning_audio=[other], num_frames=None, person_boxes=boxes(0, 1))
    assert longer.frames == 10


def test_other_frame_rates(service: Service) -> None:
    fps, frames = 30, 12
    answer = service.succeed(fps=fps, num_frames=10)
    video = decode_output(answer)
    assert (video.fps, video.frames) == (fps, frames) == (fps, answer["metrics"]["frames"])
    assert video.sound_seconds == pytest.approx(0.4, abs=0.005)


def test_aspect_source(service: Service) -> None:
    answer = service.succeed(image=uri(plain(size=(160, 120))), aspect="source")
    assert decode_output(answer).size == (112, 80) == (answer["metrics"]["width"], answer["metrics"]["height"])
