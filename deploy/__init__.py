"""Ways to serve the predictor beside Cog's own server: RunPod, Modal, batches. They share one engine."""
