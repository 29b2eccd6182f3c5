"""Figures with the machine, the versions and the command that gave them."""
