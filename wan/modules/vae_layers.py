"""The layers of diffusers' Wan VAE on one slice of time.

A causal convolution looks two frames back: into its features, the last frames of what it was given before. Channels lie
last in memory, where normalising over them and convolving are fastest, on a processor and on a GPU; a frame then is one
piece, and frames of the past are put before a slice by a plain copy.

Shapes: B = 1 batch, C channels, F frames, H x W.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
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
from einops import rearrange
from torch import Tensor, nn

from wan.modules.conv3d import convolve

CACHE_T = 2
"""Frames before a slice that a causal convolution sees."""
_TINY = 1e-24
"""Keeps the root mean square of zeros from dividing by zero, and changes nothing else."""


class FeatureCache:
    """What layers keep of past frames; None before they have seen any.

    Tensors rest on one device and are handed out on another.
    """

    def __init__(self, device: torch.device, rest: torch.device) -> None:
        self.device = device
        self.rest = rest
        self.kept: dict[Any, Any] = {}

    def __getitem__(self, layer: Any) -> Any:
        kept = self.kept.get(layer)
        return kept.to(self.device) if isinstance(kept, Tensor) else kept

    def __setitem__(self, layer: Any, kept: Tensor) -> None:
        self.kept[layer] = kept.to(self.rest)


def channels_last(x_BCFHW: Tensor) -> Tensor:
    """The same values with channels last in memory."""
    return x_BCFHW.contiguous(memory_format=torch.channels_last_3d)


def to_channels_last(network: nn.Module) -> None:
    """The same for the weights of a network's convolutions; what inference mode made stays so, and what it did not."""
    formats = {nn.Conv3d: torch.channels_last_3d, nn.Conv2d: torch.channels_last}
    for layer in network.modules():
        for kind, memory_format in formats.items():
            if isinstance(layer, kind):
                with torch.inference_mode(layer.weight.is_inference()):
                    layer.weight.data = layer.weight.data.contiguous(memory_format=memory_format)


def run_layers(layers: Iterable[nn.Module], x_BCFHW: Tensor, features: FeatureCache, first: bool) -> Tensor:
    """One layer after the other; `first` says that this is the first slice of the clip."""
    for layer in layers:
        x_BCFHW = run_layer(layer, x_BCFHW, features, first)
    return x_BCFHW


def run_layer(layer: nn.Module, x_BCFHW: Tensor, features: FeatureCache, first: bool) -> Tensor:
    """A layer of the encoder or the decoder."""
    match layer:
        case WanCausalConv3d():
            return causal(layer, x_BCFHW, features)
        case WanResidualBlock():
            return residual(layer, x_BCFHW, features)
        case WanAttentionBlock():
            return attend(layer, x_BCFHW)
        case WanResample():
            return resample(layer, x_BCFHW, features, first)
    raise AssertionError(type(layer))


def causal(convolution: WanCausalConv3d, x_BCFHW: Tensor, features: FeatureCache) -> Tensor:
    """The convolution of past frames, or zeros, and these."""
    past = features[convolution]
    if past is None:
        past = x_BCFHW.new_zeros(1).expand(*x_BCFHW.shape[:2], CACHE_T, *x_BCFHW.shape[3:])
    frames = concat_frames(past, x_BCFHW)
    del x_BCFHW, past  # the largest tensors there are; nobody else holds them now
    features[convolution] = frames[:, :, -CACHE_T:].clone()
    rows, columns = (size // 2 for size in convolution.kernel_size[1:])
    return convolve(convolution, frames, (0, rows, columns))


def concat_frames(past_BCFHW: Tensor, x_BCFHW: Tensor) -> Tensor:
    """One after the other; the result's layout is told, since that of a single frame does not tell itself."""
    sizes = [*x_BCFHW.shape]
    sizes[2] += past_BCFHW.shape[2]
    frames = torch.empty(sizes, dtype=x_BCFHW.dtype, device=x_BCFHW.device, memory_format=torch.channels_last_3d)
    return torch.cat((past_BCFHW, x_BCFHW), dim=2, out=frames)


def residual(block: WanResidualBlock, x_BCFHW: Tensor, features: FeatureCache) -> Tensor:
    """Two convolutions beside a shortcut."""
    y = causal(block.conv1, norm_silu(block.norm1, x_BCFHW), features)
    y = causal(block.conv2, norm_silu(block.norm2, y), features)
    shortcut = block.conv_shortcut
    return y.add_(x_BCFHW if isinstance(shortcut, nn.Identity) else convolve(shortcut, x_BCFHW))


def norm_silu(norm: WanRMS_norm, x_BCFHW: Tensor) -> Tensor:
    """SiLU of the channels over their root mean square."""
    return F.silu(normalize(norm, x_BCFHW), inplace=True)


def normalize(norm: WanRMS_norm, x_BCFHW: Tensor) -> Tensor:
    """Channels over their root mean square, times a weight each."""
    return F.rms_norm(x_BCFHW.movedim(1, -1), norm.gamma.shape[:1], norm.gamma.flatten(), _TINY).movedim(-1, 1)


def attend(block: WanAttentionBlock, x_BCFHW: Tensor) -> Tensor:
    """Attention among the places of each frame, with one head; products instead of convolutions of one place."""
    height, width = x_BCFHW.shape[-2:]
    places = rearrange(normalize(block.norm, x_BCFHW), "b c f h w -> (b f) (h w) c")
    qkv = F.linear(places, block.to_qkv.weight.flatten(1), block.to_qkv.bias)
    q, k, v = (each[:, None] for each in qkv.chunk(3, dim=-1))
    y = F.scaled_dot_product_attention(q, k, v)[:, 0]
    y = F.linear(y, block.proj.weight.flatten(1), block.proj.bias)
    return rearrange(y, "f (h w) c -> 1 f h w c", h=height, w=width).movedim(-1, 1) + x_BCFHW


def resample(layer: WanResample, x_BCFHW: Tensor, features: FeatureCache, first: bool) -> Tensor:
    """Twice or half as many rows and columns, and frames where the layer does that too; never in the first slice."""
    if layer.mode == "upsample3d" and not first:
        x_BCFHW = unfold_frames(causal(layer.time_conv, x_BCFHW, features))
    stretch, convolution = layer.resample
    frames_FCHW = stretch_frames(stretch, x_BCFHW.transpose(1, 2).flatten(0, 1))
    y = convolution(frames_FCHW).unflatten(0, (1, -1)).transpose(1, 2)
    if layer.mode != "downsample3d":
        return y
    past = features[layer]
    features[layer] = y[:, :, -1:].clone()
    return y if past is None else convolve(layer.time_conv, concat_frames(past, y))


def stretch_frames(stretch: nn.Module, frames_FCHW: Tensor) -> Tensor:
    """Every pixel twice in both directions, in its own dtype; or a row and a column of zeros at the end."""
    if isinstance(stretch, nn.Upsample):
        return F.interpolate(frames_FCHW, scale_factor=2.0, mode="nearest")
    return stretch(frames_FCHW)


def unfold_frames(x_BCFHW: Tensor) -> Tensor:
    """Two frames from the two halves of the channels of each."""
    pairs = rearrange(x_BCFHW, "b (two c) f h w -> b (f two) h w c", two=2)
    return pairs.movedim(-1, 1)


def head(network: WanEncoder3d | WanDecoder3d, x_BCFHW: Tensor, features: FeatureCache) -> Tensor:
    """The last norm and convolution of either."""
    return causal(network.conv_out, norm_silu(network.norm_out, x_BCFHW), features)


def middle(block: WanMidBlock) -> Iterator[nn.Module]:
    """Residual blocks with attention between them."""
    yield block.resnets[0]
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        yield attention
        yield resnet


def decoder_layers(decoder: WanDecoder3d) -> list[nn.Module]:
    """In order, without the head."""
    layers = [decoder.conv_in, *middle(decoder.mid_block)]
    for block in decoder.up_blocks:
        layers += [*block.resnets, *(block.upsamplers or ())]
    return layers


def encoder_stages(encoder: WanEncoder3d) -> list[list[nn.Module]]:
    """In order, without the head: the layers up to each halving, and the rest."""
    stages: list[list[nn.Module]] = [[encoder.conv_in]]
    for layer in encoder.down_blocks:
        stages[-1].append(layer)
        if isinstance(layer, WanResample):
            stages.append([])
    stages[-1] += middle(encoder.mid_block)
    return stages


def receptive_field(layer: nn.Module) -> int:
    """How many frames before a slice the layer's output depends on."""
    match layer:
        case WanCausalConv3d():
            return CACHE_T
        case WanResidualBlock():
            return 2 * CACHE_T
        case WanResample(mode="downsample3d"):
            return 1
    return 0
