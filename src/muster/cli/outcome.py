"""Prints what a command found, on stdout: labelled lines, folded to the terminal when there is one.

Invariant: away from a terminal the text is the outcome's own ``str``, one line an entry, so that scripts can read it.
"""

from __future__ import annotations

import sys
from typing import Protocol


class Outcome(Protocol):
    """Anything that can be told as labelled lines; ``str()`` of it is the plain form."""

    def lines(self) -> list[tuple[str, str]]:
        """Return label and text of each line, in order."""
        ...


def show(outcome: Outcome) -> None:
    """Print ``outcome``."""
    if not sys.stdout.isatty():
        sys.stdout.write(f"{outcome}\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right", style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in outcome.lines():
        grid.add_row(Text(label), Text(text))
    Console().print(grid)
