"""The VAE's work: encoding a picture with the zeros that follow it, encoding frames that all move, and decoding."""

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.bench import Bench, label, weight_bytes
from benchmarks.gpu.memory import with_peak
from benchmarks.gpu.networks import draw_vae
from benchmarks.speed.timing import measure
from wan.conditioning.latent import condition_latent
from wan.configs.schema import VideoVAEConfig
from wan.decode import decode_video
from wan.modules.vae import VideoVAE, build_vae
from wan.types import VideoSize

META = torch.device("meta")
PICTURE, FRAMES, DECODE = "encode a picture", "encode every frame", "decode"


def measure_vae(bench: Bench) -> dict[str, Any]:
    """Each at the named sizes. Floors are at the rate of the large product, also of the encoder, which is float32."""
    network = draw_vae(bench.config, bench.device)
    held = weight_bytes([network.model])
    rows: dict[str, Any] = {}
    for size in bench.named:
        counted = vae_flops(bench.config.vae, size)
        for name, call in calls(network, size, bench.device).items():
            _, peak = with_peak(call, bench.device, held)
            spread = measure(call, bench.device, bench.repeats, warm_ups=0)
            floor = counted[name] / bench.ceilings.product
            row = {**spread.over(floor), "flops": counted[name], "peak_bytes": peak}
            rows.setdefault(label(size), {})[name] = row
    return rows


def vae_flops(config: VideoVAEConfig, size: VideoSize) -> dict[str, float]:
    """Operations as PyTorch counts them, of the same code on the meta device."""
    with META:
        network = VideoVAE(build_vae(config).eval())
    counts: dict[str, float] = {}
    for name, call in calls(network, size, META).items():
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            call()
        counts[name] = float(counter.get_total_flops())
    return counts


def calls(network: VideoVAE, size: VideoSize, device: torch.device) -> dict[str, Callable[[], Any]]:
    """What a chunk asks of the VAE."""
    moving = torch.zeros(3, size.frames, size.height, size.width, device=device)
    latent = torch.zeros(16, *size.latent, device=device)
    return {
        PICTURE: lambda: condition_latent(network, moving[:, :1], size),
        FRAMES: lambda: network.encode(moving),
        DECODE: lambda: deque(decode_video(network, latent, moving[:, 0], 0.0, device), maxlen=0),
    }
