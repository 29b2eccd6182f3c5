"""Triton kernels of the operations between matrix products; each computes what its plain PyTorch form does.

The plain forms are in `wan.modules` (norms, rope, gelu, labels), where `dispatch.runs_triton` chooses between the two.
Numbers of tokens are run-time arguments that are not specialised: all sizes of video share one compiled kernel.
"""
