"""The whole pipeline on fake CUDA tensors: devices, dtypes, copies and memory of a GPU run, without a GPU."""
