"""Publish: from standing results to a signed dataset that readers see whole or not at all.

Shared by pools and the local run. Draws nothing, checks nothing that ``certify`` has to; a dataset without a clean
round carries the grade that is true of it.

Invariants: parts and rejects are re-hashed when they are read; the certificate signs the manifest's root and file
digests; an OUT that is complete already is reported and left alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from muster.cluster.coordinator.rows import AcceptedRow
from muster.datasets.certificate import certificate_body, sign_certificate
from muster.datasets.chunks import ChunkRef
from muster.datasets.exchange import Exchange
from muster.datasets.keystore import KeyStore, create_signing_key, load_signing_key
from muster.datasets.manifest import Manifest, ManifestRow
from muster.datasets.publish import Publication
from muster.datasets.reading import read_chunk
from muster.errors import OutputError
from muster.settings import settings
from muster.tasks.plan import Prepared
from muster.tasks.progress import Progress, Reporter
from muster.tasks.report import JobReport


@dataclass(frozen=True)
class Publishable:
    """What is to be published: the committed manifest, what may be claimed, the accepted results in chunk order."""

    prepared: Prepared
    manifest: Manifest
    claims: dict[str, Any]
    accepted: Iterator[AcceptedRow]


def already_published(prepared: Prepared) -> JobReport | None:
    """Return a report if OUT holds this very job's dataset; raises OutputError if it holds anything else."""
    params = prepared.params
    with Publication(params.out, prepared.job_id) as publication:
        state = publication.state()
    if state == "complete":
        next_command = f"muster verify {params.out}"
        return JobReport(params.out, prepared.job_id, already_done=True, next_command=next_command)
    if state == "foreign":
        raise OutputError(
            f"{params.out} exists and is not the output of this job",
            hint="choose another OUT, or remove it first if it is not needed",
        )
    return None


def publish_dataset(what: Publishable, reporter: Reporter) -> dict[str, Any]:
    """Write parts, rejects, manifest and certificate to OUT and make them visible; return the certificate."""
    prepared = what.prepared
    exchange = Exchange(prepared.source.exchange_dir)
    rejects: list[tuple[Path, str]] = []
    with Publication(prepared.params.out, prepared.job_id) as publication:
        publication.begin()
        published = Manifest()
        for row, accepted in zip(what.manifest, what.accepted, strict=True):
            published.append(_add_part(publication, prepared, exchange, row, accepted))
            if row.rejected and prepared.params.on_bad_row == "quarantine":
                rejects.append(_rejects_of(exchange, accepted))
            reporter.update(Progress("publish", done=len(published), total=len(what.manifest), noun="chunks"))
        rejects_file, manifest_file = publication.add_rejects(rejects), publication.add_manifest(published)
        body = certificate_body(prepared.job_id, published, manifest_file, rejects_file, _fields(what))
        certificate = sign_certificate(body, _operator_key())
        publication.complete(certificate)
    return dict(json.loads(certificate))


def _operator_key() -> Ed25519PrivateKey:
    """Return this state folder's signing key, made and pinned at its first use."""
    path = settings().home / "keys" / "operator.pem"
    key = load_signing_key(path) if path.exists() else create_signing_key(path)
    KeyStore(settings().keystore_path).pin("operator", key.public_key().public_bytes_raw())
    return key


def _add_part(
    publication: Publication, prepared: Prepared, exchange: Exchange, row: ManifestRow, accepted: AcceptedRow
) -> ManifestRow:
    kept, _ = exchange.accepted_paths(accepted.attempt_id)
    carried = partial(_passthrough, prepared, accepted) if prepared.params.passthrough else None
    return publication.add_part(row, kept, json.loads(accepted.outcome)["kept_blake3"], carried)


def _passthrough(prepared: Prepared, accepted: AcceptedRow) -> pa.Table:
    """Return the columns to carry along for all rows of a chunk, in the order the user gave."""
    source = prepared.source
    ref = source.with_columns(ChunkRef.from_json(accepted.chunk), prepared.params.passthrough)
    source.check_unchanged(ref.file)
    rows = read_chunk(ref, source.schema, source.byte_source(ref.file))
    return rows.table.select(list(prepared.params.passthrough))


def _rejects_of(exchange: Exchange, accepted: AcceptedRow) -> tuple[Path, str]:
    _, path = exchange.accepted_paths(accepted.attempt_id)
    if path is None:
        raise OutputError(f"accepted result {accepted.attempt_id}: its file of rejects is gone")
    return path, str(json.loads(accepted.outcome)["rejects_blake3"])


def _fields(what: Publishable) -> dict[str, Any]:
    params = what.prepared.params
    mine = {name: value for name, value in what.claims.items() if name != "job"}
    return mine | {
        "source": {"url": params.source, "fingerprint": what.prepared.source.fingerprint()},
        "recipe_steps": json.loads(what.prepared.recipe.to_json())["steps"],
        "on_bad_row": params.on_bad_row,
    }
