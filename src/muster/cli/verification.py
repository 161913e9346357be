"""``muster verify``: check a published dataset, offline, against its certificate and a pinned key.

Only prints; the checks are ``muster.tasks.verify_dataset``. Invariant: exit status 0 means that every check passed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from muster.cli.outcome import show

EXAMPLES = """[bold]Examples[/bold]

muster verify scored

muster verify scored --recompute 200

muster verify s3://bucket/scored --keystore our-keys.json
"""


def verify(
    out: Annotated[str, typer.Argument(metavar="OUT", help="The published dataset.")],
    recompute: Annotated[
        int, typer.Option(min=0, metavar="N", help="Also recompute N random rows from the source, here.")
    ] = 0,
    keystore: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Pinned public keys.", show_default="the state folder's keystore.json"),
    ] = None,
    unsafe_any_key: Annotated[
        bool, typer.Option("--unsafe-any-key", help="Accept a certificate signed by a key that nobody pinned.")
    ] = False,
) -> None:
    """Check signature, manifest root, file digests and row counts of a published dataset.

    Exits with 3 and names the exact place when anything differs.
    """
    from muster.settings import prepare_environment

    current = prepare_environment()
    from muster.tasks.verify_dataset import verify as check

    pinned = keystore or current.keystore_path
    show(check(out, recompute=recompute, keystore=pinned, unsafe_any_key=unsafe_any_key))
