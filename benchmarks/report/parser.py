"""Argument parser of the benchmark commands."""

import argparse


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the line breaks of the description and appends defaults, except None and False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def make_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Parser of `python -m MODULE`, described by the docstring of the module."""
    return argparse.ArgumentParser(prog=f"python -m {module}", description=description, formatter_class=_HelpFormatter)
