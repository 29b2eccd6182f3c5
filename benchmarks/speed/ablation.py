"""From the plain form to ours, one optimisation at a time: whole denoising steps of the small model, all in one run.

Each rung is the plain form with one more of its pieces replaced by ours; the last one is the network itself, as the
pipeline runs it. Shapes: C channels, T latent frames, H x W latent rows and columns, N persons.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.baseline.eager_transformer import PlainTransformer
from wan.configs.schema import TransformerConfig
from wan.modules.rope import RotaryEmbedding, apply_rope, video_rope
from wan.modules.speaker_labels import SpeakerMasks, speaker_labels, token_masks
from wan.modules.transformer import Context, MultiTalkTransformer
from wan.sampling.denoise import Denoiser
from wan.sampling.guidance import PASSES, ClassifierFreeGuidance, GuidanceTerm, passes_of
from wan.sampling.plan import plan_steps
from wan.types import VideoSize

RUNGS = {
    "rotations": "RoPE's tables made once a size, in float32",
    "where needed": "no label map for one person or without speech",
    "columns": "labels by attention to mask columns, without the map",
    "constants": "what is constant in a clip computed once",
    "passes": "no pass whose weight is zero",
}
"""In this order; each is added to those above it."""
OURS = "norms and gates in few operations, block 0 and the patches shared by the passes"
_CONSTANT = re.compile(r"text_embedding|img_emb|audio_proj|time_|cross_attn\.(k|v|k_img|v_img|norm_k|norm_k_img)$|kv_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """What a step is given, random; `texts` by whether the prompt is read, `windows` by whether speech is heard."""

    size: VideoSize
    latent_CTHW: Tensor
    condition_CTHW: Tensor
    texts: Mapping[bool, Tensor]
    image_SC: Tensor
    windows: Mapping[bool, Tensor]
    masks_3HW: Tensor
    time: float = 500.0


def draw_clip(config: TransformerConfig, size: VideoSize, persons: int, device: torch.device | str = "cpu") -> Clip:
    """A clip of random inputs; the first person is on the left, a second one on the right."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    t, h, w = size.latent
    masks = torch.zeros(3, h, w, device=device)
    masks[0, :, : w // 3], masks[1, :, -w // 3 :] = 1, 1
    masks[2] = 1 - masks[:2].amax(0)
    windows = draw(persons, size.frames, config.audio_window, config.audio_layers, config.audio_dim)
    return Clip(
        size=size,
        latent_CTHW=draw(16, t, h, w),
        condition_CTHW=draw(20, t, h, w),
        texts={True: draw(20, config.text_dim), False: draw(12, config.text_dim)},
        image_SC=draw(config.image_tokens, config.image_dim),
        windows={True: windows, False: torch.zeros_like(windows[:1])},
        masks_3HW=masks,
    )


class Climber(PlainTransformer):
    """The plain form with some of its pieces replaced by ours; what is kept is kept for one pass of one clip."""

    def __init__(self, weights: Mapping[str, Tensor], config: TransformerConfig, rungs: Sequence[str]) -> None:
        super().__init__(weights, config)
        self.rungs = frozenset(rungs)
        self.rotations: dict[tuple[int, int, int], RotaryEmbedding] = {}
        self.kept: dict[tuple[str, str], Tensor] = {}
        self.name = ""
        self.persons = 1

    def called(self, name: str, persons: int) -> "Climber":
        """Itself, for the pass of that name."""
        self.name, self.persons = name, persons
        return self

    def rope(self, x_BLAE: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Ours, or the plain one."""
        if "rotations" not in self.rungs:
            return super().rope(x_BLAE, grid)
        if grid not in self.rotations:
            self.rotations[grid] = video_rope(grid, self.config.head_dim, x_BLAE.device)
        return apply_rope(x_BLAE, self.rotations[grid])

    def labels(self, q: Tensor, k: Tensor, masks_3S: Tensor) -> Tensor:
        """Ours, none, or the plain ones."""
        if "where needed" in self.rungs and self.persons == 1:
            return q.new_zeros(0)
        if "columns" not in self.rungs:
            return super().labels(q, k, masks_3S)
        return speaker_labels(q, k, SpeakerMasks(masks_3S.T[None], masks_3S.sum(1)[None]))[0]

    def linear(self, name: str, x: Tensor) -> Tensor:
        """Computed, or kept."""
        return self._once(name, lambda: super(Climber, self).linear(name, x))

    def rms(self, name: str, x: Tensor) -> Tensor:
        """Computed, or kept."""
        return self._once(name, lambda: super(Climber, self).rms(name, x))

    def _once(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        if "constants" not in self.rungs or not _CONSTANT.search(name):
            return compute()
        key = (self.name, name)
        if key not in self.kept:
            self.kept[key] = compute()
        return self.kept[key]


Step = Callable[[], Tensor]


def plain_guidance(text_scale: float, audio_scale: float) -> tuple[GuidanceTerm, ...]:
    """The differences as the papers' code takes them: a text scale of 1 saves a pass, a speech scale of 1 none."""
    if text_scale == 1:
        return ((audio_scale, "cond", "no_audio"),)
    return ((text_scale, "cond", "no_text"), (audio_scale, "no_text", "neither"))


def guider_of(text_scale: float, audio_scale: float, plain: bool) -> ClassifierFreeGuidance:
    """Guidance with or without the passes whose weight is zero."""
    guider = ClassifierFreeGuidance(text_scale, audio_scale)
    if plain:
        guider.differences = plain_guidance(text_scale, audio_scale)
        guider.passes = passes_of(guider.differences)
    return guider


def rungs(model: MultiTalkTransformer, clip: Clip, scales: tuple[float, float]) -> dict[str, Step]:
    """Every rung's denoising step: the guided velocity of all its passes."""
    state, config = model.state_dict(), model.config
    table: dict[str, Step] = {
        "the plain form": _climb(Climber(state, config, ()), clip, guider_of(*scales, plain=True))
    }
    for number, name in enumerate(RUNGS, 1):
        taken = tuple(RUNGS)[:number]
        guider = guider_of(*scales, plain="passes" not in taken)
        table[RUNGS[name]] = _climb(Climber(state, config, taken), clip, guider)
    table[OURS] = our_step(model, clip, guider_of(*scales, plain=False))
    return table


def _climb(climber: Climber, clip: Clip, guider: ClassifierFreeGuidance) -> Step:
    def velocity(name: str) -> Tensor:
        told = PASSES[name]
        windows = clip.windows[told.speech]
        return climber.called(name, len(windows))(
            clip.latent_CTHW,
            clip.condition_CTHW,
            torch.tensor(clip.time, device=clip.latent_CTHW.device),
            clip.texts[told.prompt],
            clip.image_SC,
            windows,
            clip.masks_3HW,
        )

    return lambda: guider({name: velocity(name) for name in guider.passes})


def our_step(model: MultiTalkTransformer, clip: Clip, guider: ClassifierFreeGuidance) -> Step:
    """The network as the pipeline runs it."""
    device = clip.latent_CTHW.device
    texts = {prompt: model.embed_text(text[None]) for prompt, text in clip.texts.items()}
    image = model.embed_image(clip.image_SC[None])
    speech = {heard: model.embed_speech(windows[None]) for heard, windows in clip.windows.items()}
    masks = token_masks(clip.masks_3HW[None], *clip.size.grid[1:]) if len(clip.windows[True]) == 2 else None
    contexts = {
        name: Context(
            text=texts[PASSES[name].prompt],
            image=image,
            speech=speech[PASSES[name].speech],
            masks=masks if PASSES[name].speech else None,
        )
        for name in guider.passes
    }
    velocity = Denoiser(
        model,
        clip.condition_CTHW,
        contexts,
        [model.embed_time(torch.tensor([clip.time], device=device))],
        video_rope(clip.size.grid, model.config.head_dim, device),
        clip.size.grid,
        plan_steps(guider.passes, computed=(True,), reuses_guidance=False),
    )
    return lambda: guider(velocity(clip.latent_CTHW, 0))


def difference(step: Tensor, plain: Tensor) -> float:
    """Relative error in the L2 norm."""
    return float((step - plain).norm() / plain.norm())
