"""``muster volunteer run``: lend this machine to a pool.

Only arguments; the volunteer is ``muster.cluster.volunteer.agent``. Invariant: nothing of the coordinator is imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """[bold]Examples[/bold]

muster volunteer run --bundle ada.json

muster volunteer run --bundle ada.json --cores 2 --scratch /var/tmp/muster
"""

app = typer.Typer(help="Lend this machine to a pool.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command("run", epilog=EXAMPLES)
def run(
    bundle: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="The invitation: credentials made by [bold]muster invite[/bold].",
        ),
    ],
    cores: Annotated[int | None, typer.Option(min=1, max=1024, help="Cores to lend.", show_default="all")] = None,
    scratch: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="For work in progress.", show_default="in the state folder")
    ] = None,
) -> None:
    """Join a pool and work until Ctrl-C.

    Runs only the kernels installed here; the pool sends references to data, never code.
    """
    from muster.settings import prepare_environment

    current = prepare_environment()
    current.logs_dir.mkdir(parents=True, exist_ok=True)
    from muster.cluster.volunteer.agent import VolunteerConfig
    from muster.cluster.volunteer.agent import run as run_agent

    config = VolunteerConfig(
        bundle_path=str(bundle),
        scratch_dir=str(scratch or current.home / "volunteer" / bundle.stem),
        n_threads=cores or 0,
        log_path=str(current.logs_dir / f"volunteer-{bundle.stem}.log"),
    )

    def announce(joined: dict[str, object]) -> None:
        typer.echo(f"{joined['name']} has joined the pool with {joined['n_threads']} cores; Ctrl-C to leave")
        typer.echo(f"log: {config.log_path}")

    run_agent(config, announce)
