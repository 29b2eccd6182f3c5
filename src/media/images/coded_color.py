"""Colors that a file describes in other ways than Pillow's `icc_profile`, as ICC profiles.

Code points (ITU-T H.273) of PNG, AVIF and HEIC; gamma and chromaticities of PNG; the profile box of JPEG 2000.
"""

import re
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image

from src.serving.request_warnings import warn_caller

Point = tuple[float, float]
D65: Point = (0.3127, 0.3290)
D50_XYZ = (0.9642, 1.0, 0.8249)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
PNG_SRGB_GAMMA = 0.45455
GAMMA_TOLERANCE = 0.02
CHROMATICITY_TOLERANCE = 0.005


class ColorSpace(NamedTuple):
    """Chromaticities (x, y), and the exponent of the transfer curve, None for that of sRGB."""

    red: Point
    green: Point
    blue: Point
    white: Point
    gamma: float | None = None


SRGB = ColorSpace((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), D65)
# H.273 code points.
PRIMARIES = {
    9: ColorSpace((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65),  # BT.2020
    11: ColorSpace((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),  # DCI P3
    12: ColorSpace((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65),  # Display P3
}
GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
HDR_TRANSFERS = (16, 18)
PNG_CODES = re.compile(rb"(?s:\0\0\0\x04cICP(.)(.)\0.)")
BOX_CODES = re.compile(rb"(?s:colrnclx\0(.)\0(.))")
JPEG_2000_PROFILE = re.compile(rb"(?s:(.{4})colr[\x02\x03]..)")


def coded_profile(image: Image.Image, head: bytes, *, name: str) -> bytes | None:
    """A profile of the code points, or of PNG's gamma and chromaticities; None for sRGB and for other formats.

    Warns the caller about HDR, which is not converted.
    """
    space = _coded_space(image, head, name=name)
    return None if space is None or space == SRGB else matrix_profile(space)


def embedded_profile(image: Image.Image, head: bytes) -> bytes | None:
    """The profile of a JPEG 2000 file, which Pillow does not read."""
    match = JPEG_2000_PROFILE.search(head) if image.format == "JPEG2000" else None
    if match is None:
        return None
    return head[match.end() : match.start() + int.from_bytes(match[1], "big")]


def _coded_space(image: Image.Image, head: bytes, *, name: str) -> ColorSpace | None:
    info = image.info
    if image.format == "PNG":
        codes = PNG_CODES.search(head, 0, head.find(b"IDAT"))
    elif image.format in ("AVIF", "HEIF") and not info.get("icc_profile"):
        codes = BOX_CODES.search(head)
    else:
        return None
    if codes is not None:
        primaries, transfer = codes[1][0], codes[2][0]
        if transfer in HDR_TRANSFERS:
            warn_caller(f"{name} is an HDR image, which is read without its brightest tones")
            return None
        return PRIMARIES.get(primaries, SRGB)._replace(gamma=GAMMAS.get(transfer))
    if "icc_profile" in info or "srgb" in info:
        return None
    return _png_space(info.get("chromaticity"), info.get("gamma"))


def _png_space(chromaticity: tuple[float, ...] | None, gamma: float | None) -> ColorSpace:
    """From the chunks cHRM (white, red, green, blue) and gAMA; values close to those of sRGB count as sRGB."""
    space = SRGB
    if chromaticity is not None:
        points = tuple(zip(chromaticity[::2], chromaticity[1::2], strict=True))
        if np.abs(np.subtract(points, (D65, *SRGB[:3]))).max() > CHROMATICITY_TOLERANCE:
            white, red, green, blue = points
            space = ColorSpace(red, green, blue, white)
    if gamma and abs(gamma - PNG_SRGB_GAMMA) > GAMMA_TOLERANCE:
        space = space._replace(gamma=1 / gamma)
    return space


def matrix_profile(space: ColorSpace) -> bytes:
    """An ICC profile (version 4) with three primaries, adapted to D50, and one curve."""
    if space.gamma is None:
        curve = struct.pack(">4sIHH5i", b"para", 0, 3, 0, *_fixed_point(SRGB_CURVE))
    else:
        curve = struct.pack(">4sIHHi", b"para", 0, 0, 0, *_fixed_point((space.gamma,)))
    columns = [struct.pack(">4sI3i", b"XYZ ", 0, *_fixed_point(column)) for column in _primaries_xyz(space).T]
    white = struct.pack(">4sI3i", b"XYZ ", 0, *_fixed_point(D50_XYZ))
    names = (b"rXYZ", b"gXYZ", b"bXYZ", b"wtpt", b"rTRC", b"gTRC", b"bTRC")
    table, data, start = b"", b"", 128 + 4 + 12 * len(names)
    for name, tag in zip(names, (*columns, white, curve, curve, curve), strict=True):
        table += struct.pack(">4sII", name, start + len(data), len(tag))
        data += tag
    header = struct.pack(
        ">I4xI4s4s4s12x4s28x3i48x",
        start + len(data),
        0x04000000,
        b"mntr",
        b"RGB ",
        b"XYZ ",
        b"acsp",
        *_fixed_point(D50_XYZ),
    )
    return header + struct.pack(">I", len(names)) + table + data


def _primaries_xyz(space: ColorSpace) -> np.ndarray:
    """The XYZ of red, green and blue as columns, adapted to D50 by the Bradford transform."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in space[:4]]).T
    primaries, white = columns[:, :3], columns[:, 3]
    primaries = primaries * np.linalg.solve(primaries, white)
    gains = np.diag(BRADFORD @ D50_XYZ / (BRADFORD @ white))
    return np.linalg.solve(BRADFORD, gains @ BRADFORD @ primaries)


def _fixed_point(numbers: tuple[float, ...] | np.ndarray) -> list[int]:
    return [round(number * 65536) for number in numbers]
