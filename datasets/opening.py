"""Open a source: choose the format, fingerprint and stage the files, and freeze one schema for all of them.

It does not plan chunks. Invariants: one source has one format; in a folder, data files win over text files and names
that begin with ``_`` are not data (Hive's convention); a source without a row is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pyarrow as pa

from muster.datasets import formats
from muster.datasets.chunks import Format
from muster.datasets.file_lists import is_text, list_folder
from muster.datasets.origins import FileBytes, Found, Origin, Progress
from muster.datasets.schemas import merge, normalise
from muster.datasets.sources import Source, SourceFile
from muster.errors import SourceError


def gather(url: str, exchange_dir: Path, origin: Origin, on_progress: Progress | None) -> Source:
    """Return the opened source; see ``open_source``."""
    fmt, found = _choose(url, origin)
    if fmt == "text":
        from muster.datasets.text_files import SCHEMA

        file = list_folder(url, origin, exchange_dir, on_progress)
        return Source(url, "text", SCHEMA, [file], {}, exchange_dir, origin)
    files = [
        SourceFile(index, f.path, f.name, f.nbytes, origin.fingerprint(f, on_progress), f.version)
        for index, f in enumerate(found)
    ]
    if fmt == "jsonl":
        fmt, files = _stage_compressed(files, exchange_dir, origin)
    elif fmt == "arrow":
        fmt, files = _stage_streams(files, exchange_dir, origin)
    source = Source(url, cast("Format", fmt), pa.schema([]), files, {}, exchange_dir, origin)
    schema, options = _freeze(source)
    source = replace(source, schema=schema, options=options)
    if next(source.chunks(schema.names[:1], limit=1), None) is None:
        raise SourceError(f"{url}: expected rows, found none in {_count(files)}")
    return source


def _choose(url: str, origin: Origin) -> tuple[str, list[Found]]:
    """Return the source's format and its data files (none for text: a folder of them is listed streaming)."""
    by_format: dict[str, list[Found]] = {}
    later: Counter[str] = Counter()
    documents: list[Found] = []
    n_seen = n_text = 0
    for found in origin.find():
        n_seen += 1
        hidden = any(part.startswith("_") for part in found.name.split("/")) and not url.endswith(found.name)
        fmt = None if hidden else formats.format_of(found.name)
        if fmt is not None and found.name.lower().endswith(".json"):
            documents.append(found)  # a folder of code has these too; see below
        elif fmt is not None:
            by_format.setdefault(fmt, []).append(found)
        elif is_text(found.name):
            n_text += 1
        elif (planned := formats.later_of(found.name)) is not None:
            later[planned] += 1
    if not by_format and documents and not n_text:
        by_format["jsonl"] = documents
    if len(by_format) > 1:
        examples = ", ".join(f"{files[0].name} ({fmt})" for fmt, files in by_format.items())
        raise SourceError(f"{url}: expected files of one format, found {examples}", hint="name one by a glob")
    if by_format:
        return next(iter(by_format.items()))
    if n_text:
        return "text", []
    raise _nothing(url, n_seen, later)


def _nothing(url: str, n_seen: int, later: Counter[str]) -> SourceError:
    hint = f"supported: {formats.SUPPORTED}"
    if later:
        planned = ", ".join(f"{count} of {name}" for name, count in later.items())
        return SourceError(f"{url}: found only files of formats that come later: {planned}", hint=hint)
    if n_seen:
        return SourceError(f"{url}: found {n_seen} files, none of a format that can be read", hint=hint)
    return SourceError(f"{url}: expected data, found an empty folder or a glob without a match", hint=hint)


def _stage_compressed(files: list[SourceFile], exchange_dir: Path, origin: Origin) -> tuple[str, list[SourceFile]]:
    """Stage compressed JSON lines; a mix is staged whole, since a source has one way of reading."""
    if not any(file.name.lower().endswith(formats.COMPRESSED) for file in files):
        return "jsonl", files
    from muster.datasets.staging import stage_lines

    return "staged", [stage_lines(file, exchange_dir, origin) for file in files]


def _stage_streams(files: list[SourceFile], exchange_dir: Path, origin: Origin) -> tuple[str, list[SourceFile]]:
    """Stage Arrow streams, which have no footer to cut by; a mix is staged whole."""
    from muster.datasets.arrow_ipc import is_stream

    if not any(is_stream(file, FileBytes(origin, file.path)) for file in files):
        return "arrow", files
    from muster.datasets.staging import stage_stream

    return "staged", [stage_stream(file, exchange_dir, origin) for file in files]


def _freeze(source: Source) -> tuple[pa.Schema, dict[str, list[str]]]:
    """Return one schema for all files; JSON lines guess it from the first file that has a row."""
    module = formats.load(source.format)
    guessed = source.format == "jsonl" or (source.format == "staged" and source.files[0].plan_nbytes > 0)
    schema: pa.Schema | None = None
    options: dict[str, list[str]] = {}
    first = source.files[0].name
    for file in source.files:
        own, found = module.inspect(file, source.byte_source(file.index))
        if guessed and len(own) == 0:
            continue
        schema, first = merge(schema, normalise(own, file.name), file.name, first), first if schema else file.name
        options = options or found
        if guessed:
            break
    if schema is None or len(schema) == 0:
        raise SourceError(f"{source.url}: expected rows with columns, found none in {_count(source.files)}")
    return schema, options


def _count(files: Sequence[SourceFile]) -> str:
    nbytes = sum(file.nbytes for file in files)
    return f"{files[0].name} ({nbytes} bytes)" if len(files) == 1 else f"{len(files)} files ({nbytes} bytes)"
