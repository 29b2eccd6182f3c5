"""What the model takes on a GPU, beside the least that it could take there: `python -m benchmarks.gpu`."""
