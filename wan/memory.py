"""How much memory a request needs, and where the networks stay so that it has it.

Demands are not formulas: the code itself runs on the meta device, at the request's size, while every tensor it makes is
counted. Sizes are in bytes.
"""

import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wan.checkpoint import stays_float32
from wan.configs.schema import ModelConfig
from wan.modules.labels import token_masks
from wan.modules.rope import Rotation
from wan.modules.transformer import BlockConstants, Context, MultiTalkTransformer
from wan.modules.vae import VideoVAE, build_vae
from wan.types import VideoSize

logger = logging.getLogger(__name__)

META = torch.device("meta")
GIGABYTE = 1e9


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
class Weights:
    """Bytes of the networks as they are loaded."""

    transformer: int
    blocks: tuple[int, ...]
    text_encoder: int
    image_encoder: int
    vae: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a request needs besides weights: keys and values of all passes, and the peaks of the work itself."""

    constants: int
    forward: int
    vae: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where the networks stay. `resident_blocks` of the transformer's blocks stay on the device, the others are
    streamed; encoders and the VAE stay there, or come for their work and leave again."""

    name: str
    resident_blocks: int
    encoders_stay: bool
    peak: int

    def __str__(self) -> str:
        return f"{self.name}, {self.resident_blocks} resident blocks, about {self.peak / GIGABYTE:.1f} GB"


class OutOfMemoryPlanError(ValueError):
    """No plan fits into the memory that is free."""


def plans(weights: Weights, demand: Demand) -> list[Plan]:
    """Every plan with its peak, from the fastest to the leanest."""
    count = len(weights.blocks)
    candidates = [("resident", count, True), ("encoders leave", count, False)]
    candidates += [("streamed", resident, False) for resident in range(count - 1, -1, -1)]
    return [
        Plan(name=name, resident_blocks=n, encoders_stay=stay, peak=peak_bytes(weights, demand, n, stay))
        for name, n, stay in candidates
    ]


def peak_bytes(weights: Weights, demand: Demand, resident_blocks: int, encoders_stay: bool) -> int:
    """The most that is on the device at once, over the stages of a request."""
    streamed = weights.blocks[resident_blocks:]
    always = weights.transformer - sum(streamed)
    slots = 2 * max(streamed, default=0)  # there only while the blocks are gone through
    encoders = weights.text_encoder + weights.image_encoder + weights.vae
    if encoders_stay:
        return always + encoders + demand.constants + max(demand.forward, demand.vae)
    stages = (
        weights.text_encoder,
        slots + demand.constants + weights.image_encoder,
        slots + demand.constants + demand.forward,
        demand.constants + weights.vae + demand.vae,
    )
    return always + max(stages)


def choose_plan(weights: Weights, demand: Demand, free: int, margin: float) -> Plan:
    """The fastest plan whose peak, with a share `margin` on top, fits into `free` bytes.

    Raises `OutOfMemoryPlanError` with both numbers when even the leanest does not.
    """
    candidates = plans(weights, demand)
    for plan in candidates:
        if plan.peak * (1 + margin) <= free:
            return plan
    leanest = candidates[-1]
    raise OutOfMemoryPlanError(
        f"{free / GIGABYTE:.1f} GB of the device's memory are free; the leanest plan ({leanest.name}) needs "
        f"{leanest.peak * (1 + margin) / GIGABYTE:.1f} GB for this size and number of persons"
    )


def measure_demand(config: ModelConfig, size: VideoSize, persons: int, texts: int = 2) -> Demand:
    """Run one block, and the VAE, on the meta device at this size, and count."""
    one_block = replace(config.transformer, num_layers=1)
    with torch.device(META):
        model = MultiTalkTransformer(one_block).eval()
        vae = VideoVAE(build_vae(config.vae).eval().to(getattr(torch, config.vae_dtype)))
    cast_on_meta(model, getattr(torch, config.dtype))
    context = _context(model, size, persons)
    layers = config.transformer.num_layers
    constants = layers * (
        texts * _bytes(context.text) + _bytes(context.image) + _bytes(context.speech) * (persons + 1) // persons
    )
    t, h, w = size.latent
    latent, condition = (torch.empty(1, channels, t, h, w, device=META) for channels in (16, 20))
    time = model.embed_time(torch.empty(1, device=META))
    pairs = config.transformer.head_dim // 2
    angles = torch.empty(1, size.grid[0] * size.grid[1] * size.grid[2], 1, pairs, device=META)
    forward = peak_of(lambda: model(latent, condition, time, Rotation(angles, angles), context))
    video = torch.empty(3, size.frames, size.height, size.width, device=META)
    vae_peak = max(peak_of(lambda: vae.decode(latent[0])), peak_of(lambda: vae.encode(video)))
    return Demand(constants=constants + 2 * angles.nbytes, forward=forward, vae=vae_peak)


def cast_on_meta(model: MultiTalkTransformer, dtype: torch.dtype) -> None:
    """The dtypes that loading gives, without weights."""
    state = {
        name: tensor.to(torch.float32 if stays_float32(name) else dtype) for name, tensor in model.state_dict().items()
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


def _bytes(constants: BlockConstants) -> int:
    return sum(tensor.nbytes for key_value in constants for tensor in key_value)
