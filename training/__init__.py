"""Makes weights."""
