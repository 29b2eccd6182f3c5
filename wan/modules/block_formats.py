"""Block formats of GGUF files: expansion in torch, and a linear layer that keeps its weight packed.

Layouts: ggml-org/ggml, `ggml-common.h`. Shapes: O outputs, I inputs, B blocks, P packed bytes of a row.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wan.modules.quantized import QuantizedLinear, QuantizedRows

SUPER_BLOCK = 256
"""Values in a block of the K formats."""


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """`values` per block, stored in `bytes`; `expand` turns B x bytes into B x values in float32."""

    values: int
    bytes: int
    expand: Callable[[Tensor], Tensor]


def expand(data_OP: Tensor, block_format: str) -> Tensor:
    """The float32 values O x I of packed rows."""
    layout = BLOCK_FORMATS[block_format]
    return layout.expand(data_OP.reshape(-1, layout.bytes)).reshape(data_OP.shape[0], -1)


def packed_row_bytes(block_format: str, in_features: int) -> int:
    """Bytes of one row; rows are whole blocks."""
    layout = BLOCK_FORMATS[block_format]
    assert in_features % layout.values == 0
    return in_features // layout.values * layout.bytes


def _half(blocks: Tensor) -> Tensor:
    return blocks.contiguous().view(torch.float16).float()


def _expand_q8_0(blocks: Tensor) -> Tensor:
    return _half(blocks[:, :2]) * blocks[:, 2:].contiguous().view(torch.int8).float()


def _halves(packed: Tensor) -> Tensor:
    """B x N to B x 2N: the low four bits of all bytes, then the high ones."""
    return torch.cat([packed & 0x0F, packed >> 4], dim=1)


def _fifth_bits(packed_B4: Tensor) -> Tensor:
    """B x 4 to B x 32: bit i of the 32 becomes the fifth bit of value i."""
    return (torch.stack([(packed_B4 >> shift) & 1 for shift in range(8)], dim=2) << 4).flatten(1)


def _expand_q4_0(blocks: Tensor) -> Tensor:
    return _half(blocks[:, :2]) * (_halves(blocks[:, 2:]).float() - 8)


def _expand_q4_1(blocks: Tensor) -> Tensor:
    return _half(blocks[:, :2]) * _halves(blocks[:, 4:]).float() + _half(blocks[:, 2:4])


def _expand_q5_0(blocks: Tensor) -> Tensor:
    quants = _halves(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return _half(blocks[:, :2]) * (quants.float() - 16)


def _expand_q5_1(blocks: Tensor) -> Tensor:
    quants = _halves(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return _half(blocks[:, :2]) * quants.float() + _half(blocks[:, 2:4])


def _scales_and_minima(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The 6-bit scales and minima of Q4_K's and Q5_K's eight sub-blocks from their 12 bytes: B x 8 each."""
    d, m, m_d = packed.view(-1, 3, 4).unbind(1)
    scales = torch.cat([d & 0x3F, (m_d & 0x0F) | ((d >> 2) & 0x30)], dim=1)
    minima = torch.cat([m & 0x3F, (m_d >> 4) | ((m >> 2) & 0x30)], dim=1)
    return scales.float(), minima.float()


def _bit_groups(packed: Tensor, bits: int) -> Tensor:
    """Groups of `bits` bits of each byte, lowest first: B x N to B x (8 / bits) x N."""
    return torch.stack([(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)], dim=1)


def _nibbles(packed: Tensor) -> Tensor:
    """B x 128 to B x 8 x 32: the low halves of 32 bytes are one sub-block, their high halves the next."""
    return torch.stack([packed.view(-1, 4, 32) & 0x0F, packed.view(-1, 4, 32) >> 4], dim=2).view(-1, 8, 32)


def _affine(blocks: Tensor, quants_B8N: Tensor) -> Tensor:
    scales, minima = _scales_and_minima(blocks[:, 4:16].contiguous())
    scale, minimum = _half(blocks[:, :2]) * scales, _half(blocks[:, 2:4]) * minima
    return (scale[..., None] * quants_B8N.float() - minimum[..., None]).flatten(1)


def _low_bits(packed: Tensor) -> Tensor:
    """B x 64 to B x 16 x 16: the two low bits of 32 bytes are two sub-blocks, the next two bits the next ones."""
    return torch.stack([(packed.view(-1, 2, 32) >> shift) & 3 for shift in (0, 2, 4, 6)], dim=2).view(-1, 16, 16)


def _expand_q2_k(blocks: Tensor) -> Tensor:
    scales, quants = blocks[:, :16], _low_bits(blocks[:, 16:80].contiguous()).float()
    scale, minimum = _half(blocks[:, 80:82]) * (scales & 0x0F).float(), _half(blocks[:, 82:84]) * (scales >> 4).float()
    return (scale[..., None] * quants - minimum[..., None]).flatten(1)


def _expand_q3_k(blocks: Tensor) -> Tensor:
    high = _bit_groups(blocks[:, :32], 1).view(-1, 16, 16)
    quants = (_low_bits(blocks[:, 32:96].contiguous()) | (high << 2)).to(torch.int8) - 4
    low_scales = _halves(blocks[:, 96:104])
    scales = (low_scales | (_bit_groups(blocks[:, 104:108], 2).flatten(1) << 4)).to(torch.int8) - 32
    scale = _half(blocks[:, 108:]) * scales.float()
    return (scale[..., None] * quants.float()).flatten(1)


def _expand_q4_k(blocks: Tensor) -> Tensor:
    return _affine(blocks, _nibbles(blocks[:, 16:].contiguous()))


def _expand_q5_k(blocks: Tensor) -> Tensor:
    high = _bit_groups(blocks[:, 16:48], 1)
    return _affine(blocks, _nibbles(blocks[:, 48:].contiguous()) | (high << 4))


def _expand_q6_k(blocks: Tensor) -> Tensor:
    low = blocks[:, :128].contiguous().view(-1, 2, 1, 64)
    low = torch.cat([low & 0x0F, low >> 4], dim=2).view(-1, 8, 32)
    high = blocks[:, 128:192].contiguous().view(-1, 2, 1, 32)
    high = torch.cat([(high >> shift) & 3 for shift in (0, 2, 4, 6)], dim=2).view(-1, 8, 32)
    quants = (low | (high << 4)).to(torch.int8) - 32
    scale = _half(blocks[:, 208:]) * blocks[:, 192:208].contiguous().view(torch.int8).float()
    return (scale[..., None] * quants.view(-1, 16, 16).float()).flatten(1)


BLOCK_FORMATS = {
    "Q4_0": BlockFormat(32, 18, _expand_q4_0),
    "Q4_1": BlockFormat(32, 20, _expand_q4_1),
    "Q5_0": BlockFormat(32, 22, _expand_q5_0),
    "Q5_1": BlockFormat(32, 24, _expand_q5_1),
    "Q8_0": BlockFormat(32, 34, _expand_q8_0),
    "Q2_K": BlockFormat(SUPER_BLOCK, 84, _expand_q2_k),
    "Q3_K": BlockFormat(SUPER_BLOCK, 110, _expand_q3_k),
    "Q4_K": BlockFormat(SUPER_BLOCK, 144, _expand_q4_k),
    "Q5_K": BlockFormat(SUPER_BLOCK, 176, _expand_q5_k),
    "Q6_K": BlockFormat(SUPER_BLOCK, 210, _expand_q6_k),
}
"""By the names of GGUF's tensor types."""


def stored_forms(module: nn.Module) -> dict[str, int]:
    """How many layers of a module are quantized, by the form of their weights: a dtype, or a block format of GGUF."""
    layers = [layer for layer in module.modules() if isinstance(layer, QuantizedLinear)]
    forms = (getattr(layer, "block_format", str(layer.data.dtype).removeprefix("torch.")) for layer in layers)
    return dict(Counter(forms))


class BlockQuantizedLinear(QuantizedLinear):
    """x W^T + bias; W stays packed and is expanded for each product."""

    def __init__(self, in_features: int, out_features: int, bias: bool, block_format: str) -> None:
        nn.Module.__init__(self)
        self.fp8_matmul = False
        self.in_features, self.block_format = in_features, block_format
        row_bytes = packed_row_bytes(block_format, in_features)
        self.register_buffer("data", torch.empty(out_features, row_bytes, dtype=torch.uint8))
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None
        self.register_buffer("down", None, persistent=False)
        self.register_buffer("up", None, persistent=False)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.data.shape[0], self.in_features))

    def product(self, x: Tensor, rows: QuantizedRows | None = None) -> Tensor:
        return F.linear(x, expand(self.data, self.block_format).to(x.dtype), self.bias)

    def like(self, linear: nn.Linear) -> QuantizedLinear:
        return BlockQuantizedLinear(linear.in_features, linear.out_features, linear.bias is not None, self.block_format)
