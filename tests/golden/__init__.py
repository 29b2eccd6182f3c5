"""Golden outputs of the published network, compared with those of this package."""
