"""``muster kernels``: the kernels that are installed here, what they read and what they add.

Only prints. Invariant: nothing is compiled and no kernel is run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from muster.kernels.kernel import Kernel

EXAMPLES = """[bold]Examples[/bold]

muster kernels

muster kernels text.minhash@1
"""


def kernels(
    kernel_id: Annotated[
        str | None, typer.Argument(metavar="[KERNEL]", help="Show one kernel with its parameters.")
    ] = None,
) -> None:
    """List the installed kernels with their schemas."""
    from muster.settings import prepare_environment

    prepare_environment()
    from muster.kernels import registry

    found = [registry.get(kernel_id)] if kernel_id else registry.all_kernels()
    for position, kernel in enumerate(found):
        if position:
            typer.echo("")
        _describe(kernel, with_parameters=kernel_id is not None)


def _describe(kernel: Kernel, *, with_parameters: bool) -> None:
    params = kernel.params_model()
    kind = ("row-wise" if kernel.row_wise else "not row-wise") + (", exact" if kernel.exact else ", tolerant")
    typer.secho(kernel.id, bold=True, nl=False)
    typer.echo(f"  {kernel.summary}  ({kind}; {kernel.arithmetic})")
    typer.echo("  reads   " + _columns(kernel.input_schema(params)))
    typer.echo("  adds    " + _columns(kernel.output_schema(params)))
    if with_parameters:
        for name, field in kernel.params_model.model_fields.items():
            default = "required" if field.is_required() else f"default {field.default!r}"
            typer.echo(f"  {name}: {getattr(field.annotation, '__name__', field.annotation)}, {default}")
            if field.description:
                typer.echo(f"      {field.description}")
        typer.echo(f"  build   {kernel.build_digest}")


def _columns(schema: object) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)  # type: ignore[attr-defined]
