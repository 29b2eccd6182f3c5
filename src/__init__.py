"""Everything around the model: pictures, sound and video in and out."""
