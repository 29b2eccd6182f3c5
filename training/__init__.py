"""Training of the built-in model on rendered clips."""
