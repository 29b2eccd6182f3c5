"""Everything around the model: requests, images, audio and video, serving, storage, weights."""
