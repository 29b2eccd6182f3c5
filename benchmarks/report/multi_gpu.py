"""Table of docs/multi-gpu.md: bytes that GPUs exchange for one video, and a model of the seconds per step.

Nothing here is measured on several GPUs: the seconds of one forward are an estimate, the bandwidths are nominal.
"""

import math

from benchmarks.report.tables import markdown_table
from wan.configs import WAN_CONFIGS
from wan.configs.schema import TransformerConfig
from wan.sampling.mesh import MeshShape, choose_shape
from wan.types import VideoSize

SIZES = {"480p": VideoSize(frames=81, height=448, width=896), "720p": VideoSize(frames=81, height=704, width=1280)}
FORWARD_S = {"480p": 2.9, "720p": 10.9}
"""Estimated seconds of one pass of the 14B network on one H100-class GPU."""
BANDWIDTHS = {"NVLink": 300e9, "PCIe": 20e9}
"""Bytes per second from one GPU to the others."""
NUM_GPUS = (1, 2, 4, 5, 8)
NUM_PASSES = 2
LABEL_CLASSES = 3
FLOAT32_BYTES = 4


def exchanged_bytes(
    config: TransformerConfig, size: VideoSize, shape: MeshShape, num_passes: int, itemsize: int, *, labels: bool
) -> int:
    """Bytes that one rank sends in a step: tokens for heads and back in every block, velocities, speaker labels.

    The self-attention of the first block is computed once for all passes of a rank. Without the velocities that groups
    exchange, 8 MB a pass at 480p.
    """
    tokens, places = math.prod(size.grid), shape.places
    own_passes = math.ceil(num_passes / shape.passes)
    attentions = own_passes * (config.num_layers - 1) + 1
    sent = 4 * tokens * config.dim * itemsize * (places - 1) // places**2 * attentions
    velocity = tokens // places * config.out_dim * 4 * FLOAT32_BYTES
    sent += velocity * (places - 1) * own_passes
    if labels:
        sent += attentions * 2 * (places - 1) * tokens * LABEL_CLASSES * FLOAT32_BYTES // places
    return sent


def step_seconds(size_class: str, num_gpus: int, bandwidth: float) -> float:
    """Estimated seconds of a step: the slowest rank's share of the passes, and its exchange, without overlap."""
    config = WAN_CONFIGS["multitalk-14B"].transformer
    shape = choose_shape(num_gpus, NUM_PASSES, config.num_heads)
    work = FORWARD_S[size_class] * math.ceil(NUM_PASSES / shape.passes) / shape.places
    return work + exchanged_bytes(config, SIZES[size_class], shape, NUM_PASSES, 2, labels=True) / bandwidth


def render_table() -> str:
    """Markdown table: a row for each size and number of GPUs, for two persons and two guidance passes."""
    config = WAN_CONFIGS["multitalk-14B"].transformer
    rows = []
    for size_class, size in SIZES.items():
        for num_gpus in NUM_GPUS:
            shape = choose_shape(num_gpus, NUM_PASSES, config.num_heads)
            sent = exchanged_bytes(config, size, shape, NUM_PASSES, 2, labels=True)
            seconds = [step_seconds(size_class, num_gpus, bandwidth) for bandwidth in BANDWIDTHS.values()]
            cells = (f"{shape.passes} x {shape.places}", f"{sent / 1e9:.1f}", *(f"{each:.1f}" for each in seconds))
            rows.append((size_class, str(num_gpus), *cells))
    header = ("size", "GPUs", "groups x GPUs", "GB sent per step", *(f"s per step, {name}" for name in BANDWIDTHS))
    return markdown_table(header, rows)
