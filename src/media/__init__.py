"""Decode any picture, sound or video; encode the MP4."""
