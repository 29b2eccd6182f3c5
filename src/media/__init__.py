"""Decode any picture and any sound; encode the MP4."""

from src.media.errors import InputError
from src.media.movie import MovieWriter
from src.media.picture import read_picture
from src.media.sound import Sound, conform, mono, read_sound

__all__ = ["InputError", "MovieWriter", "Sound", "conform", "mono", "read_picture", "read_sound"]
