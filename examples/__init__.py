"""Example images, masks, a video and voices, and the scripts that made them."""
