"""`python -m benchmarks.speed.compiled`: one transformer block eager, compiled and with Triton kernels.

Compares eager PyTorch, `torch.compile` with dynamic shapes and, on a GPU, our Triton kernels. For every video size it
records seconds, the relative error to eager, and the number of graphs compiled so far. Written to
benchmarks/results/compiled.json.
"""

from collections.abc import Sequence

from benchmarks.report.defaults import RESULTS
from src.command_line import Parser, launch, log_messages, whole_number
from wan.configs import WAN_CONFIGS


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m benchmarks.speed.compiled", __doc__)
    parser.add_argument("--model", choices=sorted(WAN_CONFIGS), default="multitalk-14B", help="model configuration")
    parser.add_argument("--persons", type=int, choices=(1, 2), default=2, help="number of persons")
    parser.add_argument("--repeats", type=whole_number(), default=10, help="measurements of each variant")
    parser.add_argument("--sizes", type=whole_number(0), default=0, help="sizes measured of each size class; 0 for all")
    parser.add_argument("--backend", default="inductor", help="backend of torch.compile")
    parser.add_output("--output", rewrite_default=True, default=RESULTS / "compiled.json", help="JSON file to write")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("benchmarks.speed.compiled", make_parser)

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from benchmarks.report.environment import describe_device, environment, library_versions, write_result
from benchmarks.speed.ablation import relative_error
from benchmarks.speed.timing import measure_interleaved
from wan.checkpoint.components import is_fp32_param
from wan.configs.schema import ModelConfig, TransformerConfig
from wan.modules import attention as attention_module
from wan.modules.attention import KeyValue
from wan.modules.kernels.dispatch import force_backend
from wan.modules.rope import video_rope
from wan.modules.speaker_labels import token_masks
from wan.modules.transformer import Block
from wan.types import VideoSize

logger = logging.getLogger(__name__)

BlockCall = Callable[..., Tensor]


def build_block(config: TransformerConfig, device: torch.device, dtype: torch.dtype) -> Block:
    """A block with random weights on the device, in the dtypes that loading a checkpoint gives."""
    with device:
        block = Block(config).eval().requires_grad_(False)
    state = {n: t if is_fp32_param(n) else t.to(dtype) for n, t in block.state_dict().items()}
    block.load_state_dict(state, assign=True)
    return block


def block_inputs(config: TransformerConfig, size: VideoSize, persons: int, like: Tensor) -> tuple[Any, ...]:
    """Random arguments of `Block.forward`, with the device and dtype of `like`."""
    generator = torch.Generator(like.device).manual_seed(0)
    frames, rows, columns = size.grid

    def draw(*shape: int, dtype: torch.dtype = like.dtype) -> Tensor:
        return torch.randn(shape, generator=generator, device=like.device).to(dtype)

    def key_value(batch: int, keys: int) -> KeyValue:
        return KeyValue(*(draw(batch, keys, config.num_heads, config.head_dim) for _ in range(2)))

    masks = torch.zeros(1, 3, rows, columns, device=like.device)
    masks[:, 0, :, : columns // 2], masks[:, 1, :, columns // 2 :] = 1, 1
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
        token_masks(masks, rows, columns) if persons == 2 else None,
    )


def block_variants(block: Block, backend: str, device: torch.device) -> dict[str, BlockCall]:
    """The block eager, compiled by a torch.compile backend and, on a GPU, with Triton kernels."""
    import torch._dynamo

    torch._dynamo.reset()
    compiled = torch.compile(block, dynamic=True, backend=backend)

    def inside(context: Callable[[], AbstractContextManager[None]], call: BlockCall) -> BlockCall:
        def run(*inputs: Any) -> Tensor:
            with context():
                return call(*inputs)

        return run

    variants = {"eager": inside(lambda: force_backend("eager"), block), "compiled": inside(nullcontext, compiled)}
    if device.type == "cuda":
        variants["triton"] = inside(lambda: force_backend("triton"), block)
    return variants


def measure(calls: Mapping[str, BlockCall], repeats: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Seconds of each call, measured interleaved, and its relative error to eager."""
    reference = calls["eager"]().float()
    errors = {name: relative_error(call().float(), reference) for name, call in calls.items()}
    return {
        name: {**asdict(stats), "relative_error": errors[name]}
        for name, stats in measure_interleaved(calls, device, repeats).items()
    }


def compare(config: ModelConfig, sizes: list[VideoSize], persons: int, repeats: int, backend: str) -> dict[str, Any]:
    """Measure every variant at every size; `backend` is that of torch.compile."""
    from torch._dynamo.utils import counters

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    block = build_block(config.transformer, device, dtype)
    variants = block_variants(block, backend, device)
    counters.clear()
    rows = {}
    with torch.inference_mode():
        for size in sizes:
            inputs = block_inputs(config.transformer, size, persons, block.self_attn.q.weight)
            calls = {name: lambda call=call, inputs=inputs: call(*inputs) for name, call in variants.items()}
            row: dict[str, Any] = measure(calls, repeats, device)
            rows[f"{size.height}x{size.width}"] = {**row, "graphs": counters["stats"]["unique_graphs"]}
    return {
        "model": config.name,
        "persons": persons,
        "frames": sizes[0].frames,
        "device": describe_device(device),
        "libraries": library_versions(),
        "dtype": str(dtype),
        "attention": {shape.kind: name for shape, name in attention_module.chosen_backends().items()},
        "sizes": rows,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = make_parser().parse_args(argv)
    log_messages()
    config = WAN_CONFIGS[args.model]
    sizes = [
        VideoSize(frames=config.frame_num, height=height, width=width)
        for buckets in config.buckets.values()
        for height, width in list(buckets.values())[: args.sizes or None]
    ]
    result = compare(config, sizes, args.persons, args.repeats, args.backend)
    document = {**environment("benchmarks.speed.compiled"), **result}
    write_result(args.output, document)
    logger.info("%s", json.dumps(document, indent=2))
