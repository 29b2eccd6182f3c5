"""How much memory a request needs, and where the networks stay so that it has it.

Demands are not formulas: the code itself runs on the meta device, at the request's size, while every tensor it makes is
counted. Sizes are in bytes.
"""

import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wan.checkpoint.components import is_fp32_param
from wan.conditioning.latent import condition_latent
from wan.configs.schema import ModelConfig
from wan.decode import decode_video
from wan.modules.quantized import quantize_like, quantized_layers
from wan.modules.rope import RotaryEmbedding
from wan.modules.speaker_labels import token_masks
from wan.modules.transformer import Context, KVCache, MultiTalkTransformer
from wan.modules.vae import VideoVAE, build_vae
from wan.sampling.denoise import Denoiser
from wan.sampling.plan import plan_steps
from wan.types import TEMPORAL_STRIDE, VideoSize

logger = logging.getLogger(__name__)

META = torch.device("meta")
HOST = torch.device("cpu")
GIGABYTE = 1e9
ESTIMATED_FRAMES = 2 * TEMPORAL_STRIDE + 1
NUM_PROMPTS = 2
"""Prompts that passes read: the prompt and the negative one."""


class PeakCounter(TorchDispatchMode):
    """Counts the bytes of tensors made inside that are still alive, and the most there were at once."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = _to_host(func, args, kwargs or {})
        if result is None:
            result = func(*args, **(kwargs or {}))
        # What an operator returns may be a view of what was there before.
        before = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type == self.device.type:
                self._count(leaf.untyped_storage(), before)
        return result

    def _count(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        key = storage._cdata
        if key in self._known or key in before:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _to_host(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """In place of a copy from the meta device, which has no data: room for it on the host, which nobody touches."""
    if func.overloadpacket not in (torch.ops.aten.to, torch.ops.aten._to_copy) or not args[0].is_meta:
        return None
    if not any(isinstance(value, torch.device) and value.type == "cpu" for value in (*args, *kwargs.values())):
        return None
    return torch.empty(args[0].shape, dtype=args[0].dtype, device="cpu")


def peak_of(work: Callable[[], Any], device: torch.device = META) -> int:
    """The most bytes that were alive at once of what `work` made on `device`, its result included."""
    with torch.inference_mode(), PeakCounter(device) as counter:
        result = work()
        del result
    return counter.peak


def bytes_of(module: nn.Module) -> int:
    """Parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightBytes:
    """Bytes of the networks as they are loaded."""

    transformer: int
    blocks: tuple[int, ...]
    text_encoder: int
    image_encoder: int
    vae: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """What a request needs besides weights: keys and values of all passes, and the peaks of the work itself.

    `vae` includes colours and the finished video; `vae_slices` is the same with everything that waits on the host.
    """

    constants: int
    forward: int
    vae: int
    vae_slices: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadPlan:
    """Where everything stays. `resident_blocks` of the transformer's blocks stay on the device, the others are
    streamed; encoders and the VAE stay there, or come for their work and leave again; with `vae_slices` features and
    finished frames wait on the host while the VAE works on a slice of time."""

    name: str
    resident_blocks: int
    encoders_stay: bool
    vae_slices: bool
    peak: int

    def __str__(self) -> str:
        parts = [self.name, f"{self.resident_blocks} resident blocks", "VAE in slices of time" * self.vae_slices]
        return ", ".join([*filter(None, parts), f"about {self.peak / GIGABYTE:.1f} GB"])

    @property
    def places(self) -> tuple[int, bool, bool]:
        """What makes a plan another one, its figures aside."""
        return self.resident_blocks, self.encoders_stay, self.vae_slices


class OutOfMemoryPlanError(ValueError):
    """No plan fits into the memory that is free."""


def enumerate_plans(
    weights: WeightBytes, demand: MemoryEstimate, most_resident: int | None = None
) -> list[OffloadPlan]:
    """Every plan with its peak, from the fastest to the leanest; at most `most_resident` blocks stay on the device.

    A VAE in slices of time costs copies of a few GB for every latent frame of a chunk, a streamed block one of its
    size for every forward: slices come first, and only where they lower the peak.
    """
    count = len(weights.blocks) if most_resident is None else min(most_resident, len(weights.blocks))
    candidates = [(count, True, False)]
    candidates += [(resident, False, slices) for resident in range(count, -1, -1) for slices in (False, True)]
    found: list[OffloadPlan] = []
    for resident, stay, slices in candidates:
        name = "streamed" if resident < len(weights.blocks) else "resident" if stay else "encoders leave"
        peak = peak_bytes(weights, demand, resident, stay, slices)
        if not slices or peak < found[-1].peak:
            found.append(
                OffloadPlan(name=name, resident_blocks=resident, encoders_stay=stay, vae_slices=slices, peak=peak)
            )
    return found


def peak_bytes(
    weights: WeightBytes, demand: MemoryEstimate, resident_blocks: int, encoders_stay: bool, vae_slices: bool = False
) -> int:
    """The most that is on the device at once, over the stages of a request."""
    streamed = weights.blocks[resident_blocks:]
    always = weights.transformer - sum(streamed)
    slots = 2 * max(streamed, default=0)  # there only while the blocks are gone through
    vae = demand.vae_slices if vae_slices else demand.vae
    if encoders_stay:
        encoders = weights.text_encoder + weights.image_encoder + weights.vae
        return always + encoders + demand.constants + max(slots + demand.forward, vae)
    stages = (
        weights.text_encoder,
        slots + demand.constants + weights.image_encoder,
        slots + demand.constants + demand.forward,
        demand.constants + weights.vae + vae,
    )
    return always + max(stages)


def choose_plan(candidates: Sequence[OffloadPlan], free: int, margin: float) -> OffloadPlan:
    """The first plan whose peak, with a share `margin` on top, fits into `free` bytes.

    Raises `OutOfMemoryPlanError` with both numbers when even the leanest does not.
    """
    for plan in candidates:
        if plan.peak * (1 + margin) <= free:
            return plan
    leanest = min(candidates, key=lambda plan: plan.peak)
    raise OutOfMemoryPlanError(
        f"{free / GIGABYTE:.1f} GB of the device's memory are free; the leanest plan ({leanest.name}) needs "
        f"{leanest.peak * (1 + margin) / GIGABYTE:.1f} GB for this size and number of persons"
    )


def estimate_memory(
    config: ModelConfig, size: VideoSize, persons: int, transformer: nn.Module | None = None
) -> MemoryEstimate:
    """Run two blocks under three passes and keep what they add, run the VAE, all on the meta device, and count.

    The first block of three passes is another one than those after it. Layers have eight bits where the `transformer`
    has them.
    """
    two_blocks = replace(config.transformer, num_layers=2)
    with torch.device(META):
        model = MultiTalkTransformer(two_blocks).eval()
        if transformer is not None:
            quantize_like(model, transformer)
        vae = VideoVAE(build_vae(config.vae).eval())
    vae.model.decoder.to(getattr(torch, config.vae_dtype))
    cast_on_meta(model, getattr(torch, config.dtype))
    spoken, silent = (_context(model, size, each) for each in (persons, 1))
    per_block = NUM_PROMPTS * _bytes(spoken.text) + _bytes(spoken.image) + _bytes(spoken.speech) + _bytes(silent.speech)
    t, h, w = size.latent
    latent, condition = (torch.empty(channels, t, h, w, device=META) for channels in (16, 20))
    time = model.embed_time(torch.empty(1, device=META))
    pairs = config.transformer.head_dim // 2
    angles = torch.empty(1, size.grid[0] * size.grid[1] * size.grid[2], 1, pairs, device=META)
    contexts = {"cond": spoken, "no_text": spoken, "neither": silent}
    plan = plan_steps(tuple(contexts), (True, False), reuses_guidance=False)

    def two_steps() -> None:
        velocity = Denoiser(model, condition, contexts, [time, time], RotaryEmbedding(angles, angles), size.grid, plan)
        for step in range(len(plan)):
            velocity(latent, step)

    forward = peak_of(two_steps)
    return MemoryEstimate(
        constants=config.transformer.num_layers * per_block + 2 * angles.nbytes,
        forward=forward,
        vae=vae_peak(vae, size, META),
        vae_slices=vae_peak(vae, size, HOST),
    )


def vae_peak(vae: VideoVAE, size: VideoSize, rest: torch.device) -> int:
    """The most that the VAE's work takes, both ways, with what waits on the device `rest`.

    Slices are alike from the third one on, so three are counted; the frames of the others wait where theirs do.
    """
    device = vae.model.device
    few = replace(size, frames=min(size.frames, ESTIMATED_FRAMES))
    latent = torch.empty(16, *few.latent, device=device)
    frame = torch.empty(3, size.height, size.width, device=device)
    known = torch.empty(3, 1, size.height, size.width, device=rest)
    peak = max(
        peak_of(lambda: decode_video(vae, latent, frame, 1.0, rest), device),
        peak_of(lambda: condition_latent(vae, known, few, rest), device),
    )
    return peak + (size.frames - few.frames) * frame.nbytes * (rest == device)


def cast_on_meta(model: MultiTalkTransformer, dtype: torch.dtype) -> None:
    """The dtypes that loading gives, without weights."""
    eight_bits = {f"{layer}.{part}" for layer in quantized_layers(model) for part in ("data", "scale")}
    state = {
        name: tensor if name in eight_bits else tensor.to(torch.float32 if is_fp32_param(name) else dtype)
        for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(state, assign=True)


def _context(model: MultiTalkTransformer, size: VideoSize, persons: int) -> Context:
    config = model.config
    window = (config.audio_window, config.audio_layers, config.audio_dim)
    masks = torch.empty(1, 3, *size.latent[1:], device=META)
    with torch.inference_mode():
        return Context(
            text=model.embed_text(torch.empty(1, config.text_len, config.text_dim, device=META)),
            image=model.embed_image(torch.empty(1, config.image_tokens, config.image_dim, device=META)),
            speech=model.embed_speech(torch.empty(1, persons, size.frames, *window, device=META)),
            masks=token_masks(masks, *size.grid[1:]) if persons == 2 else None,
        )


def _bytes(constants: KVCache) -> int:
    """Of one block."""
    return sum(tensor.nbytes for tensor in constants[0])
