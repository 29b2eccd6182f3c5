"""Decode any picture and any sound; encode the MP4."""

from src.media.errors import InputError
from src.media.video.writer import MovieWriter
from src.media.image import read_picture
from src.media.audio.audio import Sound, conform, mono, read_sound

__all__ = ["InputError", "MovieWriter", "Sound", "conform", "mono", "read_picture", "read_sound"]
