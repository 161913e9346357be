"""``muster demo``: the whole thing on the text that every machine has, with a liar and a kill -9 on the way.

Only arguments and printing; what happens is ``muster.flows.demo``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from muster.cli.outcome import show

EXAMPLES = """[bold]Examples[/bold]

muster demo

muster demo --volunteers 8 --out /tmp/demo
"""


def demo(
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to publish.", show_default="in the state folder")
    ] = None,
    volunteers: Annotated[int, typer.Option(min=3, max=64, help="One of them lies and one is killed.")] = 4,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first files.")] = None,
) -> None:
    """Build a corpus from this machine's Python files and preprocess it on an embedded pool.

    One of the volunteers lies and one is killed in mid-run; the published result is compared with a plain run here.
    """
    from muster.settings import prepare_prefect

    prepare_prefect()
    from muster.cli.progress import ProgressView
    from muster.flows.demo import run

    with ProgressView() as progress:
        report = run(out=out, volunteers=volunteers, limit=limit, on_progress=progress)
    show(report)
