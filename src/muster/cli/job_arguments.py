"""The arguments that say what a job is, shared by ``muster preprocess`` and ``muster plan``, and how they become one.

Runs nothing. Invariants: each argument is described once, here; what pydantic refuses reaches the user as one
sentence naming the option, not as a pydantic report.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from muster.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import ValidationError

    from muster.tasks.job import PreprocessParams


class BadRow(StrEnum):
    """What becomes of a row that can't be read."""

    fail = "fail"
    skip = "skip"
    quarantine = "quarantine"


Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Path, glob or fsspec URL of Parquet, Arrow/Feather, JSONL(.gz/.zst), or a folder of text files.",
    ),
]
Out = Annotated[str, typer.Argument(metavar="OUT", help="Folder or URL of the dataset to publish; must not exist.")]
RecipeSteps = Annotated[
    list[str],
    typer.Option(
        "--recipe", "-r", metavar="KERNEL", help="A kernel to run; repeat for more. See [bold]muster kernels[/bold]."
    ),
]
Pool = Annotated[
    str,
    typer.Option(
        metavar="embedded|local|URL",
        help="embedded: a pool on this machine. local: no pool, no audit. URL: the gateway of a running pool.",
    ),
]
Volunteers = Annotated[int, typer.Option(min=1, max=64, help="Volunteer processes of an embedded pool.")]
MaxError = Annotated[float, typer.Option(metavar="SHARE", help="Largest share of wrong rows to certify against.")]
Confidence = Annotated[float, typer.Option(metavar="SHARE", help="Confidence of the certificate.")]
RowsPerChunk = Annotated[int | None, typer.Option(min=1, help="Rows in a chunk.", show_default=False)]
ChunkMib = Annotated[
    float | None, typer.Option(help="MiB of input in a chunk, instead of a row count.", show_default="8")
]
Key = Annotated[str | None, typer.Option(metavar="COLUMN", help="A column to carry along as a label.")]
WithColumns = Annotated[
    str | None, typer.Option(metavar="A,B,…", help="Source columns to publish beside the new ones; see --on-bad-row.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first rows.")]
OnBadRow = Annotated[
    BadRow,
    typer.Option(
        help="A row that can't be read ends the job, is counted and left out, or is listed in rejects.parquet too. "
        "A carried value that can't be read ends the job, or is null."
    ),
]
StorageOption = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="Option for the source's file system; repeat for more.")
]


def params(
    *,
    source: str,
    out: str,
    recipe: list[str],
    pool: str,
    volunteers: int,
    max_error: float,
    confidence: float,
    rows_per_chunk: int | None,
    chunk_mib: float | None,
    key: str | None,
    with_columns: str | None,
    limit: int | None,
    on_bad_row: BadRow,
    storage_option: list[str] | None,
) -> PreprocessParams:
    """Return the job's parameters; raises ConfigError naming the argument that is wrong."""
    from pydantic import ValidationError

    from muster.tasks.job import PreprocessParams

    try:
        return PreprocessParams(
            source=source,
            out=out,
            recipe=recipe,
            pool=pool,
            volunteers=volunteers,
            max_error=max_error,
            confidence=confidence,
            rows_per_chunk=rows_per_chunk,
            chunk_mib=chunk_mib,
            key=key,
            with_columns=[name.strip() for name in (with_columns or "").split(",") if name.strip()],
            limit=limit,
            on_bad_row=on_bad_row.value,
            storage_options=_storage_options(storage_option or []),
        )
    except ValidationError as error:
        raise _as_config_error(error) from error


def _storage_options(pairs: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"--storage-option: expected NAME=VALUE, found {pair!r}")
        options[name] = value
    return options


def _as_config_error(error: ValidationError) -> ConfigError:
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not first["loc"]:
        return ConfigError(message)
    return ConfigError(f"{_option(str(first['loc'][0]))}: {message}, found {first['input']!r}")


def _option(field: str) -> str:
    if field in {"source", "out"}:
        return field.upper()
    return "--" + field.removesuffix("s" if field == "storage_options" else "").replace("_", "-")
