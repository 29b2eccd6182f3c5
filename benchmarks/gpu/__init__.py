"""Time and memory of the model on a GPU, beside the roofline: `python -m benchmarks.gpu`."""
