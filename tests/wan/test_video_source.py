"""A video as the source: which of its frames each chunk is shown, what happens at a cut, and who can show one."""

from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.baseline.puppet import Puppet
from benchmarks.quality.clips import Row, draw_clip
from benchmarks.quality.metrics import read_mouths
from benchmarks.quality.sync_metrics import other_correlation, own_correlation
from tests.wan.test_multitalk import SMALL, data, options_of, track
from wan import MultiTalkPipeline
from wan.chunks import plan_chunks
from wan.conditioning.image import crop_image, plan_crop
from wan.conditioning.request import Request
from wan.conditioning.video_source import VideoSource
from wan.configs import WAN_CONFIGS
from wan.configs.capabilities import check_supported


class Film:
    """Frames that differ from each other; remembers which were asked for."""

    def __init__(self, *cuts: int, size: tuple[int, int] = (128, 64)) -> None:
        self.cuts = cuts
        self.size = size
        self.asked: list[int] = []

    def frame(self, index: int) -> Image.Image:
        self.asked.append(index)
        return Image.linear_gradient("L").rotate(10 * index).resize(self.size).convert("RGB")


@pytest.fixture(scope="module")
def pipeline(puppet_folder: Any) -> MultiTalkPipeline:
    return MultiTalkPipeline(config=WAN_CONFIGS["infinitetalk-puppet"], checkpoint_dir=puppet_folder)


def shown(film: Film, frames: int = 13) -> Request:
    return Request(picture=film.frame(0), tracks=(track(frames),), prompt="hello", source=film)


def make(pipeline: MultiTalkPipeline, request: Request, **changes: Any) -> torch.Tensor:
    options = options_of(pipeline.config, **{"sampling_steps": 1, "text_guide_scale": 1.0, **changes})
    return torch.cat(list(pipeline.stream(request, options)), dim=1)


def test_every_chunk_is_shown_the_frame_at_its_start(pipeline: MultiTalkPipeline) -> None:
    film = Film()
    assert make(pipeline, shown(film)).shape[1] == 13
    assert film.asked == [0, 0, 4]


def test_a_scene_begins_at_its_cut(pipeline: MultiTalkPipeline) -> None:
    film = Film(3, 7, 99)
    video = make(pipeline, shown(film, 17))
    assert video.shape[1] == 17
    assert film.asked == [0, 0, 3, 7, 11]
    vae = pipeline.models.vae
    for cut in (0, 3, 7):
        frame = crop_image(film.frame(cut), plan_crop(64, 128, (64, 128)))
        with torch.inference_mode():
            expected = next(vae.decode(vae.encode(frame[:, None])))
        torch.testing.assert_close(video[:, cut], expected[:, 0])


def test_the_sound_of_a_scene_is_that_of_its_time(pipeline: MultiTalkPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[torch.Tensor] = []
    original = pipeline.models.transformer.embed_speech

    def embed(windows_BNFWYC: torch.Tensor) -> Any:
        heard.append(windows_BNFWYC[0, 0, 0, 2])  # the middle of the first frame's window
        return original(windows_BNFWYC)

    monkeypatch.setattr(pipeline.models.transformer, "embed_speech", embed)
    request = shown(Film(3))
    make(pipeline, request)
    assert [next(i for i in range(13) if torch.equal(request.tracks[0][i], first)) for first in heard[1:]] == [0, 3, 7]


@pytest.mark.parametrize("cuts", [(), (1,), (3, 4, 50), (9, 25), (60,), (80,)])
def test_chunks_with_cuts_cover_every_frame_once(cuts: tuple[int, ...]) -> None:
    chunks = plan_chunks(60, 9, 5, cuts)
    spans = [(chunk.start + chunk.overlap, chunk.num_new) for chunk in chunks]
    assert [i for first, fresh in spans for i in range(first, first + fresh)] == list(range(60))
    assert [chunk.start for chunk in chunks if chunk.overlap == 0] == [0, *(cut for cut in cuts if cut < 60)]


def test_colors_are_those_of_the_scene(pipeline: MultiTalkPipeline) -> None:
    class Colored(Film):
        def frame(self, index: int) -> Image.Image:
            return Image.new("RGB", self.size, "red" if index < 9 else "blue")

    video = make(pipeline, shown(Colored(9)), color_correction_strength=1.0)
    red, blue = video[0].mean((1, 2)), video[2].mean((1, 2))
    assert (red[:9] > blue[:9] + 1).all()
    assert (blue[9:] > red[9:] + 1).all()


def test_generate_takes_a_source(pipeline: MultiTalkPipeline) -> None:
    film = Film()
    assert isinstance(film, VideoSource)
    given = {"prompt": "hello", "cond_video": film, "cond_audio": track(10)}
    video = pipeline.generate(given, size_buckget="infinitetalk-480", **SMALL, max_frames_num=3)
    assert video.shape[1] == 3
    with pytest.raises(ValueError, match="both cond_image and cond_video"):
        pipeline.generate({**given, "cond_image": film}, **SMALL)


def test_a_picture_is_a_video_of_one_frame(pipeline: MultiTalkPipeline) -> None:
    still = Film()
    still.frame = lambda index: Film().frame(0)  # type: ignore[method-assign]
    picture = Request(picture=still.frame(0), tracks=(track(13),), prompt="hello")
    assert torch.equal(make(pipeline, shown(still)), make(pipeline, picture))


def test_multitalk_shows_no_video(pipeline: MultiTalkPipeline) -> None:
    multitalk = MultiTalkPipeline.from_models(WAN_CONFIGS["multitalk-puppet"], pipeline.models)
    with pytest.raises(ValueError, match=r"multitalk-puppet accepts a still image only.*infinitetalk-14B-multi"):
        make(multitalk, shown(Film()))
    with pytest.raises(ValueError, match=r"'infinitetalk-480'; multitalk-puppet has 'multitalk-480', 'multitalk-720'$"):
        multitalk.generate(data(9), size_buckget="infinitetalk-480")


def test_weights_for_one_person_do_not_take_two() -> None:
    check_supported(WAN_CONFIGS["infinitetalk-14B-single"], 1, video=True)
    check_supported(WAN_CONFIGS["infinitetalk-14B-multi"], 2, video=True)
    with pytest.raises(ValueError, match="infinitetalk-14B-single supports 1; multitalk-14B, infini"):
        check_supported(WAN_CONFIGS["infinitetalk-14B-single"], 2, video=False)


@pytest.mark.parametrize("cuts", [(0,), (5, 5), (7, 3), (-1,)])
def test_cuts_must_ascend(cuts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cuts are"):
        shown(Film(*cuts))


def test_frames_of_another_size_are_an_error(pipeline: MultiTalkPipeline) -> None:
    film = Film()
    request = shown(film)
    film.size = (64, 64)
    with pytest.raises(ValueError, match=r"frame 0 of the source is \(64, 64\); the first one is \(128, 64\)"):
        make(pipeline, request)


def test_lips_follow_the_voices_with_the_trained_weights() -> None:
    puppet = Puppet(model="infinitetalk-puppet")
    puppet.set_preset_lora("fast")
    clip = draw_clip(Row(name="two add", persons=2, mode="add"), seed=0, index=0)
    readings = read_mouths(clip, puppet.generate(clip, puppet.options("fast")).frames)
    assert own_correlation(readings) > 0.8
    assert abs(other_correlation(readings)) < 0.5
