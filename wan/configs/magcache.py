"""MagCache calibration of the models."""

from wan.configs.schema import MagCacheRatios

# fmt: off
_WAN_480P = (
    0.98783, 0.97559, 0.98311, 0.98202, 0.9888, 0.98762, 0.98957, 0.99052, 0.99383, 0.98857, 0.99065, 0.98845,
    0.99057, 0.98957, 0.98601, 0.98823, 0.98756, 0.98808, 0.98721, 0.98571, 0.98543, 0.98157, 0.98411, 0.97952,
    0.98149, 0.9774, 0.97825, 0.97355, 0.97085, 0.97056, 0.96588, 0.96113, 0.9567, 0.94961, 0.93973, 0.93217,
    0.91878, 0.90955, 0.92617,
)
_WAN_720P = (
    0.99428, 0.98588, 0.98273, 0.99018, 0.98911, 0.98646, 0.99454, 0.9891, 0.99124, 0.99102, 0.99215, 0.99515,
    0.99576, 0.99068, 0.99097, 0.99166, 0.99041, 0.99201, 0.99101, 0.98599, 0.98845, 0.98848, 0.98862, 0.98718,
    0.98497, 0.98264, 0.98389, 0.97938, 0.97535, 0.97498, 0.973, 0.96827, 0.96261, 0.95335, 0.94649, 0.93397,
    0.91636, 0.89088, 0.8679,
)
_PUPPET = (
    1.0062, 0.99688, 0.99849, 0.99168, 0.99649, 0.99031, 0.99532, 0.99256, 0.99592, 0.9913, 0.99031, 0.99189,
    0.9958, 0.99205, 0.99034, 0.98857, 0.99112, 0.99113, 0.98843, 0.98672, 0.9912, 0.98539, 0.98741, 0.98706,
    0.98238, 0.9844, 0.98195, 0.98501, 0.97836, 0.98367, 0.97911, 0.97825, 0.97506, 0.97654, 0.97985, 0.98599,
    0.99245, 1.0058, 1.0268,
)
# fmt: on

# Published by the authors of MagCache (Ma et al. 2025) for the conditional pass of Wan2.1-I2V-14B-480P and -720P,
# without audio layers: 40 steps at linearly spaced times from 1000 to 25. As for TeaCache, the 720P ratios are used for
# the large sizes of the 480P weights. `python -m benchmarks.calibration.magcache` records new ratios.
MAGCACHE = {
    "480": MagCacheRatios(ratios=_WAN_480P, shift=3.0, last_time=25.0),
    "720": MagCacheRatios(ratios=_WAN_720P, shift=5.0, last_time=25.0),
}
# Recorded by `python -m benchmarks.calibration.magcache`.
PUPPET_MAGCACHE = MagCacheRatios(ratios=_PUPPET, shift=3.0)
