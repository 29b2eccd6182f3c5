"""From voices to the model's audio conditioning: timeline, loudness, speech embeddings."""
