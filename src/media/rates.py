"""The two clocks that everything here is counted on."""

FPS = 25
"""Frames of video a second."""
SPEECH_RATE = 16_000
"""Samples a second of what the speech encoder hears."""
SAMPLES_PER_FRAME = SPEECH_RATE // FPS
