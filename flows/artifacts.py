"""What operators see of a running job in Prefect: a progress bar, a table of chunks, and the report at its end.

All three belong to the flow run; bar and table are one artifact each, which a thread keeps current, so that a slow
Prefect server never holds up the job. Decides nothing and reads nothing but ``Progress`` and ``JobReport``.

Invariants: bar and table are sent at most once a second each, and only when they changed; text from volunteers is
escaped and tables are bounded; a server that fails costs what is shown, never the job.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, create_table_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactUpdate

from muster.cluster.coordinator.rows import HOME
from muster.tasks.progress import Progress
from muster.tasks.report import JobReport

logger = logging.getLogger(__name__)

MIN_INTERVAL_S = 1.0
MAX_VOLUNTEERS = 200  # rows of the table; the busiest are shown
_JOIN_S = 5.0

# Column of the table for each state of a unit and of an attempt; what is not named counts as failed or lost.
_COLUMNS = ("in work", "accepted", "refused", "failed or lost")
_COLUMN_OF = {
    "open": "in work",
    "home": "in work",
    "started": "in work",
    "uploaded": "in work",
    "accepted": "accepted",
    "trusted": "accepted",
    "validated": "accepted",
    "refused": "refused",
}


class Artifacts:
    """The artifacts of one flow run; a context manager to be entered inside it."""

    def __init__(self) -> None:
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._latest: Progress | None = None
        self._sent: dict[UUID, ArtifactUpdate] = {}
        self._thread = threading.Thread(target=self._keep_current, name="artifacts", daemon=True)

    def __enter__(self) -> Self:
        self._bar = _id(create_progress_artifact(progress=0.0, key="muster-progress", description="starting"))
        self._table = _id(
            create_table_artifact(chunk_rows({}, {}), key="muster-chunks", description="Chunks, and who computes them")
        )
        self._thread.start()
        return self

    def update(self, progress: Progress) -> None:
        """Show ``progress`` soon; returns at once."""
        if not progress.by_state and self._latest is not None:  # the table stays when a stage counts no chunks
            progress = replace(progress, by_state=self._latest.by_state, by_volunteer=self._latest.by_volunteer)
        self._latest = progress
        self._wake.set()

    def finish(self, report: JobReport) -> None:
        """Bring bar and table up to date and write the report with the certificate."""
        n, noun = (report.kept, "rows") if report.kept else (1, "dataset")
        self.update(Progress("published", n, n, noun))
        try:
            create_markdown_artifact(report_markdown(report), key="muster-report", description="Result and certificate")
        except Exception as error:
            logger.warning("the report could not be shown; the dataset is published: %s", error)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._wake.set()
        if kind is None or issubclass(kind, Exception):  # a run that is being cancelled has no time to lose
            self._thread.join(_JOIN_S)

    def _keep_current(self) -> None:
        with get_client(sync_client=True) as client:
            while not self._stop.is_set():
                self._wake.wait()
                self._wake.clear()
                self._send(client)
                self._stop.wait(MIN_INTERVAL_S)
            self._send(client)

    def _send(self, client: SyncPrefectClient) -> None:
        progress = self._latest
        if progress is None:
            return
        rows = chunk_rows(progress.by_state, progress.by_volunteer)
        updates = {
            self._bar: ArtifactUpdate(data=percent(progress), description=line(progress)),
            self._table: ArtifactUpdate(data=json.dumps(rows)),
        }
        try:
            for artifact, update in updates.items():
                if self._sent.get(artifact) != update:
                    client.update_artifact(artifact, update)
                    self._sent[artifact] = update
        except Exception as error:
            logger.warning("an artifact could not be updated; the job goes on: %s", error)


def percent(progress: Progress) -> float:
    """Return how much of the stage is done, 0 to 100."""
    return round(100.0 * progress.done / progress.total, 1) if progress.total else 0.0


def line(progress: Progress) -> str:
    """Return the bar's text."""
    count = f"{progress.done:,} of {progress.total:,} {progress.noun}" if progress.total else ""
    return f"**{progress.stage}** " + " · ".join(escaped(part) for part in (count, progress.note) if part)


def chunk_rows(by_state: Mapping[str, int], by_volunteer: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    """Return the table: chunks of the job by state, then attempts by volunteer and state, the busiest first."""
    people: dict[str, dict[str, int]] = {}
    for (volunteer, state), n in by_volunteer.items():
        name = "trusted workers" if volunteer == HOME else volunteer
        _count(people.setdefault(name, dict.fromkeys(_COLUMNS, 0)), state, n)
    busiest = sorted(people.items(), key=lambda one: (-sum(one[1].values()), one[0]))
    job = dict.fromkeys(_COLUMNS, 0)
    for state, n in by_state.items():
        _count(job, state, n)
    rows: list[dict[str, Any]] = [{"chunks of": "the whole job", **job}]
    rows += [{"chunks of": name, **counts} for name, counts in busiest[:MAX_VOLUNTEERS]]
    if len(busiest) > MAX_VOLUNTEERS:
        rows.append({"chunks of": f"… and {len(busiest) - MAX_VOLUNTEERS:,} more volunteers"})
    return rows


def _count(row: dict[str, int], state: str, n: int) -> None:
    row[_COLUMN_OF.get(state, "failed or lost")] += n


def report_markdown(report: JobReport) -> str:
    """Return the report: the certificate's sentence, the run's numbers, and the certificate as it was signed."""
    lines = [(label, text) for label, text in report.lines() if label != "certified"]
    table = "\n".join(f"| {label} | {escaped(text)} |" for label, text in lines)
    parts = ["# Result", f"> {escaped(report.statement)}" if report.statement else "", f"| | |\n|---|---|\n{table}"]
    if report.certificate:
        certificate = json.dumps(report.certificate, indent=2, sort_keys=True, default=str, ensure_ascii=False)
        parts += ["## Certificate", f"```json\n{certificate}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def escaped(text: str) -> str:
    """Return ``text`` so that Markdown shows it as it is, on one line."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#~" else c for c in " ".join(text.split()))


def _id(artifact: Any) -> UUID:
    """Return the id that Prefect's functions give; their signatures say that it might be awaitable."""
    assert isinstance(artifact, UUID)
    return artifact
