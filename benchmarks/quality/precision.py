"""`python -m benchmarks.quality.precision`: what bf16, fp8 and int8 change in a forward, as relative errors.

Of the small model, and of one block at the 14B width (about 3 GB of memory). The weights are random, so that the
figures tell what rounding does to layers of these shapes, and not what it does to a trained network, whose weights
have outliers. Errors are relative in the L2 norm, of the velocity, and of what the blocks add to the token stream,
against a forward in float32 and one in bf16. fp8 products are computed as the GPU does, row scales and all, but in
float32 after rounding. The result is JSON in `benchmarks/results/`; status 1 if an error is beyond its limit.
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.report.environment import RESULTS, environment
from benchmarks.speed.forward import context_of
from wan.checkpoint.component import Component, load_component
from wan.checkpoint.components import QUANTIZED_DTYPES, is_fp32_param
from wan.configs import WAN_CONFIGS
from wan.configs.schema import TransformerConfig
from wan.modules import quantized
from wan.modules.quantized import dequantize, quantize_rows
from wan.modules.rope import video_rope
from wan.modules.transformer import MultiTalkTransformer
from wan.types import VideoSize

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")
PRODUCTS = "fp8, products in fp8"
PRECISIONS = ("bf16", "fp8", PRODUCTS, "int8")
LIMITS = {"bf16": 0.02, "fp8": 0.06, PRODUCTS: 0.08, "int8": 0.03}
"""Of what the blocks add, against float32."""
STEP = 500.0


def rounded_product(x: Tensor, data_OI: Tensor, scale_O1: Tensor, bias: Tensor | None) -> Tensor:
    """What `fp8_linear` computes, on a processor."""
    data_RI, scale_R1 = quantize_rows(x, data_OI.dtype)
    y = F.linear(data_RI.float() * scale_R1, dequantize(data_OI, scale_O1, torch.float32)).to(x.dtype)
    return y if bias is None else y + bias


@contextmanager
def products(emulated: bool) -> Iterator[None]:
    """Let eight-bit layers multiply in fp8, as far as a processor can."""
    if not emulated:
        yield
        return
    with (
        mock.patch.object(quantized, "supports_fp8_matmul", return_value=True),
        mock.patch.object(quantized, "fp8_linear", rounded_product),
    ):
        yield


def forward(state: dict[str, Tensor], config: TransformerConfig, size: VideoSize, precision: str) -> dict[str, Tensor]:
    """Velocity, and what the blocks add to the token stream, of one forward with two persons."""
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
    context = context_of(model, size, 2, generator)
    latent, condition = (torch.randn(1, channels, *size.latent, generator=generator) for channels in (16, 20))
    time = model.embed_time(torch.tensor([STEP]))
    rotation = video_rope(size.grid, config.head_dim, "cpu")
    with products(precision == PRODUCTS):
        x = model.patchify(latent, condition)
        y = model.forward_blocks(x, time, rotation, context)
    return {"blocks": y.float() - x.float(), "velocity": model.unpatchify(y, time, size.grid)}


def relative(value: Tensor, reference: Tensor) -> float:
    """Relative L2 error."""
    return float((value - reference).norm() / reference.norm())


def compare(config: TransformerConfig, size: VideoSize) -> dict[str, Any]:
    """Errors of every precision."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        state = MultiTalkTransformer(config).state_dict()
        exact = forward(state, config, size, "float32")
        results = {precision: forward(state, config, size, precision) for precision in PRECISIONS}
    return {
        precision: {
            f"{output} against {name}": relative(result[output], reference[output])
            for output in result
            for name, reference in (("float32", exact), ("bf16", results["bf16"]))
            if result is not reference
        }
        for precision, result in results.items()
    }


def beyond(errors: dict[str, Any]) -> dict[str, float]:
    """The errors that are above their limits, by precision."""
    found = {precision: errors[precision]["blocks against float32"] for precision in PRECISIONS}
    return {precision: error for precision, error in found.items() if error > LIMITS[precision]}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.precision", description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS / "precision.json")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    small, large = (WAN_CONFIGS[name].transformer for name in ("multitalk-puppet", "multitalk-14B"))
    models = {
        "the small model": compare(small, VideoSize(frames=33, height=64, width=128)),
        "one block of the 14B model": compare(replace(large, num_layers=1), VideoSize(frames=9, height=128, width=128)),
    }
    document = {**environment("benchmarks.quality.precision"), "limits": LIMITS, "relative errors": models}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=2) + "\n")
    logger.info("%s", json.dumps(document, indent=2))
    wrong = {f"{model}, {which}": error for model, found in models.items() for which, error in beyond(found).items()}
    for place, error in wrong.items():
        logger.error("%s: relative error %.1e is beyond its limit", place, error)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
