"""The layers of diffusers' Wan VAE on one slice of frames.

A causal convolution needs the two frames before a slice, which it reads from the `FeatureCache`. Activations are
channels-last, the fastest layout for normalization and convolution on CPUs and GPUs; frames are then contiguous, and
prepending cached frames is one copy.

Shapes: B = 1 batch, C channels, F frames, H x W.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from wan.modules.conv3d import convolve
from wan.modules.feature_cache import FeatureCache
from wan.modules.kernels.dispatch import use_triton

if TYPE_CHECKING:  # diffusers is imported on first use: it takes as long as torch
    from diffusers.models.autoencoders.autoencoder_kl_wan import (
        WanAttentionBlock,
        WanCausalConv3d,
        WanDecoder3d,
        WanEncoder3d,
        WanMidBlock,
        WanResample,
        WanResidualBlock,
        WanRMS_norm,
    )

CACHE_T = 2
"""Cached frames of a causal convolution (kernel size 3 in time)."""
_EPS = 1e-24
"""Avoids division by zero in the RMS norm; too small to change other results."""


def channels_last(x_BCFHW: Tensor) -> Tensor:
    """The tensor in channels-last memory format."""
    return x_BCFHW.contiguous(memory_format=torch.channels_last_3d)


def to_channels_last(network: nn.Module) -> None:
    """Convert the convolution weights of a network in place; inference tensors stay inference tensors."""
    formats = {nn.Conv3d: torch.channels_last_3d, nn.Conv2d: torch.channels_last}
    for layer in network.modules():
        for kind, memory_format in formats.items():
            if isinstance(layer, kind):
                with torch.inference_mode(layer.weight.is_inference()):
                    layer.weight.data = layer.weight.data.contiguous(memory_format=memory_format)


def run_layers(layers: Iterable[nn.Module], x_BCFHW: Tensor, features: FeatureCache, first: bool) -> Tensor:
    """Run layers in sequence; `first` marks the first slice of a clip."""
    for layer in layers:
        x_BCFHW = run_layer(layer, x_BCFHW, features, first)
    return x_BCFHW


def run_layer(layer: nn.Module, x_BCFHW: Tensor, features: FeatureCache, first: bool) -> Tensor:
    """Run one layer of the encoder or decoder."""
    from diffusers.models.autoencoders import autoencoder_kl_wan as wan_vae

    match layer:
        case wan_vae.WanCausalConv3d():
            return causal_conv(layer, x_BCFHW, features)
        case wan_vae.WanResidualBlock():
            return residual_block(layer, x_BCFHW, features)
        case wan_vae.WanAttentionBlock():
            return spatial_attention(layer, x_BCFHW)
        case wan_vae.WanResample():
            return resample(layer, x_BCFHW, features, first)
    raise AssertionError(type(layer))


def causal_conv(
    convolution: WanCausalConv3d, x_BCFHW: Tensor, features: FeatureCache, norm: WanRMS_norm | None = None
) -> Tensor:
    """Convolution of the cached frames (zeros for the first slice) and these, after SiLU of `norm` if it is given."""
    past = features[convolution]
    if past is None:
        past = x_BCFHW.new_zeros(1).expand(*x_BCFHW.shape[:2], CACHE_T, *x_BCFHW.shape[3:])
    frames = concat_frames(past, x_BCFHW) if norm is None else concat_norm_silu(past, x_BCFHW, norm.gamma.flatten())
    del x_BCFHW, past  # frees the largest tensors before the convolution allocates
    features[convolution] = frames[:, :, -CACHE_T:].clone()
    rows, columns = (size // 2 for size in convolution.kernel_size[1:])
    return convolve(convolution, frames, (0, rows, columns))


def concat_frames(past_BCFHW: Tensor, x_BCFHW: Tensor) -> Tensor:
    """Concatenate in time."""
    return torch.cat((past_BCFHW, x_BCFHW), dim=2, out=empty_frames(past_BCFHW, x_BCFHW))


def concat_norm_silu(past_BCFHW: Tensor, x_BCFHW: Tensor, weight_C: Tensor) -> Tensor:
    """Concatenate the past frames and SiLU of the RMS norm of x in time."""
    if not use_triton(x_BCFHW):
        return concat_frames(past_BCFHW, F.silu(rms_norm(x_BCFHW, weight_C), inplace=True))
    from wan.modules.kernels import vae_norm as kernels

    frames, num_past = empty_frames(past_BCFHW, x_BCFHW), past_BCFHW.shape[2]
    frames[:, :, :num_past].copy_(past_BCFHW)
    kernels.rms_norm_silu(x_BCFHW, weight_C, _EPS, frames[:, :, num_past:])
    return frames


def empty_frames(past_BCFHW: Tensor, x_BCFHW: Tensor) -> Tensor:
    """Room for both. The memory format is explicit, since that of a single frame is ambiguous."""
    sizes = [*x_BCFHW.shape]
    sizes[2] += past_BCFHW.shape[2]
    return torch.empty(sizes, dtype=x_BCFHW.dtype, device=x_BCFHW.device, memory_format=torch.channels_last_3d)


def residual_block(block: WanResidualBlock, x_BCFHW: Tensor, features: FeatureCache) -> Tensor:
    """Two causal convolutions and a shortcut."""
    y = causal_conv(block.conv1, x_BCFHW, features, block.norm1)
    y = causal_conv(block.conv2, y, features, block.norm2)
    shortcut = block.conv_shortcut
    return y.add_(x_BCFHW if isinstance(shortcut, nn.Identity) else convolve(shortcut, x_BCFHW))


def rms_norm(x_BCFHW: Tensor, weight_C: Tensor) -> Tensor:
    """RMS norm over channels with a weight per channel."""
    return F.rms_norm(x_BCFHW.movedim(1, -1), weight_C.shape, weight_C, _EPS).movedim(-1, 1)


def spatial_attention(block: WanAttentionBlock, x_BCFHW: Tensor) -> Tensor:
    """Single-head attention among the pixels of each frame; 1 x 1 convolutions computed as matrix products."""
    height, width = x_BCFHW.shape[-2:]
    pixels_FNC = rearrange(rms_norm(x_BCFHW, block.norm.gamma.flatten()), "b c f h w -> (b f) (h w) c")
    qkv = F.linear(pixels_FNC, block.to_qkv.weight.flatten(1), block.to_qkv.bias)
    q, k, v = (each[:, None] for each in qkv.chunk(3, dim=-1))
    y = F.scaled_dot_product_attention(q, k, v)[:, 0]
    y = F.linear(y, block.proj.weight.flatten(1), block.proj.bias)
    return rearrange(y, "f (h w) c -> 1 f h w c", h=height, w=width).movedim(-1, 1) + x_BCFHW


def resample(layer: WanResample, x_BCFHW: Tensor, features: FeatureCache, first: bool) -> Tensor:
    """Double or halve rows and columns, and for 3-D modes frames, except in the first slice."""
    if layer.mode == "upsample3d" and not first:
        x_BCFHW = unfold_frames(causal_conv(layer.time_conv, x_BCFHW, features))
    resize, convolution = layer.resample
    frames_FCHW = resize_frames(resize, x_BCFHW.transpose(1, 2).flatten(0, 1))
    y = convolution(frames_FCHW).unflatten(0, (1, -1)).transpose(1, 2)
    if layer.mode != "downsample3d":
        return y
    past = features[layer]
    features[layer] = y[:, :, -1:].clone()
    return y if past is None else convolve(layer.time_conv, concat_frames(past, y))


def resize_frames(resize: nn.Module, frames_FCHW: Tensor) -> Tensor:
    """Nearest-neighbor upsampling by two in the dtype of the input, or else the layer's zero padding."""
    if isinstance(resize, nn.Upsample):
        return F.interpolate(frames_FCHW, scale_factor=2.0, mode="nearest")
    return resize(frames_FCHW)


def unfold_frames(x_BCFHW: Tensor) -> Tensor:
    """Two frames from each frame: the two halves of its channels."""
    pairs = rearrange(x_BCFHW, "b (two c) f h w -> b (f two) h w c", two=2)
    return pairs.movedim(-1, 1)


def head(network: WanEncoder3d | WanDecoder3d, x_BCFHW: Tensor, features: FeatureCache) -> Tensor:
    """Final norm, SiLU and convolution of the encoder or decoder."""
    return causal_conv(network.conv_out, x_BCFHW, features, network.norm_out)


def mid_layers(block: WanMidBlock) -> Iterator[nn.Module]:
    """Layers of the middle block in order."""
    yield block.resnets[0]
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        yield attention
        yield resnet


def decoder_layers(decoder: WanDecoder3d) -> list[nn.Module]:
    """Layers in order, without the head."""
    layers = [decoder.conv_in, *mid_layers(decoder.mid_block)]
    for block in decoder.up_blocks:
        layers += [*block.resnets, *(block.upsamplers or ())]
    return layers


def encoder_stages(encoder: WanEncoder3d) -> list[list[nn.Module]]:
    """Layers in order, without the head, split after each downsampling layer."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample

    stages: list[list[nn.Module]] = [[encoder.conv_in]]
    for layer in encoder.down_blocks:
        stages[-1].append(layer)
        if isinstance(layer, WanResample):
            stages.append([])
    stages[-1] += mid_layers(encoder.mid_block)
    return stages


def receptive_field(layer: nn.Module) -> int:
    """Number of frames before a slice that the layer's output depends on."""
    from diffusers.models.autoencoders import autoencoder_kl_wan as wan_vae

    match layer:
        case wan_vae.WanCausalConv3d():
            return CACHE_T
        case wan_vae.WanResidualBlock():
            return 2 * CACHE_T
        case wan_vae.WanResample(mode="downsample3d"):
            return 1
    return 0
