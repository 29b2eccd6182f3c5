"""Triton kernels of the element-wise and row-wise operations between matrix products.

Each kernel computes the same as its eager PyTorch form in `wan.modules` (norms, rope, gelu, speaker_labels, quantized).
`dispatch.use_triton` chooses one; `wan.modules.verify_kernels` compares them before the kernels are enabled.
Token counts are run-time arguments without specialization: one compiled kernel serves every video size.
"""
