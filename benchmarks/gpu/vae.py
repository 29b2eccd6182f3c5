"""Stage `vae`: encoding an image followed by zeros, encoding a moving video, and decoding."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.bench import Bench, format_size, weight_bytes
from benchmarks.gpu.memory import with_peak_memory
from benchmarks.gpu.networks import random_vae
from benchmarks.speed.timing import measure
from wan.conditioning.latent import condition_latent
from wan.configs.schema import VideoVAEConfig
from wan.decode import decode_video
from wan.modules.vae import VideoVAE, build_vae
from wan.types import VideoSize

META = torch.device("meta")
ENCODE_IMAGE, ENCODE_VIDEO, DECODE = "encode image", "encode video", "decode"


def measure_vae(bench: Bench) -> dict[str, Any]:
    """Each at the main sizes. Rooflines use the peak matmul rate, also for the encoder, which runs in float32."""
    network = random_vae(bench.config, bench.device)
    model_bytes = weight_bytes([network.model])
    rows: dict[str, Any] = {}
    for size in bench.main_sizes:
        flops = vae_flops(bench.config.vae, size)
        for name, call in vae_calls(network, size, bench.device).items():
            _, peak = with_peak_memory(call, bench.device, model_bytes)
            stats = measure(call, bench.device, bench.repeats, warm_ups=0)
            row = {**stats.with_roofline(flops[name] / bench.peak.matmul), "flops": flops[name], "peak_bytes": peak}
            rows.setdefault(format_size(size), {})[name] = row
    return rows


def measure_first_vae(bench: Bench) -> dict[str, Any]:
    """The first main size, without and with cuDNN's search for the fastest convolutions."""
    first = replace(bench, main_sizes=bench.main_sizes[:1])
    rows = {"heuristics": measure_vae(first)}
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        return rows | {"benchmark": measure_vae(first)}


def vae_flops(config: VideoVAEConfig, size: VideoSize) -> dict[str, float]:
    """FLOPs counted by PyTorch's FlopCounterMode on the meta device."""
    with META:
        network = VideoVAE(build_vae(config).eval())
    counts: dict[str, float] = {}
    for name, call in vae_calls(network, size, META).items():
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            call()
        counts[name] = float(counter.get_total_flops())
    return counts


def vae_calls(network: VideoVAE, size: VideoSize, device: torch.device) -> dict[str, Callable[[], Any]]:
    """The VAE calls of one chunk."""
    moving = torch.zeros(3, size.frames, size.height, size.width, device=device)
    latent = torch.zeros(16, *size.latent, device=device)
    return {
        ENCODE_IMAGE: lambda: condition_latent(network, moving[:, :1], size),
        ENCODE_VIDEO: lambda: network.encode(moving),
        DECODE: lambda: deque(decode_video(network, latent, moving[:, 0], 0.0, device), maxlen=0),
    }
