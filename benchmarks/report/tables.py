"""Markdown tables."""

from collections.abc import Iterable


def markdown_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table with a header row."""
    rule = tuple("---" for _ in header)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def format_number(value: float | None, digits: int = 2) -> str:
    """A table cell; empty for None."""
    return "" if value is None else f"{value:.{digits}f}"
