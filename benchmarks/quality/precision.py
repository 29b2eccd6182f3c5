"""`python -m benchmarks.quality.precision`: relative error of a forward in bf16, fp8 and int8.

Measured on the built-in model and on one block of the 14B width (about 3 GB of memory; `--tiny` skips it) with random
weights: the errors show the rounding of layers of these shapes, but not the effect of outliers in trained weights.
Errors are relative L2 errors of the velocity and of the blocks' residual, to a float32 and to a bf16 forward. fp8
matmuls are emulated: inputs are quantized by row as on a GPU, and the product is computed in float32. Written to
benchmarks/results/precision.json. The exit status is 1 if an error exceeds its limit.
"""

from collections.abc import Sequence

from benchmarks.report.defaults import RESULTS
from src.command_line import Parser, launch, log_messages


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("-m benchmarks.quality.precision", __doc__)
    parser.add_argument("--tiny", action="store_true", help="skip the block of the 14B width")
    parser.add_output("--output", rewrite_default=True, default=RESULTS / "precision.json", help="JSON file to write")
    return parser


if __name__ == "__main__":  # before the imports below, which take seconds
    launch("benchmarks.quality.precision", make_parser)

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.report.environment import environment, write_result
from benchmarks.speed.ablation import relative_error
from benchmarks.speed.forward import draw_context
from wan.checkpoint.component import Component, load_component
from wan.checkpoint.components import QUANTIZED_DTYPES, is_fp32_param
from wan.configs import WAN_CONFIGS
from wan.configs.schema import TransformerConfig
from wan.modules import quantized
from wan.modules.quantized import QuantizedRows, dequantize, quantize_rows
from wan.modules.rope import video_rope
from wan.modules.transformer import MultiTalkTransformer
from wan.types import VideoSize

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")
FP8_MATMUL = "fp8, fp8 matmul"
PRECISIONS = ("bf16", "fp8", FP8_MATMUL, "int8")
MAX_ERROR = {"bf16": 0.02, "fp8": 0.06, FP8_MATMUL: 0.08, "int8": 0.03}
"""Limits of the relative error of the residual to float32."""
TIMESTEP = 500.0


def emulated_fp8_linear(
    x: Tensor, data_OI: Tensor, scale_O1: Tensor, bias: Tensor | None, rows: QuantizedRows | None = None
) -> Tensor:
    """Emulate `fp8_linear` on a CPU."""
    data_RI, scale_R1 = quantize_rows(x, data_OI.dtype)
    y = F.linear(data_RI.float() * scale_R1, dequantize(data_OI, scale_O1, torch.float32)).to(x.dtype)
    return y if bias is None else y + bias


@contextmanager
def fp8_matmul(enabled: bool) -> Iterator[None]:
    """Make quantized layers multiply in emulated fp8."""
    if not enabled:
        yield
        return
    with (
        mock.patch.object(quantized, "supports_fp8_matmul", return_value=True),
        mock.patch.object(quantized, "fp8_linear", emulated_fp8_linear),
    ):
        yield


def forward(state: dict[str, Tensor], config: TransformerConfig, size: VideoSize, precision: str) -> dict[str, Tensor]:
    """Velocity and residual of the blocks of one forward with two persons."""
    model = load_component(
        Component(
            build=lambda: MultiTalkTransformer(config),
            to_file_key=str,
            tensors=state,
            dtype=torch.float32 if precision == "float32" else torch.bfloat16,
            keep_in_fp32=is_fp32_param,
            quantize_to=QUANTIZED_DTYPES.get(precision.split(",")[0]),
            fp8_matmul=True,
        ),
        CPU,
    )
    generator = torch.Generator().manual_seed(0)
    context = draw_context(model, size, 2, generator)
    latent, condition = (torch.randn(1, channels, *size.latent, generator=generator) for channels in (16, 20))
    time = model.embed_time(torch.tensor([TIMESTEP]))
    rope = video_rope(size.grid, config.head_dim, "cpu")
    with fp8_matmul(precision == FP8_MATMUL):
        x = model.patchify(latent, condition)
        y = model.forward_blocks(x, time, rope, context)
    return {"blocks": y.float() - x.float(), "velocity": model.unpatchify(y, time, size.grid)}


def compare(config: TransformerConfig, size: VideoSize) -> dict[str, Any]:
    """Relative errors of every precision."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        state = MultiTalkTransformer(config).state_dict()
        float32 = forward(state, config, size, "float32")
        results = {precision: forward(state, config, size, precision) for precision in PRECISIONS}
    return {
        precision: {
            f"{output} against {name}": relative_error(result[output], reference[output])
            for output in result
            for name, reference in (("float32", float32), ("bf16", results["bf16"]))
            if result is not reference
        }
        for precision, result in results.items()
    }


def over_limit(errors: dict[str, Any]) -> dict[str, float]:
    """Residual errors that exceed their limits, by precision."""
    residual = {precision: errors[precision]["blocks against float32"] for precision in PRECISIONS}
    return {precision: error for precision, error in residual.items() if error > MAX_ERROR[precision]}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = make_parser().parse_args(argv)
    log_messages()
    small, large = (WAN_CONFIGS[name].transformer for name in ("multitalk-puppet", "multitalk-14B"))
    models = {"built-in model": compare(small, VideoSize(frames=33, height=64, width=128))}
    if not args.tiny:
        size = VideoSize(frames=9, height=128, width=128)
        models["one block of the 14B model"] = compare(replace(large, num_layers=1), size)
    document = {**environment("benchmarks.quality.precision"), "limits": MAX_ERROR, "relative_errors": models}
    write_result(args.output, document)
    logger.info("%s", json.dumps(document, indent=2))
    failed = {
        f"{model}, {precision}": error for model in models for precision, error in over_limit(models[model]).items()
    }
    for case, error in failed.items():
        logger.error("%s: relative error %.1e exceeds its limit", case, error)
    return 1 if failed else 0
