"""Ablation from the eager baseline to the optimized transformer: one denoising step, optimizations added one by one.

Each variant is the eager baseline with one more optimization than the variant before; the last one is the transformer
as the pipeline runs it. Shapes: C channels, T latent frames, H x W latent rows and columns, N persons.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.baseline.eager_transformer import EagerTransformer
from wan.configs.schema import TransformerConfig
from wan.modules.rope import RotaryEmbedding, apply_rope, video_rope
from wan.modules.speaker_labels import SpeakerMasks, speaker_labels, token_masks
from wan.modules.transformer import Context, MultiTalkTransformer
from wan.sampling.denoise import Denoiser
from wan.sampling.guidance import PASSES, ClassifierFreeGuidance, GuidanceTerm, required_passes
from wan.sampling.plan import plan_steps
from wan.types import VideoSize

EAGER = "eager baseline"
OPTIMIZATIONS = {
    "rope": "RoPE tables cached per size, in float32",
    "needed labels": "no label map for one person or without speech",
    "class attention": "labels by attention to mask columns, without the full map",
    "constants": "per-clip constants computed once",
    "passes": "guidance passes of weight zero skipped",
}
"""In this order; each variant has those above it too."""
OPTIMIZED = "fused norms and gates; patch embedding and block 0 shared by the passes"
_CONSTANT = re.compile(r"text_embedding|img_emb|audio_proj|time_|cross_attn\.(k|v|k_img|v_img|norm_k|norm_k_img)$|kv_")

Step = Callable[[], Tensor]
"""Computes the guided velocity of one denoising step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInputs:
    """Random inputs of a denoising step; `texts` is keyed by "with prompt", `windows` by "with speech"."""

    size: VideoSize
    latent_CTHW: Tensor
    condition_CTHW: Tensor
    texts: Mapping[bool, Tensor]
    image_SC: Tensor
    windows: Mapping[bool, Tensor]
    masks_3HW: Tensor
    time: float = 500.0


def draw_inputs(
    config: TransformerConfig, size: VideoSize, persons: int, device: torch.device | str = "cpu"
) -> StepInputs:
    """Draw random inputs; the first person is on the left, the second on the right."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    t, h, w = size.latent
    masks = torch.zeros(3, h, w, device=device)
    masks[0, :, : w // 3], masks[1, :, -w // 3 :] = 1, 1
    masks[2] = 1 - masks[:2].amax(0)
    windows = draw(persons, size.frames, config.audio_window, config.audio_layers, config.audio_dim)
    return StepInputs(
        size=size,
        latent_CTHW=draw(16, t, h, w),
        condition_CTHW=draw(20, t, h, w),
        texts={True: draw(20, config.text_dim), False: draw(12, config.text_dim)},
        image_SC=draw(config.image_tokens, config.image_dim),
        windows={True: windows, False: torch.zeros_like(windows[:1])},
        masks_3HW=masks,
    )


class PartlyOptimizedTransformer(EagerTransformer):
    """The eager baseline with some optimizations; caches constants per guidance pass of one clip."""

    def __init__(self, weights: Mapping[str, Tensor], config: TransformerConfig, optimizations: Sequence[str]) -> None:
        super().__init__(weights, config)
        self.optimizations = frozenset(optimizations)
        self.rope_cache: dict[tuple[int, int, int], RotaryEmbedding] = {}
        self.constants: dict[tuple[str, str], Tensor] = {}
        self.pass_name = ""
        self.persons = 1

    def for_pass(self, name: str, persons: int) -> "PartlyOptimizedTransformer":
        """Select the guidance pass of the next call; returns itself."""
        self.pass_name, self.persons = name, persons
        return self

    def rope(self, x_BLAE: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """RoPE, from the cached table if enabled."""
        if "rope" not in self.optimizations:
            return super().rope(x_BLAE, grid)
        if grid not in self.rope_cache:
            self.rope_cache[grid] = video_rope(grid, self.config.head_dim, x_BLAE.device)
        return apply_rope(x_BLAE, self.rope_cache[grid])

    def labels(self, q: Tensor, k: Tensor, masks_3S: Tensor) -> Tensor:
        """Speaker labels, empty for one person if `needed labels` is enabled."""
        if "needed labels" in self.optimizations and self.persons == 1:
            return q.new_zeros(0)
        if "class attention" not in self.optimizations:
            return super().labels(q, k, masks_3S)
        return speaker_labels(q, k, SpeakerMasks(masks_3S.T[None], masks_3S.sum(1)[None]))[0]

    def linear(self, name: str, x: Tensor) -> Tensor:
        """Linear layer, cached if its output is constant in a clip."""
        return self._cached(name, lambda: super(PartlyOptimizedTransformer, self).linear(name, x))

    def rms(self, name: str, x: Tensor) -> Tensor:
        """RMS norm, cached if its output is constant in a clip."""
        return self._cached(name, lambda: super(PartlyOptimizedTransformer, self).rms(name, x))

    def _cached(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        if "constants" not in self.optimizations or not _CONSTANT.search(name):
            return compute()
        key = (self.pass_name, name)
        if key not in self.constants:
            self.constants[key] = compute()
        return self.constants[key]


def eager_guidance(text_scale: float, audio_scale: float) -> tuple[GuidanceTerm, ...]:
    """Guidance terms of the reference implementation: a text scale of 1 drops a pass, a speech scale of 1 does not."""
    if text_scale == 1:
        return (GuidanceTerm(audio_scale, "cond", "no_audio"),)
    return (GuidanceTerm(text_scale, "cond", "no_text"), GuidanceTerm(audio_scale, "no_text", "neither"))


def make_guider(text_scale: float, audio_scale: float, eager: bool) -> ClassifierFreeGuidance:
    """Classifier-free guidance; with `eager` it includes passes whose weight is zero."""
    guider = ClassifierFreeGuidance(text_scale, audio_scale)
    if eager:
        guider.terms = eager_guidance(text_scale, audio_scale)
        guider.passes = required_passes(guider.terms)
    return guider


def ablation_steps(model: MultiTalkTransformer, inputs: StepInputs, scales: tuple[float, float]) -> dict[str, Step]:
    """The denoising step of every variant, by label, from `EAGER` to `OPTIMIZED`."""
    state, config = model.state_dict(), model.config
    steps: dict[str, Step] = {}
    for count, label in enumerate((EAGER, *OPTIMIZATIONS.values())):
        enabled = tuple(OPTIMIZATIONS)[:count]
        guider = make_guider(*scales, eager="passes" not in enabled)
        steps[label] = _ablation_step(PartlyOptimizedTransformer(state, config, enabled), inputs, guider)
    steps[OPTIMIZED] = optimized_step(model, inputs, make_guider(*scales, eager=False))
    return steps


def _ablation_step(model: PartlyOptimizedTransformer, inputs: StepInputs, guider: ClassifierFreeGuidance) -> Step:
    def velocity(name: str) -> Tensor:
        guidance_pass = PASSES[name]
        windows = inputs.windows[guidance_pass.speech]
        return model.for_pass(name, len(windows))(
            inputs.latent_CTHW,
            inputs.condition_CTHW,
            torch.tensor(inputs.time, device=inputs.latent_CTHW.device),
            inputs.texts[guidance_pass.prompt],
            inputs.image_SC,
            windows,
            inputs.masks_3HW,
        )

    return lambda: guider({name: velocity(name) for name in guider.passes})


def optimized_step(model: MultiTalkTransformer, inputs: StepInputs, guider: ClassifierFreeGuidance) -> Step:
    """The denoising step as the pipeline runs it."""
    device = inputs.latent_CTHW.device
    texts = {prompt: model.embed_text(text[None]) for prompt, text in inputs.texts.items()}
    image = model.embed_image(inputs.image_SC[None])
    speech = {heard: model.embed_speech(windows[None]) for heard, windows in inputs.windows.items()}
    masks = token_masks(inputs.masks_3HW[None], *inputs.size.grid[1:]) if len(inputs.windows[True]) == 2 else None
    contexts = {
        name: Context(
            text=texts[PASSES[name].prompt],
            image=image,
            speech=speech[PASSES[name].speech],
            masks=masks if PASSES[name].speech else None,
        )
        for name in guider.passes
    }
    denoiser = Denoiser(
        model,
        inputs.condition_CTHW,
        contexts,
        [model.embed_time(torch.tensor([inputs.time], device=device))],
        video_rope(inputs.size.grid, model.config.head_dim, device),
        inputs.size.grid,
        plan_steps(guider.passes, computed=(True,), reuse_guidance=False),
    )
    return lambda: guider(denoiser(inputs.latent_CTHW, 0))


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Relative error in the L2 norm."""
    return float((value - reference).norm() / reference.norm())
