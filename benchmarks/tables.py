"""Tables for pages and terminals."""


def markdown(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """A table."""
    rule = tuple("---" for _ in head)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *lines))
