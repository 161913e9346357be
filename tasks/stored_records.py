"""Trust's records as the JSON text that the registry stores, and back.

Decides nothing. Invariant: reading what was written gives an equal record; a field that trust added since gets its
default, an unknown one is refused (a registry written by a newer Muster must not be half understood).
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from muster.errors import JobError
from muster.trust.records import ContributorRecord, UnitRecord, UnitState


def dump(record: UnitRecord | ContributorRecord) -> str:
    """Return the record as JSON."""
    return json.dumps(asdict(record), separators=(",", ":"))


def load_unit(text: str, *, unit_id: str, n_rows: int, place: str, issue: int) -> UnitRecord:
    """Return the stored record, or a new one for a unit that has none yet (empty text)."""
    if not text:
        return UnitRecord(unit_id=unit_id, n_rows=n_rows, place=place, issue=issue)
    values = _known(UnitRecord, text)
    return UnitRecord(**values | {"state": UnitState(values["state"])})


def load_contributor(text: str) -> ContributorRecord:
    """Return the stored record."""
    return ContributorRecord(**_known(ContributorRecord, text))


def _known(kind: type, text: str) -> dict[str, Any]:
    values = json.loads(text)
    unknown = set(values) - {f.name for f in fields(kind)}
    if unknown:
        raise JobError(f"the registry holds {kind.__name__} fields of a newer Muster: {', '.join(sorted(unknown))}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
