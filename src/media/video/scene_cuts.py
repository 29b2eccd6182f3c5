"""Scene cuts of a video, by FFmpeg's filter scdet."""

from collections.abc import Callable
from fractions import Fraction

from av.filter import Graph
from av.video.format import VideoFormat

from src.media.rates import FPS
from src.media.video.frame_reader import FrameReader
from src.media.video.reader import VideoReader

# Size at which frames are compared.
WIDTH, HEIGHT = 128, 72
# How much the difference of two frames exceeds that of the two before, in percent of the range; scdet's default.
THRESHOLD = 10.0
SCORE_KEY = "lavfi.scd.score"
# Shorter scenes stay with the one before, because every scene is generated in a chunk of its own.
MIN_SCENE_FRAMES = FPS


def detect_scene_cuts(
    video: VideoReader | FrameReader, num_frames: int, check: Callable[[], None] = lambda: None
) -> tuple[int, ...]:
    """The indices below `num_frames` at which another scene begins, ascending, at least MIN_SCENE_FRAMES apart.

    Reads the video from its start. `check` is called at every frame and may raise, to cancel.
    """
    graph = Graph()
    source = graph.add_buffer(width=WIDTH, height=HEIGHT, format=VideoFormat("rgb24"), time_base=Fraction(1, FPS))
    graph.link_nodes(source, graph.add("scdet", f"threshold={THRESHOLD:g}"), graph.add("buffersink")).configure()
    cuts: list[int] = []
    timestamp = None
    for index in range(num_frames):
        check()
        previous, timestamp = timestamp, video.timestamp(index)
        if timestamp == previous:  # scdet mistakes motion after a repeated frame for a cut
            continue
        frame = video.thumbnail(index, width=WIDTH, height=HEIGHT)
        frame.pts, frame.time_base = index, Fraction(1, FPS)
        graph.vpush(frame)
        score = float(graph.vpull().metadata.get(SCORE_KEY, 0))
        if score >= THRESHOLD and index - max(cuts, default=0) >= MIN_SCENE_FRAMES:
            cuts.append(index)
    return tuple(cuts)
