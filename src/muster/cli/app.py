"""The ``muster`` command: the tree of its commands and the one place that turns errors into exit codes.

Each group of commands has its file here; this one only hangs them together. It does no work of its own.

Invariants: importing this module loads nothing heavy (typer only; a test looks), so that ``muster --help`` is instant;
commands import what they run when they run; whatever goes wrong, the process ends with a short message on stderr.
"""

from __future__ import annotations

from typing import Annotated

import typer

from muster import __version__
from muster.cli import demo, failures, jobs, kernels, pools, verification, volunteers

app = typer.Typer(
    name="muster",
    help="Batch computing on machines that nobody controls, with verified results.",
    epilog="Start with: muster demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("demo", epilog=demo.EXAMPLES)(demo.demo)
app.command("preprocess", epilog=jobs.PREPROCESS_EXAMPLES)(jobs.preprocess)
app.command("plan", epilog=jobs.PLAN_EXAMPLES)(jobs.plan)
app.command("verify", epilog=verification.EXAMPLES)(verification.verify)
app.command("kernels", epilog=kernels.EXAMPLES)(kernels.kernels)
app.command("coordinator", epilog=pools.COORDINATOR_EXAMPLES)(pools.coordinator)
app.command("invite", epilog=pools.INVITE_EXAMPLES)(pools.invite)
app.add_typer(pools.operator_app, name="operator")
app.add_typer(volunteers.app, name="volunteer")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"muster {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and exit; the statuses are in ``docs/quickstart.md``."""
    failures.end_on_sigterm()
    raise SystemExit(failures.guarded(lambda: app(standalone_mode=False)))
