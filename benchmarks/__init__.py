"""Measurements. Each result records the machine, the library versions and the command that produced it."""
