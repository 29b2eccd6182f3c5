"""Where a film goes over to another scene, by FFmpeg's detector of scene changes (the filter scdet)."""

from collections.abc import Callable
from fractions import Fraction

from av.filter import Graph
from av.video.format import VideoFormat

from src.media.rates import FPS
from src.media.video.reader import VideoReader

# What the detector compares: enough to tell scenes apart, little enough to be cheap.
WIDTH, HEIGHT = 128, 72
# The difference of two pictures beyond that of the two before, in percent of the range; FFmpeg's own default.
THRESHOLD = 10.0
SCORE = "lavfi.scd.score"
# Scenes that are shorter stay with the one before: every scene costs a chunk of its own.
MIN_SCENE_FRAMES = FPS


def detect_scene_cuts(film: VideoReader, frames: int, check: Callable[[], None] = lambda: None) -> tuple[int, ...]:
    """The indices below `frames`, ascending and at least MIN_SCENE_FRAMES apart, at which another scene begins.

    Reads the film from the beginning, so that its next picture costs reading it again. `check` is asked at every frame,
    and raises when nobody waits any more.
    """
    graph = Graph()
    source = graph.add_buffer(width=WIDTH, height=HEIGHT, format=VideoFormat("rgb24"), time_base=Fraction(1, FPS))
    graph.link_nodes(source, graph.add("scdet", f"threshold={THRESHOLD:g}"), graph.add("buffersink")).configure()
    cuts: list[int] = []
    due = None
    for index in range(frames):
        check()
        before, due = due, film.timestamp(index)
        if due == before:  # the detector takes a picture that stands still, and then moves on, for a change
            continue
        frame = film.thumbnail(index, width=WIDTH, height=HEIGHT)
        frame.pts, frame.time_base = index, Fraction(1, FPS)
        graph.vpush(frame)
        score = float(graph.vpull().metadata.get(SCORE, 0))
        if score >= THRESHOLD and index - max(cuts, default=0) >= MIN_SCENE_FRAMES:
            cuts.append(index)
    return tuple(cuts)
