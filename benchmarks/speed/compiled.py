"""`python -m benchmarks.speed.compiled`: one block in each form, at several sizes of video.

The forms are the plain one, the same under `torch.compile` with dynamic shapes, and, on a GPU, Triton kernels. The
result is written as JSON: seconds, the error against the plain form, and how many graphs there are after each size.
"""

import argparse
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.report.environment import RESULTS, describe, environment, versions
from benchmarks.speed.timing import measure_in_turn
from wan.checkpoint.components import is_fp32_param
from wan.configs import WAN_CONFIGS
from wan.configs.schema import ModelConfig, TransformerConfig
from wan.modules import attention as attention_module
from wan.modules.attention import KeyValue
from wan.modules.kernels.dispatch import force_backend
from wan.modules.rope import video_rope
from wan.modules.speaker_labels import token_masks
from wan.modules.transformer import Block
from wan.types import VideoSize

logger = logging.getLogger(__name__)

Form = Callable[..., Tensor]


def build_block(config: TransformerConfig, device: torch.device, dtype: torch.dtype) -> Block:
    """A block with random weights, made where it runs, in the dtypes that loading gives."""
    with device:
        block = Block(config).eval().requires_grad_(False)
    state = {n: t if is_fp32_param(n) else t.to(dtype) for n, t in block.state_dict().items()}
    block.load_state_dict(state, assign=True)
    return block


def block_inputs(config: TransformerConfig, size: VideoSize, persons: int, like: Tensor) -> tuple[Any, ...]:
    """Random arguments of `Block.forward`, on the device and in the dtype of `like`."""
    generator = torch.Generator(like.device).manual_seed(0)
    frames, rows, columns = size.grid

    def draw(*shape: int, dtype: torch.dtype = like.dtype) -> Tensor:
        return torch.randn(shape, generator=generator, device=like.device).to(dtype)

    def key_value(batch: int, keys: int) -> KeyValue:
        return KeyValue(*(draw(batch, keys, config.num_heads, config.head_dim) for _ in range(2)))

    halves = torch.zeros(1, 3, rows, columns, device=like.device)
    halves[:, 0, :, : columns // 2], halves[:, 1, :, columns // 2 :] = 1, 1
    constants = (
        key_value(1, config.text_len),
        key_value(1, config.image_tokens),
        key_value(frames, persons * config.context_tokens),
    )
    return (
        draw(1, frames * rows * columns, config.dim),
        draw(1, 6, config.dim, dtype=torch.float32),
        video_rope(size.grid, config.head_dim, like.device),
        constants,
        token_masks(halves, rows, columns) if persons == 2 else None,
    )


def block_forms(block: Block, backend: str, device: torch.device) -> dict[str, Form]:
    """The ways to run a block."""
    import torch._dynamo

    torch._dynamo.reset()
    compiled = torch.compile(block, dynamic=True, backend=backend)

    def within(context: Callable[[], AbstractContextManager[None]], call: Form) -> Form:
        def run(*inputs: Any) -> Tensor:
            with context():
                return call(*inputs)

        return run

    found = {"plain": within(lambda: force_backend("eager"), block), "compiled": within(nullcontext, compiled)}
    if device.type == "cuda":
        found["triton"] = within(lambda: force_backend("triton"), block)
    return found


def measure(calls: Mapping[str, Form], repeats: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Median, extremes and error of each call, taken in turn."""
    expected = calls["plain"]().float()
    errors = {name: ((call().float() - expected).norm() / expected.norm()).item() for name, call in calls.items()}
    return {
        name: {**asdict(spread), "error": errors[name]}
        for name, spread in measure_in_turn(calls, device, repeats).items()
    }


def compare(config: ModelConfig, sizes: list[VideoSize], persons: int, repeats: int, backend: str) -> dict[str, Any]:
    """Every form at every size; `backend` is torch.compile's."""
    from torch._dynamo.utils import counters

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    block = build_block(config.transformer, device, dtype)
    forms = block_forms(block, backend, device)
    counters.clear()
    rows = {}
    with torch.inference_mode():
        for size in sizes:
            inputs = block_inputs(config.transformer, size, persons, block.self_attn.q.weight)
            calls = {name: lambda form=form, inputs=inputs: form(*inputs) for name, form in forms.items()}
            row: dict[str, Any] = measure(calls, repeats, device)
            rows[f"{size.height}x{size.width}"] = {**row, "graphs": counters["stats"]["unique_graphs"]}
    return {
        "model": config.name,
        "persons": persons,
        "frames": sizes[0].frames,
        "device": describe(device),
        "libraries": versions(),
        "dtype": str(dtype),
        "attention": {shape.kind: name for shape, name in attention_module.chosen_backends().items()},
        "sizes": rows,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.compiled", description=__doc__)
    parser.add_argument("--model", choices=sorted(WAN_CONFIGS), default="multitalk-14B")
    parser.add_argument("--persons", type=int, choices=(1, 2), default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--sizes", type=int, default=0, help="how many sizes of each class; 0 for all")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--output", type=Path, default=RESULTS / "compiled.json")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = WAN_CONFIGS[options.model]
    sizes = [
        VideoSize(frames=config.frame_num, height=height, width=width)
        for buckets in config.buckets.values()
        for height, width in list(buckets.values())[: options.sizes or None]
    ]
    result = compare(config, sizes, options.persons, options.repeats, options.backend)
    document = {**environment("benchmarks.speed.compiled"), **result}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=2) + "\n")
    logger.info("%s", json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
