"""Memory estimates: the code runs on the meta device at the request's size while its tensors are counted, in bytes."""

import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wan.checkpoint import Models, Precision
from wan.checkpoint.components import is_fp32_param
from wan.conditioning.latent import condition_latent
from wan.configs.schema import ModelConfig
from wan.decode import decode_video
from wan.modules.image import build_image_encoder
from wan.modules.quantized import quantize_like, quantized_layers
from wan.modules.rope import RotaryEmbedding
from wan.modules.speaker_labels import token_masks
from wan.modules.text import build_text_encoder
from wan.modules.transformer import Context, KVCache, MultiTalkTransformer
from wan.modules.vae import VideoVAE, build_vae
from wan.sampling.denoise import Denoiser
from wan.sampling.plan import plan_steps
from wan.types import TEMPORAL_STRIDE, VideoSize

META = torch.device("meta")
HOST = torch.device("cpu")
ESTIMATED_FRAMES = 2 * TEMPORAL_STRIDE + 1
"""Video frames of the VAE estimate: memory does not grow after the third latent frame."""
NUM_PROMPTS = 2
"""The prompt and the negative prompt."""


class PeakCounter(TorchDispatchMode):
    """Counts the bytes of live tensors created inside the context, and their maximum.

    `torch.distributed._tools.MemTracker` counts too, but is as private and fails at copies from the meta device.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.live = 0
        self.peak = 0
        self._counted: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = _empty_host_copy(func, args, kwargs or {})
        if result is None:
            result = func(*args, **(kwargs or {}))
        # The result of an operator may be a view of its arguments.
        inputs = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type == self.device.type:
                self.count(leaf.untyped_storage(), inputs)
        return result

    def count(self, storage: torch.UntypedStorage, inputs: set[int]) -> None:
        """Count the storage of a result, unless it is that of an input or was counted before."""
        key = storage._cdata
        if key in self._counted or key in inputs:
            return
        self._counted.add(key)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._discount, key, size)

    def _discount(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self.live -= size


def _empty_host_copy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Replace a meta-to-CPU copy, which raises, by an uninitialized CPU tensor; None for any other operator."""
    if func.overloadpacket not in (torch.ops.aten.to, torch.ops.aten._to_copy) or not args[0].is_meta:
        return None
    if not any(isinstance(value, torch.device) and value.type == "cpu" for value in (*args, *kwargs.values())):
        return None
    return torch.empty(args[0].shape, dtype=args[0].dtype, device="cpu")


def measure_peak(function: Callable[[], Any], device: torch.device = META) -> int:
    """Maximum of the live bytes that `function` allocates on `device`, its result included."""
    with torch.inference_mode(), PeakCounter(device) as counter:
        result = function()
        del result
    return counter.peak


def module_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightBytes:
    """Bytes of the loaded networks; `transformer` includes its `blocks`."""

    transformer: int
    blocks: tuple[int, ...]
    text_encoder: int
    image_encoder: int
    vae: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes of a request besides the weights: keys and values of all passes, and the peaks of the stages.

    `vae` includes color correction and the frames kept for the next chunk; `vae_offloaded` is the peak with
    the VAE's feature cache and those frames in host memory.
    """

    kv_cache: int
    forward: int
    vae: int
    vae_offloaded: int


def measure_weights(models: Models) -> WeightBytes:
    """Bytes of the networks at present, low-rank LoRA matrices beside quantized layers included."""
    blocks: list[nn.Module] = list(models.transformer.blocks.children())
    return WeightBytes(
        transformer=module_bytes(models.transformer),
        blocks=tuple(module_bytes(block) for block in blocks),
        text_encoder=module_bytes(models.text_encoder.model),
        image_encoder=module_bytes(models.image_encoder.model),
        vae=module_bytes(models.vae.model),
    )


def estimate_weights(config: ModelConfig, precision: Precision) -> WeightBytes:
    """Bytes of the networks before they are loaded; the few layers that stay in higher precision are not considered."""
    large_itemsize = 1 if precision != "bf16" else getattr(torch, config.dtype).itemsize
    with META:
        transformer, vae = MultiTalkTransformer(config.transformer), build_vae(config.vae)
        text_encoder, image_encoder = build_text_encoder(config.text_encoder), build_image_encoder(config.image_encoder)

    def size(module: nn.Module, itemsize: int) -> int:
        return sum(p.numel() for p in module.parameters()) * itemsize

    return WeightBytes(
        transformer=size(transformer, large_itemsize),
        blocks=tuple(size(block, large_itemsize) for block in transformer.blocks.children()),
        text_encoder=size(text_encoder, large_itemsize),
        image_encoder=size(image_encoder, getattr(torch, config.image_encoder_dtype).itemsize),
        vae=size(vae.encoder, torch.float32.itemsize) + size(vae.decoder, getattr(torch, config.vae_dtype).itemsize),
    )


def estimate_memory(
    config: ModelConfig, size: VideoSize, num_persons: int, transformer: nn.Module | None = None
) -> MemoryEstimate:
    """Count the tensors of two transformer blocks under three passes, of their caches, and of the VAE.

    Two blocks, because the first block, which the passes share, allocates differently from all later ones. Layers
    are quantized where those of `transformer` are.
    """
    two_blocks = replace(config.transformer, num_layers=2)
    with META:
        model = MultiTalkTransformer(two_blocks).eval()
        if transformer is not None:
            quantize_like(model, transformer)
        vae = VideoVAE(build_vae(config.vae).eval())
    vae.model.decoder.to(getattr(torch, config.vae_dtype))
    cast_meta(model, getattr(torch, config.dtype))
    speech, silence = (_context(model, size, count) for count in (num_persons, 1))
    per_block = NUM_PROMPTS * _block_bytes(speech.text) + _block_bytes(speech.image)
    per_block += _block_bytes(speech.speech) + _block_bytes(silence.speech)
    t, h, w = size.latent
    latent, condition = (torch.empty(channels, t, h, w, device=META) for channels in (16, 20))
    time = model.embed_time(torch.empty(1, device=META))
    pairs = config.transformer.head_dim // 2
    angles = torch.empty(1, size.grid[0] * size.grid[1] * size.grid[2], 1, pairs, device=META)
    contexts = {"cond": speech, "no_text": speech, "neither": silence}
    plan = plan_steps(tuple(contexts), (True, False), reuse_guidance=False)

    def two_steps() -> None:
        denoiser = Denoiser(model, condition, contexts, [time, time], RotaryEmbedding(angles, angles), size.grid, plan)
        for step in range(len(plan)):
            denoiser(latent, step)

    motion_frames = min(config.motion_frame, size.frames - TEMPORAL_STRIDE)
    return MemoryEstimate(
        kv_cache=config.transformer.num_layers * per_block + 2 * angles.nbytes,
        forward=measure_peak(two_steps),
        vae=estimate_vae(vae, size, META) + motion_frames * 3 * size.height * size.width * torch.float32.itemsize,
        vae_offloaded=estimate_vae(vae, size, HOST),
    )


def estimate_vae(vae: VideoVAE, size: VideoSize, offload_device: torch.device) -> int:
    """Peak of encoding and of decoding, with cache and finished frames on `offload_device`.

    Only `ESTIMATED_FRAMES` frames are processed: later slices repeat the third.
    """
    device = vae.model.device
    short = replace(size, frames=min(size.frames, ESTIMATED_FRAMES))
    latent = torch.empty(16, *short.latent, device=device)
    reference = torch.empty(3, size.height, size.width, device=device)
    known_frames = torch.empty(3, 1, size.height, size.width, device=offload_device)
    return max(
        measure_peak(lambda: deque(decode_video(vae, latent, reference, 1.0, offload_device), maxlen=0), device),
        measure_peak(lambda: condition_latent(vae, known_frames, short, offload_device), device),
    )


def cast_meta(model: MultiTalkTransformer, dtype: torch.dtype) -> None:
    """Cast a transformer on the meta device to the dtypes that loading gives it."""
    quantized = {f"{layer}.{name}" for layer in quantized_layers(model) for name in ("data", "scale")}
    state = {
        name: tensor if name in quantized else tensor.to(torch.float32 if is_fp32_param(name) else dtype)
        for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(state, assign=True)


def _context(model: MultiTalkTransformer, size: VideoSize, num_persons: int) -> Context:
    config = model.config
    window = (config.audio_window, config.audio_layers, config.audio_dim)
    masks = torch.empty(1, 3, *size.latent[1:], device=META)
    with torch.inference_mode():
        return Context(
            text=model.embed_text(torch.empty(1, config.text_len, config.text_dim, device=META)),
            image=model.embed_image(torch.empty(1, config.image_tokens, config.image_dim, device=META)),
            speech=model.embed_speech(torch.empty(1, num_persons, size.frames, *window, device=META)),
            masks=token_masks(masks, *size.grid[1:]) if num_persons == 2 else None,
        )


def _block_bytes(cache: KVCache) -> int:
    """Bytes of one block's keys and values."""
    return sum(tensor.nbytes for tensor in cache[0])
