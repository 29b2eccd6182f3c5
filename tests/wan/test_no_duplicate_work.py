"""Number of layer runs, encodings and copies in a generation, counted rather than timed."""

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
import wan.sampling.sampler
from tests.wan.test_multitalk import input_data
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
from wan.sampling.denoise import Denoiser

CPU = torch.device("cpu")
STEPS, CHUNKS, PASSES = 2, 2, 3
EVALUATIONS = CHUNKS * STEPS
"""Denoising steps of both chunks."""
THREE_PASSES: dict[str, Any] = {"text_guide_scale": 3.0, "audio_guide_scale": 2.0}
TWO_CHUNKS: dict[str, Any] = {"frame_num": 9, "motion_frame": 5, "sampling_steps": STEPS, "seed": 3, **THREE_PASSES}
"""Options that give two chunks for 12 frames of speech."""


@pytest.fixture(scope="module")
def pipeline(puppet: ModelConfig, puppet_folder: Path) -> MultiTalkPipeline:
    return MultiTalkPipeline(config=puppet, checkpoint_dir=puppet_folder, device_id=0)


@pytest.fixture
def calls() -> Counter[str]:
    return Counter()


def count(monkeypatch: pytest.MonkeyPatch, calls: Counter[str], owner: Any, *names: str) -> None:
    """Wrap functions of `owner` to count their calls."""

    def counting(name: str, original: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            calls[name] += 1
            return original(*arguments, **named)

        return call

    for name in names:
        monkeypatch.setattr(owner, name, counting(name, getattr(owner, name)))


@contextmanager
def layer_calls(model: nn.Module) -> Iterator[Counter[str]]:
    """Count the forward calls of each layer."""
    layers: Counter[str] = Counter()

    def hook(name: str) -> Any:
        return lambda *_: layers.update([name])

    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules()]
    try:
        yield layers
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("persons", [1, 2])
def test_layers_run_once_per_input(pipeline: MultiTalkPipeline, persons: int) -> None:
    with layer_calls(pipeline.models.transformer) as runs:
        pipeline.generate(input_data(*(12,) * persons), **TWO_CHUNKS)
    speech = CHUNKS + 1  # the speech of each chunk, and silence
    expected = {
        "time_embedding.0": STEPS,
        "time_projection.1": STEPS,
        "text_embedding.0": 2,
        "img_emb.proj.1": CHUNKS,
        "audio_proj.proj2": speech,
        "patch_embedding": EVALUATIONS,
        "head.head": EVALUATIONS * PASSES,
    }
    for index in range(pipeline.config.transformer.num_layers):
        passes = 1 if index == 0 else PASSES
        expected |= {f"blocks.{index}.self_attn.{name}": EVALUATIONS * passes for name in "qkvo"}
        expected |= {f"blocks.{index}.norm1": EVALUATIONS * passes}
        expected |= {f"blocks.{index}.cross_attn.{name}": 2 for name in ("k", "v", "norm_k")}
        expected |= {f"blocks.{index}.cross_attn.{name}": CHUNKS for name in ("k_img", "v_img", "norm_k_img")}
        expected |= {f"blocks.{index}.audio_cross_attn.kv_linear": speech}
        others = ("cross_attn.q", "cross_attn.o", "audio_cross_attn.proj", "ffn.0", "ffn.2")
        expected |= {f"blocks.{index}.{name}": EVALUATIONS * PASSES for name in others}
    assert {name: runs[name] for name in expected} == expected


def test_clip_and_chunk_inputs_are_computed_once(
    pipeline: MultiTalkPipeline, monkeypatch: pytest.MonkeyPatch, calls: Counter[str]
) -> None:
    models = pipeline.models
    count(monkeypatch, calls, models.transformer, "embed_text", "embed_image", "embed_speech", "embed_time")
    count(monkeypatch, calls, models.vae, "encode", "decode")
    count(monkeypatch, calls, wan.sampling.sampler, "video_rope", "token_masks")
    count(monkeypatch, calls, wan.multitalk, "crop_image", "layout_image")
    pipeline.generate(input_data(12, 12), **TWO_CHUNKS)
    assert calls == {
        "embed_text": 2,
        "embed_time": STEPS,
        "embed_speech": CHUNKS + 1,
        "embed_image": CHUNKS,
        "encode": CHUNKS,
        "decode": CHUNKS,
        "video_rope": 1,
        "token_masks": 1,
        "crop_image": 1,
        "layout_image": 1,
    }


def test_infinitetalk_encodes_a_repeated_image_once(
    puppet_folder: Path, monkeypatch: pytest.MonkeyPatch, calls: Counter[str]
) -> None:
    pipeline = MultiTalkPipeline(WAN_CONFIGS["infinitetalk-puppet"], puppet_folder)
    count(monkeypatch, calls, pipeline.models.vae, "encode")
    pipeline.generate(input_data(16), **TWO_CHUNKS)  # three chunks: the image once, the motion frames twice
    assert calls == {"encode": 3}


def test_silence_is_embedded_only_if_a_pass_needs_it(
    pipeline: MultiTalkPipeline, monkeypatch: pytest.MonkeyPatch, calls: Counter[str]
) -> None:
    count(monkeypatch, calls, pipeline.models.transformer, "embed_speech", "embed_text")
    pipeline.generate(input_data(9), **{**TWO_CHUNKS, "text_guide_scale": 1.0, "audio_guide_scale": 1.0})
    assert calls == {"embed_speech": 1, "embed_text": 1}


@pytest.mark.parametrize(
    ("scales", "passes"), [((3.0, 2.0), 3), ((3.0, 3.0), 2), ((3.0, 1.0), 2), ((1.0, 3.0), 2), ((1.0, 1.0), 1)]
)
def test_passes_with_weight_zero_do_not_run(
    pipeline: MultiTalkPipeline, scales: tuple[float, float], passes: int
) -> None:
    text, audio = scales
    with layer_calls(pipeline.models.transformer) as runs:
        pipeline.generate(input_data(9), **{**TWO_CHUNKS, "text_guide_scale": text, "audio_guide_scale": audio})
    assert runs["head.head"] == passes * STEPS


def test_speaker_labels_are_computed_for_two_persons_and_once_in_the_first_block(
    pipeline: MultiTalkPipeline, monkeypatch: pytest.MonkeyPatch, calls: Counter[str]
) -> None:
    count(monkeypatch, calls, transformer_module, "speaker_labels")
    pipeline.generate(input_data(9), **TWO_CHUNKS)
    assert not calls
    pipeline.generate(input_data(9, 9), **TWO_CHUNKS)
    # Two of the three passes have speech; the first block computes the labels of all passes at once.
    assert calls["speaker_labels"] == STEPS * (1 + 2 * (pipeline.config.transformer.num_layers - 1))


def test_streamed_blocks_are_copied_once_per_step(
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
    pipeline.generate(input_data(12), **TWO_CHUNKS)
    embeddings = 2 + CHUNKS + CHUNKS + 1  # texts, images, speech
    assert fetched[0] == fetched[puppet.transformer.num_layers - 1] == embeddings + EVALUATIONS


@pytest.mark.parametrize("limit", [None, 10**12])
def test_no_weights_move_if_everything_fits(
    puppet: ModelConfig, puppet_folder: Path, monkeypatch: pytest.MonkeyPatch, calls: Counter[str], limit: int | None
) -> None:
    pipeline = MultiTalkPipeline.from_models(puppet, load_models(puppet, puppet_folder, CPU), memory_limit=limit)
    count(monkeypatch, calls, wan.offload.manager, "move")
    pipeline.generate(input_data(9), **TWO_CHUNKS)
    count(
        monkeypatch, calls, nn.Module, "to"
    )  # the first request has estimated memory, with modules on the meta device
    pipeline.generate(input_data(9), **TWO_CHUNKS)
    assert pipeline.offload.plan.name == "resident"
    assert not calls


def test_residuals_are_kept_only_for_a_step_that_reuses_them(
    pipeline: MultiTalkPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    denoiser = Denoiser

    class RecordingDenoiser(denoiser):  # type: ignore[misc, valid-type]
        def __call__(self, x_CTHW: Tensor, step: int) -> dict[str, Tensor]:
            velocities: dict[str, Tensor] = super().__call__(x_CTHW, step)
            kept.append(len(self.residuals))
            return velocities

    monkeypatch.setattr(wan.sampling.sampler, "Denoiser", RecordingDenoiser)
    computed = (True, True, False, True, False, False, True)
    monkeypatch.setattr("wan.sampling.plan.computed_steps", lambda *_: computed)
    pipeline.generate(input_data(9), **{**TWO_CHUNKS, "sampling_steps": len(computed)})
    assert kept == [0, PASSES, PASSES, PASSES, PASSES, PASSES, 0]


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest operation result."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return result


def contexts_of(model: MultiTalkTransformer, grid: tuple[int, int, int]) -> list[Context]:
    """Contexts of three passes for two persons: two with speech, one with silence."""
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
def test_the_label_attention_matrix_is_not_materialized() -> None:
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
def test_sharing_the_first_self_attention_changes_no_bit(streamed: bool) -> None:
    grid = (2, 4, 6)
    config = WAN_CONFIGS["multitalk-puppet"].transformer
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = MultiTalkTransformer(config).eval()
        contexts = contexts_of(model, grid)
        tokens = torch.randn(1, grid[0] * grid[1] * grid[2], config.dim)
    time, rotary_emb = model.embed_time(torch.tensor([500.0])), video_rope(grid, config.head_dim, "cpu")
    separate = [model.forward_blocks(tokens, time, rotary_emb, context) for context in contexts]
    if streamed:
        model.blocks = StreamedBlocks(model.blocks, 2, CPU)
    shared = model.forward_passes(tokens, time, rotary_emb, contexts)
    assert all(torch.equal(one, other) for one, other in zip(separate, shared, strict=True))
    assert not torch.equal(separate[0], separate[1])
    assert not torch.equal(separate[1], separate[2])


@pytest.mark.parametrize("persons", [1, 2])
@torch.inference_mode()
def test_cached_keys_and_values_own_their_memory(persons: int) -> None:
    """Views would keep alive the larger tensors they are slices of."""
    model = MultiTalkTransformer(WAN_CONFIGS["multitalk-puppet"].transformer).eval()
    config = model.config
    windows = torch.randn(1, persons, 5, config.audio_window, config.audio_layers, config.audio_dim)
    for kv_cache in (
        model.embed_text(torch.randn(1, 5, config.text_dim)),
        model.embed_image(torch.randn(1, config.image_tokens, config.image_dim)),
        model.embed_speech(windows),
    ):
        tensors = [tensor for key_value in kv_cache for tensor in key_value]
        storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
        assert sum(storages.values()) == sum(each.nbytes for each in tensors)
        assert all(each.is_contiguous() for each in tensors)


def test_color_correction_runs_on_the_device_of_the_video() -> None:
    video, frame = torch.rand(3, 4, 64, 64, device=META), torch.rand(3, 1, 64, 64, device=META)
    with PeakCounter(CPU) as host:
        corrected = match_color(video, lab_stats(frame), 0.5)
    assert corrected.device == META
    assert host.peak < 1000  # the constants of the color space


@pytest.mark.parametrize(("strength", "expected"), [(0.0, 0), (0.5, CHUNKS)])
def test_lab_statistics_of_the_reference_are_computed_once_per_chunk(
    pipeline: MultiTalkPipeline, monkeypatch: pytest.MonkeyPatch, calls: Counter[str], strength: float, expected: int
) -> None:
    count(monkeypatch, calls, wan.decode, "lab_stats")
    pipeline.generate(input_data(12), **TWO_CHUNKS, color_correction_strength=strength)
    assert calls["lab_stats"] == expected
