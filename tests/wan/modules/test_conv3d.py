"""`convolve` with oneDNN matches PyTorch's own convolution."""

import pytest
import torch
import torch.nn.functional as F

from wan.modules.conv3d import convolve


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
def test_onednn_matches_pytorch() -> None:
    convolution = torch.nn.Conv3d(16, 8, 3, stride=(1, 2, 2))
    clip = torch.randn(1, 16, 6, 20, 30)
    with torch.inference_mode():
        expected = convolution(F.pad(clip, (1, 1, 1, 1)))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            result = convolve(convolution, clip, (0, 1, 1))
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
        assert {"aten::mkldnn_convolution"} <= {event.key for event in profile.key_averages()}


def test_other_dtypes_and_devices_use_pytorch() -> None:
    convolution = torch.nn.Conv3d(2, 2, 1, dtype=torch.float64)
    with torch.inference_mode():
        assert convolve(convolution, torch.randn(1, 2, 3, 4, 5, dtype=torch.float64)).dtype == torch.float64
        assert convolve(torch.nn.Conv3d(2, 2, 1, device="meta"), torch.empty(1, 2, 3, 4, 5, device="meta")).is_meta
