"""``muster coordinator``, ``muster invite`` and ``muster operator create``: a pool's trusted side by hand.

Only arguments and printing; the parts are ``muster.cluster.coordinator`` and its ``bundles``.

Invariants: a bundle is a private key, so it is written for its owner's eyes only and never over an existing file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from muster.errors import ConfigError

if TYPE_CHECKING:
    from muster.cluster.coordinator.bundles import PoolAddresses

COORDINATOR_EXAMPLES = """[bold]Examples[/bold]

muster coordinator

muster coordinator --host 192.0.2.7 --pool-name lab
"""
INVITE_EXAMPLES = """[bold]Example[/bold]

muster invite --contributor "Ada L." --bundle ada.json
"""
OPERATOR_EXAMPLES = """[bold]Example[/bold]

muster operator create nightly
"""

PoolName = Annotated[str, typer.Option("--pool-name", metavar="NAME", help="Which pool of the state folder.")]

operator_app = typer.Typer(help="Credentials for those who send jobs to a pool.", no_args_is_help=True)


def coordinator(
    host: Annotated[str, typer.Option(help="Address that volunteers reach.")] = "127.0.0.1",
    gateway_port: Annotated[int, typer.Option(min=0, max=65535, help="HTTPS: data; 0 = any free port.")] = 8440,
    volunteer_port: Annotated[int, typer.Option(min=0, max=65535, help="The edge, for volunteers.")] = 8441,
    operator_port: Annotated[int, typer.Option(min=0, max=65535, help="The scheduler, for flows; local only.")] = 8442,
    pool_name: PoolName = "default",
) -> None:
    """Run a pool's trusted services in the foreground until Ctrl-C: scheduler with the edge, gateway, intake."""
    from muster.settings import prepare_environment

    pool_dir = prepare_environment().pool_dir(pool_name)
    from muster.cluster.coordinator.supervisor import run_coordinator

    def announce(addresses: PoolAddresses) -> None:
        typer.echo(f"pool {pool_name!r} is up (state in {pool_dir})")
        typer.echo(f"  gateway     {addresses.gateway_url}")
        typer.echo(f"  volunteers  {addresses.volunteer_address}")
        typer.echo(f"  flows       --pool {addresses.gateway_url}")
        typer.echo("invite a volunteer: muster invite --contributor NAME --bundle FILE")

    run_coordinator(
        pool_dir,
        host=host,
        operator_port=operator_port,
        volunteer_port=volunteer_port,
        gateway_port=gateway_port,
        on_ready=announce,
    )


def invite(
    contributor: Annotated[str, typer.Option(metavar="NAME", help="Who owns the machine and gets the credit.")],
    bundle: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the volunteer's credentials.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the volunteer.", show_default="the bundle file's name")
    ] = None,
    pool_name: PoolName = "default",
) -> None:
    """Write the file that one volunteer machine needs to join the pool.

    The file holds the machine's private key: hand it over privately, and use it on one machine only.
    """
    from muster.settings import prepare_environment

    pool_dir = prepare_environment().pool_dir(pool_name)
    _refuse_existing(bundle)
    from muster.cluster.coordinator.bundles import create_volunteer_bundle

    create_volunteer_bundle(pool_dir, name=name or bundle.stem, contributor=contributor, path=bundle)
    typer.echo(f"wrote {bundle}; on the volunteer's machine: muster volunteer run --bundle {bundle.name}")


@operator_app.command("create", epilog=OPERATOR_EXAMPLES)
def create_operator(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the operator, for the pool's records.")],
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to write it.", show_default="where --pool URL looks for it"),
    ] = None,
    pool_name: PoolName = "default",
) -> None:
    """Write the credentials that [bold]muster preprocess --pool URL[/bold] needs, on the pool's own machine."""
    from muster.settings import prepare_environment

    current = prepare_environment()
    pool_dir = current.pool_dir(pool_name)
    path = bundle or current.operator_bundle_path
    _refuse_existing(path)
    from muster.cluster.coordinator.bundles import create_operator_bundle

    create_operator_bundle(pool_dir, name=name, path=path)
    typer.echo(f"wrote {path}")
    if bundle is not None:
        typer.echo(f"use it with: MUSTER_OPERATOR_BUNDLE={path} muster preprocess … --pool URL")


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise ConfigError(f"{path} exists", hint="a bundle is a private key; move the old one away first")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent} is no folder")
