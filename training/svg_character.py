"""Shaded drawings of cartoon characters as SVG: shapes with gradients, in the coordinates of a face.

Lengths are in units of half the height of a face; y points down. Paths whose x is in units of half a face's width are
stretched by `stretch`. Every function returns SVG elements, from back to front.
"""

import re

import numpy as np

from training.characters import MOUTH_HEIGHT, MOUTH_INSIDE, Character, Color, Pose

_EYE_Y, _BROW_Y = -0.18, -0.43
_DARK: Color = (20, 12, 30)
_LIGHT: Color = (255, 252, 244)
_BLOOD: Color = (130, 50, 50)
_LASHES, _PUPIL, _EYE_WHITE, _METAL = "rgb(48,32,34)", "rgb(16,12,16)", "rgb(250,250,248)", "rgb(58,54,62)"
_TEETH, _TONGUE = "rgb(244,240,232)", "rgb(206,96,100)"
_TEETH_SHARE, _TONGUE_SHARE = 0.24, 0.3
"""Shares of the height of an open mouth. They are constant, so that the dark rest is proportional to the opening."""

_MIN_EYE_HEIGHT, _MIN_INSIDE = 0.035, 0.015
"""Lower eyes and mouths are drawn as closed."""

_SHOULDERS = "M-1.75,3.2 C-1.75,1.95 -1.3,1.62 -.42,1.32 C-.2,1.52 .2,1.52 .42,1.32 C1.3,1.62 1.75,1.95 1.75,3.2 Z"
_NECK = (
    "M-.34,.55 L-.36,1.2 C-.38,1.34 -.5,1.36 -.5,1.4 C-.25,1.72 .25,1.72 .5,1.4 C.5,1.36 .38,1.34 .36,1.2 L.34,.55 Z"
)
_CHIN_SHADOW = "M-.345,.7 L-.36,1.08 C-.2,1.26 .2,1.26 .36,1.08 L.345,.7 Z"
_SKULL = "C-1.12,-.86 -.7,-1.18 0,-1.18 C.7,-1.18 1.12,-.86 1.04,-.12 "
_LONG_BACK = (
    "M-1.08,-.2 C-1.25,-1.35 1.25,-1.35 1.08,-.2 C1.3,.5 1.35,1.1 1.2,1.7 L-1.2,1.7 C-1.35,1.1 -1.3,.5 -1.08,-.2 Z"
)
_LOCK = "M1,-.3 C1.36,.3 1.4,1.1 1.2,1.75 C1,1.85 .86,1.5 .9,1.2 C.95,.8 .9,.4 .8,0 Z"
_FRONT_HAIR = {
    "short": f"M-1.04,-.12 {_SKULL}C.98,-.45 .85,-.66 .5,-.72 C.1,-.78 -.3,-.55 -.62,-.56 "
    "C-.86,-.52 -.98,-.35 -1.04,-.12 Z",
    "long": f"M-1.04,-.12 {_SKULL}C.98,-.5 .55,-.62 .1,-.9 C-.3,-.66 -.9,-.5 -1.04,-.12 Z",
    "spiky": "M-1.04,-.2 L-.84,-1.16 L-.62,-.94 L-.42,-1.3 L-.2,-1 L0,-1.36 L.2,-1 L.42,-1.3 L.62,-.94 L.84,-1.16 "
    "L1.04,-.2 C.95,-.5 .5,-.62 .3,-.56 L.12,-.7 L-.1,-.54 L-.32,-.7 L-.55,-.52 C-.8,-.5 -.98,-.4 -1.04,-.2 Z",
}
_FRONT_HAIR["bun"] = _FRONT_HAIR["long"]
_DOME = "M-1.08,-.56 C-1.12,-1.5 1.12,-1.5 1.08,-.56 Z"
_BRIM = "M-1.02,-.6 C-.4,-.78 .9,-.78 1.5,-.5 C.9,-.44 -.4,-.46 -1.02,-.6 Z"
_CROWN = "M-.78,-.76 L-.84,-1.6 Q0,-1.72 .84,-1.6 L.78,-.76 Z"
_RIBBON = "M-.79,-.92 L-.78,-.74 L.78,-.74 L.79,-.92 Z"


def shade(color: Color, factor: float = 1.0, towards: Color = _DARK) -> str:
    """A color, darker (below 1) or lighter (above 1), as SVG has it."""
    target = np.array(towards if factor < 1 else _LIGHT, float)
    mixed = np.array(color, float) + abs(1 - factor) * (target - np.array(color, float))
    return "rgb({},{},{})".format(*np.clip(np.round(mixed), 0, 255).astype(int))


def stretch(d: str, x_factor: float, y_factor: float = 1.0, y: float = 0.0) -> str:
    """A path with its x and y multiplied, then moved down by `y`."""

    def point(match: re.Match[str]) -> str:
        return f"{float(match[1]) * x_factor:.3f},{float(match[2]) * y_factor + y:.3f}"

    return re.sub(r"(-?[\d.]+),(-?[\d.]+)", point, d)


def path(d: str, fill: str, extra: str = "") -> str:
    """A filled path."""
    return f'<path d="{d}" fill="{fill}" {extra}/>'


def line(d: str, color: str, width: float, extra: str = "") -> str:
    """A line with round ends."""
    return f'<path d="{d}" fill="none" stroke="{color}" stroke-width="{width:.3f}" stroke-linecap="round" {extra}/>'


def ellipse(x: float, y: float, rx: float, ry: float, fill: str, extra: str = "") -> str:
    """A filled ellipse."""
    return f'<ellipse cx="{x:.3f}" cy="{y:.3f}" rx="{rx:.3f}" ry="{ry:.3f}" fill="{fill}" {extra}/>'


def gradient(name: str, colors: tuple[str, str], direction: str = 'x1="0" y1="0" x2="0" y2="1"') -> str:
    """A linear gradient of two colors, by default from top to bottom."""
    stops = "".join(f'<stop offset="{i}" stop-color="{color}"/>' for i, color in enumerate(colors))
    return f'<linearGradient id="{name}" {direction}>{stops}</linearGradient>'


def glow(name: str, color: str, opacity: float) -> str:
    """A radial gradient that fades out."""
    stops = "".join(
        f'<stop offset="{i}" stop-color="{color}" stop-opacity="{share * opacity:.2f}"/>'
        for i, share in enumerate((1, 0))
    )
    return f'<radialGradient id="{name}">{stops}</radialGradient>'


def draw_character(person: Character, pose: Pose, key: str) -> str:
    """A character; `key` makes the ids of its gradients unique in a document."""
    body = f"translate({pose.x:.3f} {pose.y + 0.1 * pose.unit:.3f}) scale({pose.unit:.4f})"
    head = f"translate({pose.x:.3f} {pose.y:.3f}) rotate({np.degrees(pose.tilt):.3f}) scale({pose.unit:.4f})"
    face = _draw_head(person, key) + _draw_eyes(person, pose, key) + _draw_nose(person) + _draw_mouth(person, pose, key)
    return (
        f"{_gradients(person, key)}<g transform='{head}'>{_draw_back_hair(person, key)}</g>"
        f"<g transform='{body}'>{_draw_body(person, key)}</g>"
        f"<g transform='{head}'>{_draw_locks(person, key)}{face}{_draw_front_hair(person, key)}{_draw_hat(person)}"
        f"{_draw_glasses(person)}</g>"
    )


def _gradients(person: Character, key: str) -> str:
    skin = "".join(
        f'<stop offset="{offset}" stop-color="{color}"/>'
        for offset, color in (
            (0, shade(person.skin, 1.12)),
            (0.55, shade(person.skin)),
            (1, shade(person.skin, 0.86, _BLOOD)),
        )
    )
    return (
        f'<radialGradient id="skin{key}" cx="0.42" cy="0.4" r="0.75">{skin}</radialGradient>'
        + glow(f"blush{key}", shade(person.skin, 0.7, (220, 60, 60)), 0.55)
        + gradient(f"hair{key}", (shade(person.hair_color, 1.16), shade(person.hair_color, 0.8)))
        + gradient(f"shirt{key}", (shade(person.shirt, 1.12), shade(person.shirt, 0.78)))
    )


def _draw_body(person: Character, key: str) -> str:
    skin, seam = shade(person.skin, 0.9, _BLOOD), shade(person.shirt, 0.66)
    collar = {
        "round": line("M-.5,1.36 C-.25,1.7 .25,1.7 .5,1.36", seam, 0.09),
        "vee": path("M-.44,1.34 L0,1.95 L.44,1.34 L.36,1.25 L-.36,1.25 Z", skin)
        + line("M-.47,1.34 L0,1.98 L.47,1.34", seam, 0.08),
        "collar": path("M-.5,1.26 L-.72,1.62 L-.14,1.9 L0,1.62 Z", shade(person.shirt, 1.3))
        + path("M.5,1.26 L.72,1.62 L.14,1.9 L0,1.62 Z", shade(person.shirt, 1.24)),
    }[person.collar]
    shadow = path(_CHIN_SHADOW, shade(person.skin, 0.72, _BLOOD))
    return path(_SHOULDERS, f"url(#shirt{key})") + path(_NECK, skin) + shadow + collar


def _draw_head(person: Character, key: str) -> str:
    w, jaw = person.width, person.width * (0.66 + 0.16 * (person.exponent - 1.9))
    outline = [(0, -1), (0.62 * w, -1), (w, -0.72), (w, -0.18), (w, 0.3), (jaw, 0.58), (0.66 * jaw, 0.8)]
    outline += [(0.44 * jaw, 0.97), (0.2 * jaw, 1), (0, 1)]
    outline += [(-x, y) for x, y in outline[-2::-1]]
    skull = "M" + " ".join(f"{'C' if i % 3 == 1 else ''}{x:.3f},{y:.3f}" for i, (x, y) in enumerate(outline))
    parts = []
    for side in (-1, 1):
        parts.append(ellipse(side * w, 0.02, 0.15, 0.22, shade(person.skin, 0.94, _BLOOD)) if person.ears else "")
        parts.append(ellipse(side * w, 0.03, 0.07, 0.12, shade(person.skin, 0.8, _BLOOD)) if person.ears else "")
    parts.append(path(skull, f"url(#skin{key})"))
    parts += [ellipse(side * 0.5 * w, 0.3, 0.24, 0.17, f"url(#blush{key})") for side in (-1, 1)]
    return "".join(parts)


def _draw_eyes(person: Character, pose: Pose, key: str) -> str:
    return "".join(
        f'<g transform="translate({side * person.eye_offset:.3f} 0)">'
        f"{_draw_eye(person, pose, f'eye{key}{side + 1}')}{_draw_brow(person, pose, side)}</g>"
        for side in (-1, 1)
    )


def _draw_eye(person: Character, pose: Pose, clip: str) -> str:
    """An eye around x = 0."""
    half, height = 1.2 * person.eye_size, 0.92 * person.eye_size * pose.eyes
    fold = line(stretch("M-.8,.19 Q0,.24 .8,.19", half, y=_EYE_Y), shade(person.skin, 0.84, _BLOOD), 0.025)
    if height < _MIN_EYE_HEIGHT:
        return line(stretch("M-1,.03 Q0,.13 1,.03", half, y=_EYE_Y), _LASHES, 0.05) + fold
    upper = stretch("M-1,0 Q0,-1.45 1,0", half, height, _EYE_Y + 0.02)
    almond = upper + stretch(" Q0,1.2 -1,0 Z", half, height, _EYE_Y + 0.02)
    x, y = 0.06 * pose.gaze, _EYE_Y - 0.01
    iris = ellipse(x, y, 0.105, 0.105, shade(person.iris)) + ellipse(x, y, 0.052, 0.052, _PUPIL)
    iris += ellipse(x - 0.035, y - 0.04, 0.028, 0.028, "white")
    clipped = f'<clipPath id="{clip}"><path d="{almond}"/></clipPath><g clip-path="url(#{clip})">{iris}</g>'
    return path(almond, _EYE_WHITE) + clipped + line(upper, _LASHES, 0.045) + fold


def _draw_brow(person: Character, pose: Pose, side: int) -> str:
    arch = -0.07 - 0.05 * pose.brows
    d = stretch(f"M-1,-.01 Q.2,{arch:.3f} 1.2,.03", side * 1.2 * person.eye_size, y=_BROW_Y - 0.17 * pose.brows)
    return line(d, shade(person.hair_color, 0.78), person.brow_height)


def _draw_nose(person: Character) -> str:
    w = 1.5 * person.nose
    side = line(stretch("M-.35,-.12 Q-.75,.08 -1,.19", w), shade(person.skin, 0.88, _BLOOD), 0.05)
    tip = line(stretch("M-1,.19 Q-.7,.28 0,.27 Q.7,.28 1,.19", w), shade(person.skin, 0.82, (170, 70, 60)), 0.05)
    return side + tip + ellipse(0.01, 0.1, 0.045, 0.1, shade(person.skin, 1.3), 'fill-opacity="0.55"')


def _draw_mouth(person: Character, pose: Pose, key: str) -> str:
    half = 0.92 * person.mouth_width * (1 + 0.16 * pose.shape - 0.1 * pose.opening + 0.14 * pose.smile)
    inside, y, lift = MOUTH_HEIGHT * pose.opening, person.mouth_y, 0.025 + 0.1 * pose.smile
    top, bottom = -inside - 0.06, inside + 0.085 + lift
    lips = f"M-1,{-lift:.3f} Q-.45,{top - 0.04:.3f} 0,{top:.3f} Q.45,{top - 0.04:.3f} 1,{-lift:.3f} "
    lips += f"C.72,{1.2 * bottom:.3f} -.72,{1.2 * bottom:.3f} -1,{-lift:.3f} Z"
    outer = path(stretch(lips, half, y=y), shade(person.lips))
    if inside <= _MIN_INSIDE:
        crease = f"M-1,{-lift:.3f} Q0,{0.03 + lift:.3f} 1,{-lift:.3f}"
        return outer + line(stretch(crease, half, y=y), shade(person.lips, 0.88, (120, 30, 40)), 0.03)
    w, reach = half - 0.07, 1.333 * inside
    hole = stretch(f"M-1,0 C-.62,{-reach:.3f} .62,{-reach:.3f} 1,0 C.62,{reach:.3f} -.62,{reach:.3f} -1,0 Z", w, y=y)
    teeth = (
        f'<rect x="{-w:.3f}" y="{y - 2 * inside:.3f}" width="{2 * w:.3f}" '
        f'height="{inside * (1 + 2 * _TEETH_SHARE):.3f}" fill="{_TEETH}"/>'
    )
    tongue = ellipse(0, y + inside, 0.68 * w, 2 * inside * _TONGUE_SHARE, _TONGUE)
    clip = f'<clipPath id="mouth{key}"><path d="{hole}"/></clipPath>'
    shine = line(stretch("M-.5,0 Q0,.06 .5,0", half, y=y + 0.9 * bottom), shade(person.lips, 1.14), 0.035)
    return f"{outer}{shine}{clip}{path(hole, shade(MOUTH_INSIDE))}<g clip-path='url(#mouth{key})'>{teeth}{tongue}</g>"


def _draw_back_hair(person: Character, key: str) -> str:
    w, fill = person.width, f"url(#hair{key})"
    if person.hair == "long":
        return path(stretch(_LONG_BACK, w), fill)
    if person.hair == "bun":
        return ellipse(0, -1.22, 0.36, 0.32, fill) + ellipse(0, -0.25, w + 0.07, 0.95, fill)
    if person.hair == "curly":
        angles = np.linspace(np.pi * 0.88, np.pi * 2.12, 11)
        return "".join(ellipse((w + 0.06) * np.cos(a), 0.98 * np.sin(a) - 0.02, 0.27, 0.27, fill) for a in angles)
    return "" if person.hair == "none" else ellipse(0, -0.28, w + 0.06, 0.88, fill)


def _draw_locks(person: Character, key: str) -> str:
    """Long hair in front of the shoulders, beside the face."""
    if person.hair != "long":
        return ""
    return "".join(path(stretch(_LOCK, side * person.width), f"url(#hair{key})") for side in (-1, 1))


def _draw_front_hair(person: Character, key: str) -> str:
    w, fill = person.width, f"url(#hair{key})"
    if person.hair == "none":
        return ""
    if person.hair == "curly":
        angles = np.linspace(np.pi * 1.13, np.pi * 1.87, 6)
        hair = "".join(ellipse(0.8 * w * np.cos(a), 0.8 * np.sin(a), 0.24, 0.2, fill) for a in angles)
    else:
        hair = path(stretch(_FRONT_HAIR[person.hair], w), fill)
    shine = stretch("M-.62,-.93 Q-.2,-1.1 .25,-1.07", w)
    return hair + line(shine, shade(person.hair_color, 1.28), 0.06, 'stroke-opacity="0.6"')


def _draw_hat(person: Character) -> str:
    w, color, band = person.width, shade(person.hat_color), shade(person.hat_color, 0.7)
    dome = path(stretch(_DOME, w), color)
    if person.hat == "cap":
        return dome + line("M0,-1.26 Q.1,-.95 .05,-.68", band, 0.03) + path(stretch(_BRIM, w), band)
    if person.hat == "beanie":
        rim = f'<rect x="{-1.14 * w:.3f}" y="-.8" width="{2.28 * w:.3f}" height=".27" rx=".1" fill="{band}"/>'
        return dome + ellipse(0, -1.32, 0.14, 0.14, band) + rim
    if person.hat == "top":
        crown = path(stretch(_CROWN, w), color) + path(stretch(_RIBBON, w), band)
        return crown + ellipse(0, -0.72, 1.28 * w, 0.12, color)
    return ""


def _draw_glasses(person: Character) -> str:
    if person.glasses == "none":
        return ""
    size, radius = person.eye_size + 0.12, person.eye_size + 0.12 if person.glasses == "round" else 0.07
    bridge, temple = person.eye_offset - size, person.eye_offset + size
    parts = [line(stretch("M-1,-.03 Q0,-.1 1,-.03", bridge, y=_EYE_Y), _METAL, 0.05)]
    for side in (-1, 1):
        parts.append(
            f'<rect x="{side * person.eye_offset - size:.3f}" y="{_EYE_Y - size:.3f}" width="{2 * size:.3f}" '
            f'height="{2 * size:.3f}" rx="{radius:.3f}" fill="white" fill-opacity="0.12" stroke="{_METAL}" '
            'stroke-width="0.055"/>'
        )
        arm = f"M{side * temple:.3f},{_EYE_Y - 0.05:.3f} L{side * person.width:.3f},{_EYE_Y - 0.09:.3f}"
        parts.append(line(arm, _METAL, 0.045))
    return "".join(parts)
