"""How often things are done in a generation: counted, not timed."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import wan.decode
import wan.multitalk
import wan.offload.manager
from tests.wan.test_multitalk import data
from wan import MultiTalkPipeline
from wan.checkpoint import load_models
from wan.color import lab_stats, match_color
from wan.configs import WAN_CONFIGS, ModelConfig
from wan.modules import transformer as transformer_module
from wan.modules.rope import video_rope
from wan.modules.speaker_labels import token_masks
from wan.modules.transformer import Context, MultiTalkTransformer
from wan.offload.estimate import META, PeakCounter
from wan.offload.streaming import StreamedBlocks

CPU = torch.device("cpu")
STEPS, CHUNKS, PASSES = 2, 2, 3
EVALUATIONS = CHUNKS * STEPS
"""Steps of both chunks."""
THREE_PASSES: dict[str, Any] = {"text_guide_scale": 3.0, "audio_guide_scale": 2.0}
TWICE: dict[str, Any] = {"frame_num": 9, "motion_frame": 5, "sampling_steps": STEPS, "seed": 3, **THREE_PASSES}
"""Two chunks for a track of 12 frames."""


@pytest.fixture(scope="module")
def pipeline(puppet: ModelConfig, puppet_folder: Path) -> MultiTalkPipeline:
    return MultiTalkPipeline(config=puppet, checkpoint_dir=puppet_folder, device_id=0)


@pytest.fixture
def calls() -> Counter[str]:
    return Counter()


def count(monkeypatch: pytest.MonkeyPatch, calls: Counter[str], owner: Any, *names: str) -> None:
    """Count the calls of some attributes, which go on doing what they did."""

    def counted(name: str, original: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            calls[name] += 1
            return original(*arguments, **named)

        return call

    for name in names:
        monkeypatch.setattr(owner, name, counted(name, getattr(owner, name)))


@contextmanager
def layer_calls(model: nn.Module) -> Iterator[Counter[str]]:
    """How often each layer runs."""
    found: Counter[str] = Counter()

    def hook(name: str) -> Any:
        return lambda *_: found.update([name])

    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("persons", [1, 2])
def test_layers_run_once_for_what_they_are_given(pipeline: MultiTalkPipeline, persons: int) -> None:
    with layer_calls(pipeline.models.transformer) as ran:
        pipeline.generate(data(*(12,) * persons), **TWICE)
    heard = CHUNKS + 1  # the speech of every chunk, and silence
    expected = {
        "time_embedding.0": STEPS,
        "time_projection.1": STEPS,
        "text_embedding.0": 2,
        "img_emb.proj.1": CHUNKS,
        "audio_proj.proj2": heard,
        "patch_embedding": EVALUATIONS,
        "head.head": EVALUATIONS * PASSES,
    }
    for number in range(pipeline.config.transformer.num_layers):
        passes = 1 if number == 0 else PASSES
        expected |= {f"blocks.{number}.self_attn.{name}": EVALUATIONS * passes for name in "qkvo"}
        expected |= {f"blocks.{number}.norm1": EVALUATIONS * passes}
        expected |= {f"blocks.{number}.cross_attn.{name}": 2 for name in ("k", "v", "norm_k")}
        expected |= {f"blocks.{number}.cross_attn.{name}": CHUNKS for name in ("k_img", "v_img", "norm_k_img")}
        expected |= {f"blocks.{number}.audio_cross_attn.kv_linear": heard}
        rest = ("cross_attn.q", "cross_attn.o", "audio_cross_attn.proj", "ffn.0", "ffn.2")
        expected |= {f"blocks.{number}.{name}": EVALUATIONS * PASSES for name in rest}
    assert {name: ran[name] for name in expected} == expected


def test_a_clip_and_a_chunk_are_prepared_once(
    pipeline: MultiTalkPipeline, monkeypatch: pytest.MonkeyPatch, calls: Counter[str]
) -> None:
    models = pipeline.models
    count(monkeypatch, calls, models.transformer, "embed_text", "embed_image", "embed_speech", "embed_time")
    count(monkeypatch, calls, models.vae, "encode", "decode")
    count(monkeypatch, calls, wan.multitalk, "video_rope", "token_masks", "crop_image", "decode_video")
    pipeline.generate(data(12, 12), **TWICE)
    assert calls == {
        "embed_text": 2,
        "embed_time": STEPS,
        "embed_speech": CHUNKS + 1,
        "embed_image": CHUNKS,
        "encode": CHUNKS,
        "decode": CHUNKS,
        "decode_video": CHUNKS,
        "video_rope": 1,
        "token_masks": 1,
        "crop_image": 1,
    }


def test_a_picture_that_infinitetalk_is_shown_again_is_not_encoded_again(
    puppet_folder: Path, monkeypatch: pytest.MonkeyPatch, calls: Counter[str]
) -> None:
    pipeline = MultiTalkPipeline(WAN_CONFIGS["infinitetalk-puppet"], puppet_folder)
    count(monkeypatch, calls, pipeline.models.vae, "encode")
    pipeline.generate(data(16), **TWICE)  # three chunks: the picture, and twice the frames to go on from
    assert calls == {"encode": 3}


def test_silence_is_computed_where_it_is_heard(
    pipeline: MultiTalkPipeline, monkeypatch: pytest.MonkeyPatch, calls: Counter[str]
) -> None:
    count(monkeypatch, calls, pipeline.models.transformer, "embed_speech", "embed_text")
    pipeline.generate(data(9), **{**TWICE, "text_guide_scale": 1.0, "audio_guide_scale": 1.0})
    assert calls == {"embed_speech": 1, "embed_text": 1}


@pytest.mark.parametrize(
    ("scales", "passes"), [((3.0, 2.0), 3), ((3.0, 3.0), 2), ((3.0, 1.0), 2), ((1.0, 3.0), 2), ((1.0, 1.0), 1)]
)
def test_passes_without_weight_do_not_run(
    pipeline: MultiTalkPipeline, scales: tuple[float, float], passes: int
) -> None:
    text, audio = scales
    with layer_calls(pipeline.models.transformer) as ran:
        pipeline.generate(data(9), **{**TWICE, "text_guide_scale": text, "audio_guide_scale": audio})
    assert ran["head.head"] == passes * STEPS


def test_labels_are_made_for_two_persons_only_and_once_in_the_first_block(
    pipeline: MultiTalkPipeline, monkeypatch: pytest.MonkeyPatch, calls: Counter[str]
) -> None:
    count(monkeypatch, calls, transformer_module, "speaker_labels")
    pipeline.generate(data(9), **TWICE)
    assert not calls
    pipeline.generate(data(9, 9), **TWICE)
    # Two of the three passes hear the speakers; the first block has labels for all passes at once.
    assert calls["speaker_labels"] == STEPS * (1 + 2 * (pipeline.config.transformer.num_layers - 1))


def test_streamed_blocks_come_once_a_step(
    puppet: ModelConfig, puppet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: Counter[int] = Counter()
    prefetch = StreamedBlocks._prefetch

    def counted(self: StreamedBlocks, number: int, slots: list[Tensor]) -> Any:
        fetched[number] += 1
        return prefetch(self, number, slots)

    monkeypatch.setattr(StreamedBlocks, "_prefetch", counted)
    models = load_models(puppet, puppet_folder, CPU)
    pipeline = MultiTalkPipeline.from_models(puppet, models, num_persistent_param_in_dit=0)
    pipeline.generate(data(12), **TWICE)
    constants = 2 + CHUNKS + CHUNKS + 1  # texts, images, speech
    assert fetched[0] == fetched[puppet.transformer.num_layers - 1] == constants + EVALUATIONS


@pytest.mark.parametrize("limit", [None, 10**12])
def test_nothing_moves_where_everything_fits(
    puppet: ModelConfig, puppet_folder: Path, monkeypatch: pytest.MonkeyPatch, calls: Counter[str], limit: int | None
) -> None:
    pipeline = MultiTalkPipeline.from_models(puppet, load_models(puppet, puppet_folder, CPU), memory_limit=limit)
    count(monkeypatch, calls, wan.offload.manager, "move")
    pipeline.generate(data(9), **TWICE)
    count(
        monkeypatch, calls, nn.Module, "to"
    )  # the first request has counted what one needs, on copies without weights
    pipeline.generate(data(9), **TWICE)
    assert pipeline.offload.plan.name == "resident"
    assert not calls


def test_residuals_are_kept_only_for_a_step_that_uses_them(
    pipeline: MultiTalkPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    velocity = wan.multitalk.Denoiser

    class Watched(velocity):  # type: ignore[misc, valid-type]
        def __call__(self, x_CTHW: Tensor, step: int) -> dict[str, Tensor]:
            velocities: dict[str, Tensor] = super().__call__(x_CTHW, step)
            kept.append(len(self.residuals))
            return velocities

    monkeypatch.setattr(wan.multitalk, "Denoiser", Watched)
    computed = (True, True, False, True, False, False, True)
    monkeypatch.setattr("wan.sampling.plan.computed_steps", lambda *_: computed)
    pipeline.generate(data(9), **{**TWICE, "sampling_steps": len(computed)})
    assert kept == [0, PASSES, PASSES, PASSES, PASSES, PASSES, 0]


class LargestTensor(TorchDispatchMode):
    """The most elements that any operation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return result


def contexts_of(model: MultiTalkTransformer, grid: tuple[int, int, int]) -> list[Context]:
    """Three passes of two persons: two that hear them, one that hears silence."""
    config, (t, rows, columns) = model.config, grid
    windows = torch.randn(1, 2, 4 * t - 3, config.audio_window, config.audio_layers, config.audio_dim)
    masks = torch.zeros(1, 3, 2 * rows, 2 * columns)
    masks[:, 0, :, :columns], masks[:, 1, :, columns:] = 1, 1
    texts = [model.embed_text(torch.randn(1, 5, config.text_dim)) for _ in range(2)]
    image = model.embed_image(torch.randn(1, config.image_tokens, config.image_dim))
    speech, silence = model.embed_speech(windows), model.embed_speech(0 * windows[:, :1])
    speakers = token_masks(masks, rows, columns)
    return [
        Context(text=texts[0], image=image, speech=speech, masks=speakers),
        Context(text=texts[1], image=image, speech=speech, masks=speakers),
        Context(text=texts[1], image=image, speech=silence),
    ]


@torch.inference_mode()
def test_no_matrix_of_all_tokens_and_those_of_the_first_frame() -> None:
    grid = (2, 32, 40)
    config = replace(WAN_CONFIGS["multitalk-puppet"].transformer, num_layers=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MultiTalkTransformer(config).eval()
        context = contexts_of(model, grid)[0]
    first = grid[1] * grid[2]
    tokens = torch.randn(1, grid[0] * first, config.dim)
    time = model.embed_time(torch.tensor([500.0]))
    with LargestTensor() as largest:
        model.forward_blocks(tokens, time, video_rope(grid, config.head_dim, "cpu"), context)
    feed_forward = tokens.shape[1] * config.ffn_dim
    assert largest.elements == feed_forward < tokens.shape[1] * first


@pytest.mark.parametrize("streamed", [False, True])
@torch.inference_mode()
def test_shared_work_changes_no_bit(streamed: bool) -> None:
    grid = (2, 4, 6)
    config = WAN_CONFIGS["multitalk-puppet"].transformer
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = MultiTalkTransformer(config).eval()
        contexts = contexts_of(model, grid)
        tokens = torch.randn(1, grid[0] * grid[1] * grid[2], config.dim)
    time, rotation = model.embed_time(torch.tensor([500.0])), video_rope(grid, config.head_dim, "cpu")
    alone = [model.forward_blocks(tokens, time, rotation, context) for context in contexts]
    if streamed:
        model.blocks = StreamedBlocks(model.blocks, 2, CPU)
    together = model.forward_passes(tokens, time, rotation, contexts)
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
    assert not torch.equal(alone[0], alone[1])
    assert not torch.equal(alone[1], alone[2])


@pytest.mark.parametrize("persons", [1, 2])
@torch.inference_mode()
def test_what_a_clip_keeps_holds_nothing_else(persons: int) -> None:
    """Keys and values that are views would keep alive what they were cut from."""
    model = MultiTalkTransformer(WAN_CONFIGS["multitalk-puppet"].transformer).eval()
    config = model.config
    windows = torch.randn(1, persons, 5, config.audio_window, config.audio_layers, config.audio_dim)
    for constants in (
        model.embed_text(torch.randn(1, 5, config.text_dim)),
        model.embed_image(torch.randn(1, config.image_tokens, config.image_dim)),
        model.embed_speech(windows),
    ):
        tensors = [tensor for key_value in constants for tensor in key_value]
        storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
        assert sum(storages.values()) == sum(each.nbytes for each in tensors)
        assert all(each.is_contiguous() for each in tensors)


def test_colors_are_corrected_where_the_video_is() -> None:
    video, frame = torch.rand(3, 4, 64, 64, device=META), torch.rand(3, 1, 64, 64, device=META)
    with PeakCounter(CPU) as elsewhere:
        corrected = match_color(video, lab_stats(frame), 0.5)
    assert corrected.device == META
    assert elsewhere.peak < 1000  # the constants of the colour space


@pytest.mark.parametrize(("strength", "expected"), [(0.0, 0), (0.5, CHUNKS)])
def test_colors_of_the_reference_are_measured_once_a_chunk(
    pipeline: MultiTalkPipeline,
    monkeypatch: pytest.MonkeyPatch,
    calls: Counter[str],
    strength: float,
    expected: int,
) -> None:
    count(monkeypatch, calls, wan.decode, "lab_stats")
    pipeline.generate(data(12), **TWICE, color_correction_strength=strength)
    assert calls["lab_stats"] == expected
