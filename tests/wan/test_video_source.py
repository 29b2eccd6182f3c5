"""A source video: which frames condition the chunks, scene cuts, and which models take one."""

from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.baseline.puppet import Puppet
from benchmarks.quality.clips import Row, draw_clip
from benchmarks.quality.metrics import read_mouths
from benchmarks.quality.sync_metrics import other_correlation, own_correlation
from tests.wan.test_multitalk import SMALL, input_data, options_of, speech
from wan import MultiTalkPipeline
from wan.chunks import plan_chunks
from wan.conditioning.image import crop_image, plan_crop
from wan.conditioning.protocols import VideoSource
from wan.conditioning.request import Request
from wan.configs import WAN_CONFIGS
from wan.configs.capabilities import check_supported


class RotatingGradient:
    """A video whose frames differ; records the indices that were read."""

    def __init__(self, *cuts: int, size: tuple[int, int] = (128, 64)) -> None:
        self.cuts = cuts
        self.size = size
        self.read: list[int] = []

    def frame_at(self, index: int) -> Image.Image:
        self.read.append(index)
        return Image.linear_gradient("L").rotate(10 * index).resize(self.size).convert("RGB")


@pytest.fixture(scope="module")
def pipeline(puppet_folder: Any) -> MultiTalkPipeline:
    return MultiTalkPipeline(config=WAN_CONFIGS["infinitetalk-puppet"], checkpoint_dir=puppet_folder)


def request_with(video: RotatingGradient, frames: int = 13) -> Request:
    return Request(image=video.frame_at(0), speech=(speech(frames),), prompt="hello", video=video)


def generate(pipeline: MultiTalkPipeline, request: Request, **changes: Any) -> torch.Tensor:
    options = options_of(pipeline.config, **{"sampling_steps": 1, "text_guide_scale": 1.0, **changes})
    return torch.cat(list(pipeline.stream(request, options)), dim=1)


def test_each_chunk_is_conditioned_on_the_frame_at_its_start(pipeline: MultiTalkPipeline) -> None:
    video = RotatingGradient()
    assert generate(pipeline, request_with(video)).shape[1] == 13
    assert video.read == [0, 0, 4]


def test_scene_starts_from_the_frame_at_its_cut(pipeline: MultiTalkPipeline) -> None:
    video = RotatingGradient(3, 7, 99)
    frames = generate(pipeline, request_with(video, 17))
    assert frames.shape[1] == 17
    assert video.read == [0, 0, 3, 7, 11]
    vae = pipeline.models.vae
    for cut in (0, 3, 7):
        frame = crop_image(video.frame_at(cut), plan_crop(64, 128, (64, 128)))
        with torch.inference_mode():
            expected = next(vae.decode(vae.encode(frame[:, None])))
        torch.testing.assert_close(frames[:, cut], expected[:, 0])


def test_scene_uses_the_speech_of_its_time(pipeline: MultiTalkPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded: list[torch.Tensor] = []
    original = pipeline.models.transformer.embed_speech

    def embed(windows_BNFWYC: torch.Tensor) -> Any:
        embedded.append(windows_BNFWYC[0, 0, 0, 2])  # the middle of the first frame's window
        return original(windows_BNFWYC)

    monkeypatch.setattr(pipeline.models.transformer, "embed_speech", embed)
    request = request_with(RotatingGradient(3))
    generate(pipeline, request)
    assert [next(i for i in range(13) if torch.equal(request.speech[0][i], first)) for first in embedded[1:]] == [
        0,
        3,
        7,
    ]


@pytest.mark.parametrize("cuts", [(), (1,), (3, 4, 50), (9, 25), (60,), (80,)])
def test_chunks_with_cuts_cover_each_frame_once(cuts: tuple[int, ...]) -> None:
    chunks = plan_chunks(60, 9, 5, cuts)
    spans = [(chunk.start + chunk.overlap, chunk.num_new) for chunk in chunks]
    assert [i for first, num_new in spans for i in range(first, first + num_new)] == list(range(60))
    assert [chunk.start for chunk in chunks if chunk.overlap == 0] == [0, *(cut for cut in cuts if cut < 60)]


def test_colors_are_corrected_to_the_scene(pipeline: MultiTalkPipeline) -> None:
    class Colored(RotatingGradient):
        def frame_at(self, index: int) -> Image.Image:
            return Image.new("RGB", self.size, "red" if index < 9 else "blue")

    video = generate(pipeline, request_with(Colored(9)), color_correction_strength=1.0)
    red, blue = video[0].mean((1, 2)), video[2].mean((1, 2))
    assert (red[:9] > blue[:9] + 1).all()
    assert (blue[9:] > red[9:] + 1).all()


def test_generate_takes_a_video(pipeline: MultiTalkPipeline) -> None:
    video = RotatingGradient()
    assert isinstance(video, VideoSource)
    inputs = {"prompt": "hello", "cond_video": video, "cond_audio": speech(10)}
    assert pipeline.generate(inputs, size_buckget="infinitetalk-480", **SMALL, max_frames_num=3).shape[1] == 3
    with pytest.raises(ValueError, match="both cond_image and cond_video"):
        pipeline.generate({**inputs, "cond_image": video}, **SMALL)


def test_image_is_the_same_as_a_video_of_one_frame(pipeline: MultiTalkPipeline) -> None:
    class Still(RotatingGradient):
        def frame_at(self, index: int) -> Image.Image:
            return super().frame_at(0)

    image = Request(image=Still().frame_at(0), speech=(speech(13),), prompt="hello")
    assert torch.equal(generate(pipeline, request_with(Still())), generate(pipeline, image))


def test_multitalk_takes_no_video(pipeline: MultiTalkPipeline) -> None:
    multitalk = MultiTalkPipeline.from_models(WAN_CONFIGS["multitalk-puppet"], pipeline.models)
    with pytest.raises(ValueError, match=r"multitalk-puppet accepts a still image only.*infinitetalk-14B-multi"):
        generate(multitalk, request_with(RotatingGradient()))
    with pytest.raises(ValueError, match=r"'infinitetalk-480'; multitalk-puppet has 'multitalk-480', 'multitalk-720'$"):
        multitalk.generate(input_data(9), size_buckget="infinitetalk-480")


def test_single_person_model_does_not_take_two() -> None:
    check_supported(WAN_CONFIGS["infinitetalk-14B-single"], 1, video=True)
    check_supported(WAN_CONFIGS["infinitetalk-14B-multi"], 2, video=True)
    with pytest.raises(ValueError, match="infinitetalk-14B-single supports 1; multitalk-14B, infini"):
        check_supported(WAN_CONFIGS["infinitetalk-14B-single"], 2, video=False)


@pytest.mark.parametrize("cuts", [(0,), (5, 5), (7, 3), (-1,)])
def test_cuts_must_ascend(cuts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cuts are"):
        request_with(RotatingGradient(*cuts))


def test_frames_of_another_size_are_an_error(pipeline: MultiTalkPipeline) -> None:
    video = RotatingGradient()
    request = request_with(video)
    video.size = (64, 64)
    with pytest.raises(ValueError, match=r"frame 0 of the video is \(64, 64\); the first one is \(128, 64\)"):
        generate(pipeline, request)


def test_trained_weights_follow_the_speech() -> None:
    puppet = Puppet(model="infinitetalk-puppet")
    puppet.set_preset_lora("fast")
    clip = draw_clip(Row(name="two add", persons=2, mode="add"), seed=0, index=0)
    readings = read_mouths(clip, puppet.generate(clip, puppet.options("fast")).frames)
    assert own_correlation(readings) > 0.8
    assert abs(other_correlation(readings)) < 0.5
