"""Prints what a command found, on stdout: ``label  text`` lines, folded and coloured on a terminal.

Every report's ``str`` is such lines; this only lays them out. Invariant: away from a terminal the text is printed as it
is, one line an entry, so that scripts can read it.
"""

from __future__ import annotations

import re
import sys

_ENTRY = re.compile(r"\s*(?P<label>\S(?:.*?\S)??) {2,}(?P<text>\S.*)")


def show(outcome: object) -> None:
    """Print ``str(outcome)``."""
    if not sys.stdout.isatty():
        sys.stdout.write(f"{outcome}\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right", style="bold cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in entries(str(outcome)):
        grid.add_row(Text(label), Text(text))
    Console().print(grid)


def entries(text: str) -> list[tuple[str, str]]:
    """Return label and text of each line; a line without a label has an empty one."""
    found = []
    for line in text.splitlines():
        entry = _ENTRY.fullmatch(line)
        found.append((entry["label"], entry["text"]) if entry else ("", line.strip()))
    return found
