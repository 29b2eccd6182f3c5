"""Decode image, audio and video files; encode MP4."""
