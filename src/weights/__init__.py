"""Download and verification of the published weights: manifest, sources, download, checks. Does not import torch."""
