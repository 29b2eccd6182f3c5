"""Golden numbers of the published network, and what this package computes in their place."""
