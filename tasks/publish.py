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
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from muster.cluster.coordinator.rows import AcceptedRow
from muster.datasets.certificate import certificate_body, sign_certificate
from muster.datasets.exchange import Exchange
from muster.datasets.keystore import KeyStore, create_signing_key, load_signing_key
from muster.datasets.manifest import Manifest, ManifestRow
from muster.datasets.publish import Publication
from muster.datasets.publish_targets import CERTIFICATE_FILE, MAX_CERTIFICATE_NBYTES, open_location
from muster.errors import JobError, MusterError, OutputError
from muster.settings import settings
from muster.tasks import bad_rows
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
        if state != "complete":
            publication.require_writable()
    if state == "complete":
        next_command = f"muster verify {params.out}"
        return JobReport(params.out, prepared.job_id, already_done=True, next_command=next_command)
    if state == "foreign":
        raise OutputError(
            f"{params.out} exists and {_what_it_is(prepared)}",
            hint="choose another OUT, or remove it first if it is not needed",
        )
    return None


def _what_it_is(prepared: Prepared) -> str:
    """Say of an OUT that is not this job's what it is instead: another job's dataset (and which), or no dataset."""
    params = prepared.params
    try:
        fs, root = open_location(params.out)
        with fs.open(f"{root}/{CERTIFICATE_FILE}", "rb") as file:
            there = json.loads(file.read(MAX_CERTIFICATE_NBYTES))
        steps, source = there["recipe_steps"], there["source"]
        mine = json.loads(prepared.recipe.to_json())["steps"]
        if source["fingerprint"] != prepared.source.fingerprint():
            what = f"another source ({source['url']}, or it has changed since)"
        elif steps != mine:
            what = f"another recipe ({', '.join(step['kernel'] for step in steps)}, or other parameters of it)"
        elif there["recipe"] != prepared.recipe.identity:
            what = "another build of the kernels"
        else:
            what = "other parameters"
    except (MusterError, KeyError, TypeError, ValueError, OSError):
        return "is not a dataset that Muster published"
    return f"holds the dataset of another job, with {what}"


def publish_dataset(what: Publishable, reporter: Reporter) -> dict[str, Any]:
    """Write parts, rejects, manifest and certificate to OUT and make them visible; return the certificate."""
    prepared = what.prepared
    exchange = Exchange(prepared.source.exchange_dir)
    rejects: list[tuple[Path, str]] = []
    with Publication(prepared.params.out, prepared.job_id) as publication:
        publication.begin()
        published, carried_nulls = Manifest(), 0
        for row, accepted in zip(what.manifest, what.accepted, strict=True):
            part, n_null = _add_part(publication, prepared, exchange, row, accepted)
            published.append(part)
            carried_nulls += n_null
            if row.rejected and prepared.params.on_bad_row == "quarantine":
                rejects.append(_rejects_of(exchange, accepted))
            reporter.update(Progress("publish", done=len(published), total=len(what.manifest), noun="chunks"))
        rejects_file, manifest_file = publication.add_rejects(rejects), publication.add_manifest(published)
        body = certificate_body(prepared.job_id, published, manifest_file, rejects_file, _fields(what, carried_nulls))
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
) -> tuple[ManifestRow, int]:
    """Add a chunk's part; return its row and how many carried values are null because they could not be read."""
    kept, _ = exchange.accepted_paths(accepted.attempt_id)
    outcome = json.loads(accepted.outcome)
    if (accepted.unit_id, outcome["digest"]) != (row.unit, row.digest):
        raise JobError(f"chunk {row.index}: another result stands now than was committed; run the job again")
    carried, n_null = bad_rows.carried_columns(prepared, accepted) if prepared.params.passthrough else (None, 0)
    columns = None if carried is None else lambda: carried
    return publication.add_part(row, kept, outcome["kept_blake3"], columns), n_null


def _rejects_of(exchange: Exchange, accepted: AcceptedRow) -> tuple[Path, str]:
    _, path = exchange.accepted_paths(accepted.attempt_id)
    if path is None:
        raise OutputError(f"accepted result {accepted.attempt_id}: its file of rejects is gone")
    return path, str(json.loads(accepted.outcome)["rejects_blake3"])


def _fields(what: Publishable, carried_nulls: int) -> dict[str, Any]:
    params = what.prepared.params
    mine = {name: value for name, value in what.claims.items() if name != "job"}
    return mine | {
        "source": {"url": params.source, "fingerprint": what.prepared.source.fingerprint()},
        "recipe_steps": json.loads(what.prepared.recipe.to_json())["steps"],
        "on_bad_row": params.on_bad_row,
        "carried_nulls": carried_nulls,
    }
