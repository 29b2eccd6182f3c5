"""From voices to what the video model hears: timeline, loudness, speech embedding."""
