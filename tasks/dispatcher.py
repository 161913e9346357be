"""The dispatcher: feeds what happened to ``trust.decide`` and carries out what it says.

    what happened (registry events, key states, referees' outcomes) → decide → one transaction → instructions

It keeps the window of units filled, sends audits and home work to referees, and knows no rule of its own: every verdict
is ``decide``'s. It reads key states and the registry only; nothing of a volunteer's bytes comes near this process.

Invariants: one event's changes (records, ledger leaves, its sequence number) are one transaction, and instructions are
carried out after it, so that a kill in between repeats an instruction but never a decision; memory is O(window), not
O(units); one thread.
"""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from muster.cluster.coordinator.rows import HOME, EventRow, UnitRow
from muster.cluster.coordinator.step import Step
from muster.errors import JobError
from muster.tasks import bad_rows, happenings, recompute
from muster.tasks.recompute import Check, Claim
from muster.tasks.run import Run
from muster.tasks.stored_records import dump, load_contributor, load_unit
from muster.tasks.window import Window
from muster.trust import events as ev
from muster.trust import ledger
from muster.trust.decide import decide, resume
from muster.trust.records import ContributorRecord, Records, UnitRecord
from muster.trust.sampling import in_flight_seed

_POLL_S = 0.03


class Dispatcher:
    """Drives a run's units to rest; ``settle`` returns when every unit stands and no audit is under way."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.window = Window(run)
        self.job_id = run.job.job_id
        self._contributors = {n: load_contributor(t) for n, t in run.store.standings(self.job_id).items()}
        self._version = -1  # of the registry when it was last asked for events
        self._seq = run.store.job(self.job_id).events_seq
        self._fail_on_bad_row = run.params.on_bad_row == "fail"
        standing = run.store.count_units(self.job_id)
        self.resumed = standing.get("accepted", 0) + standing.get("trusted", 0)  # results of an earlier run
        self.on_report: Callable[[ev.AuditReported], None] | None = None  # the final audit counts its rows
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.IssueUnit: lambda i: self.window.issue(i.unit, i.issue),
            ev.AcceptResult: lambda i: self.window.release(i.unit),
            ev.AuditRows: self._audit,
            ev.CompareOnly: self._compare,
            ev.ComputeAtHome: self._compute_at_home,
            ev.DiscardContributor: self._discard,
            ev.FailJob: self._fail,
            ev.RecordVerdict: lambda _: None,  # written with the step
        }

    # -- the loop --------------------------------------------------------------------------------------------------

    def settle(self, on_progress: Callable[[], None]) -> None:
        """Work until every unit stands and no referee is busy; ``on_progress`` is called at every turn."""
        self._resume()
        while not self._at_rest():
            self.window.fill()
            self._wait()
            self.pump()
            on_progress()

    def pump(self) -> None:
        """Deal with everything that has happened so far."""
        self._drain_events()
        for state in self.window.key_states():
            self._on_key(*state)
        while True:
            try:
                outcome = self.run.referees.outcomes.get_nowait()
            except queue.Empty:
                break
            self._on_referee(outcome.tag, outcome.value, outcome.error)
        if self.window.tick_due():
            self._on_tick()

    def _wait(self) -> None:
        if self.run.referees.outcomes.empty():
            self.window.wait(_POLL_S)

    def _at_rest(self) -> bool:
        if self.run.referees.n_pending or not self.run.referees.outcomes.empty() or self.window.busy():
            return False
        counts = self.run.store.count_units(self.job_id)
        return not counts.get("open") and not counts.get("home")

    def _resume(self) -> None:
        """Take up what a killed run, or a failed audit round, left behind."""
        self._drain_events()
        for row in self.run.store.units_in(self.job_id, "home", limit=1_000_000):
            if not self._auditing(row.unit_id):  # a round's findings have sent it to a referee already
                self._carry_out(resume(self._unit(row), self.run.policy))
        for state in ("accepted", "trusted"):
            self._resume_audits(state)
        for name, who in list(self._contributors.items()):
            if who.quarantined:
                self._discard(ev.DiscardContributor(name, who.reason))
        if self._fail_on_bad_row:
            for unit, attempt in bad_rows.standing(self.run):
                self._check_reject(unit, attempt)

    def _resume_audits(self, state: str) -> None:
        after = -1
        while rows := self.run.store.units_in(self.job_id, state, limit=1000, after=after):
            after = rows[-1].chunk_index
            for unit in map(self._unit, rows):
                if unit.audits_pending and unit.digest and not self._auditing(unit.unit_id):
                    seed = in_flight_seed(self.run.job.inflight_key, unit.digest)
                    self._carry_out(resume(unit, self.run.policy, seed))

    def _auditing(self, unit_id: str) -> bool:
        return any(isinstance(tag, tuple) and unit_id in tag for tag in self.run.referees.tags())

    # -- what happened ---------------------------------------------------------------------------------------------

    def _drain_events(self) -> None:
        version = self.run.store.db.version()
        if version == self._version:
            return
        self._version = version
        while rows := self.run.store.attempts.events_after(self.job_id, self._seq):
            for row in rows:
                self._on_event(row)
                self._seq = row.seq

    def _on_event(self, row: EventRow) -> None:
        event = happenings.of_row(self.run, row)
        if event is None:
            return  # its number is stored with the next event's changes
        self.apply(event, seq=row.seq)
        if happenings.rejected_rows(row) and self._fail_on_bad_row:
            self._check_reject(row.unit_id, row.attempt_id)

    def _on_key(self, unit: str, issue: int, status: str, text: str) -> None:
        self._drain_events()  # what the volunteer did before it said so is in the registry by now
        for event in happenings.of_key(self.run, unit, issue, status, text):
            self.apply(event)
        row = self.run.store.unit(self.job_id, unit)
        if (row.state, row.issue) != ("open", issue):
            self.window.close_key(unit, issue)

    def _on_tick(self) -> None:
        self.run.pool.check()
        text = f"no result within {self.run.params.unit_timeout_s:g} s"
        for late in self.window.overdue():
            self.apply(happenings.failed(*late, "lost", text))
        for unit in self.window.units_nobody_takes():
            self.apply(ev.HomeRequested(unit, "no volunteer is there"))

    # -- one event -------------------------------------------------------------------------------------------------

    def apply(self, event: ev.Event, seq: int | None = None) -> None:
        """Let ``decide`` take the event in, store what changed, carry out what it says."""
        unit = self._unit(self.run.store.unit(self.job_id, event.unit))
        name = getattr(event, "contributor", None)
        who = {} if name is None else {name: self._contributors.get(name, ContributorRecord(name))}
        changed, instructions = decide(Records(unit, who), event, self.run.policy)
        with self.run.store.step() as step:
            self._write(step, unit, changed, instructions)
            if seq is not None:
                step.mark_seen(self.job_id, seq)
        self._contributors.update(changed.contributors)
        self._carry_out(instructions)

    def _write(self, step: Step, before: UnitRecord, changed: Records, instructions: Sequence[ev.Instruction]) -> None:
        accept = next((i for i in instructions if isinstance(i, ev.AcceptResult)), None)
        unit = changed.unit
        if unit is not None and accept is not None:
            stands = {"state": str(unit.state), "attempt_id": accept.attempt, "record": dump(unit)}
            if not step.accept_unit(self.job_id, unit.unit_id, **stands):
                raise JobError(f"{unit.place}: a result stands already; another run must be working on this job")
        elif unit is not None and unit.settled and before.settled:
            step.touch_unit(self.job_id, unit.unit_id, record=dump(unit))
        elif unit is not None:
            step.save_unit(self.job_id, unit.unit_id, state=str(unit.state), issue=unit.issue, record=dump(unit))
        for name, who in changed.contributors.items():
            step.save_standing(self.job_id, name, dump(who))
        for instruction in instructions:
            if isinstance(instruction, ev.RecordVerdict):
                step.append_leaf(self.job_id, ledger.verdict_leaf(time.time(), self.job_id, instruction))
            elif isinstance(instruction, ev.DiscardContributor):
                step.quarantine(instruction.contributor, instruction.reason)

    def _unit(self, row: UnitRow) -> UnitRecord:
        place = self.run.place(row.chunk)
        return load_unit(row.record, unit_id=row.unit_id, n_rows=row.n_rows, place=place, issue=row.issue)

    # -- instructions ----------------------------------------------------------------------------------------------

    def _carry_out(self, instructions: Sequence[ev.Instruction]) -> None:
        for instruction in instructions:
            self._handlers[type(instruction)](instruction)

    def _audit(self, order: ev.AuditRows) -> None:
        self.check(order.unit, order.attempt, None, recompute.check_offsets, order.offsets)

    def check(self, unit: str, attempt: str, round_number: int | None, function: Callable[..., Any], *how: Any) -> None:
        """Let a referee run ``function(work, claim, *how)`` on an attempt's result and report to ``decide``."""
        tag = ("check", unit, attempt, round_number)
        self.run.referees.submit(tag, function, self._work(), self._claim(unit, attempt), *how)

    def _work(self) -> Any:
        return self.run.referees.share(self.run.work)

    def _claim(self, unit: str, attempt: str) -> Claim:
        kept, rejects = self.run.pool.exchange.accepted_paths(attempt)
        chunk = self.run.store.unit(self.job_id, unit).chunk
        reported = json.loads(self.run.store.attempts.outcome(attempt) or "{}")
        digests = (str(reported.get("kept_blake3")), str(reported.get("rejects_blake3")))
        return Claim(chunk, str(kept), None if rejects is None else str(rejects), digests)

    def _compare(self, order: ev.CompareOnly) -> None:
        claims = (self._claim(order.unit, order.attempt), self._claim(order.unit, order.late))
        tag = ("compare", order.unit, order.attempt, order.late)
        self.run.referees.submit(tag, recompute.compare_claims, self._work(), *claims)

    def _check_reject(self, unit: str, attempt: str) -> None:
        """``--on-bad-row fail``: a rejected row ends the job, but only once trusted compute has seen it too."""
        if self.run.store.attempts.by(attempt)[1] == HOME:
            raise bad_rows.of_result(self.run, unit, attempt)
        first, claim = np.zeros(1, dtype=np.int64), self._claim(unit, attempt)
        tag = ("reject", unit, attempt)
        self.run.referees.submit(tag, recompute.check_ranks, self._work(), claim, first[:0], first)

    def _compute_at_home(self, order: ev.ComputeAtHome) -> None:
        row = self.run.store.unit(self.job_id, order.unit)
        attempt = self.run.store.attempts.begin_home(self.job_id, order.unit, row.issue)
        tag = ("home", order.unit, attempt)
        self.run.referees.submit(tag, recompute.compute_unit, self._work(), row.chunk, attempt)

    def _discard(self, order: ev.DiscardContributor) -> None:
        for unit in self.run.store.accepted_by(self.job_id, order.contributor):
            self.apply(ev.ResultDiscarded(unit, order.contributor))

    def _fail(self, order: ev.FailJob) -> None:
        raise happenings.job_failure(self.run, order.text)

    # -- referees' outcomes ----------------------------------------------------------------------------------------

    def _on_referee(self, tag: Hashable, value: Any, error: BaseException | None) -> None:
        assert isinstance(tag, tuple)
        {
            "check": self._checked,
            "compare": self._compared,
            "reject": self._reject_checked,
            "home": self._home_done,
        }[tag[0]](tag, value, error)

    def _checked(self, tag: tuple[Any, ...], check: Check | None, error: BaseException | None) -> None:
        _, unit, attempt, round_number = tag
        if check is None:
            self.apply(ev.AuditFailed(unit, attempt, _said(error)))
        else:
            self._report(unit, attempt, round_number, check)

    def _report(self, unit: str, attempt: str, round_number: int | None, check: Check) -> None:
        event = happenings.of_check(self.run, unit, attempt, round_number, check)
        self.apply(event)
        if self.on_report is not None:
            self.on_report(event)

    def _compared(self, tag: tuple[Any, ...], checks: Any, error: BaseException | None) -> None:
        _, unit, standing, late = tag
        for attempt, check in zip((standing, late), checks or (None, None), strict=True):
            if attempt == standing and self.run.store.attempts.by(attempt)[1] == HOME:
                continue
            self._checked(("check", unit, attempt, None), check, error)

    def _reject_checked(self, tag: tuple[Any, ...], check: Check | None, error: BaseException | None) -> None:
        _, unit, attempt = tag
        if check is None:
            raise JobError(f"a referee could not recompute a rejected row: {_said(error)}")
        if check.difference is not None or not check.source_unchanged:
            self._report(unit, attempt, None, check)
            return
        raise bad_rows.of_result(self.run, unit, attempt)

    def _home_done(self, tag: tuple[Any, ...], outcome: Any, error: BaseException | None) -> None:
        _, unit, attempt = tag
        if error is not None:
            self.run.store.attempts.end_home(attempt, "failed", json.dumps({"kind": "kernel", "text": _said(error)}))
            self.apply(ev.RefereeFailed(unit, _said(error)))
            return
        self.run.store.attempts.end_home(attempt, "validated", json.dumps(outcome))
        self.apply(ev.RefereeComputed(unit, outcome["digest"], attempt))
        if outcome["rejected"] and self._fail_on_bad_row:
            raise bad_rows.of_result(self.run, unit, attempt)

    @property
    def contributors(self) -> dict[str, ContributorRecord]:
        """What the job knows of each contributor."""
        return dict(self._contributors)


def _said(error: BaseException | None) -> str:
    return "no outcome" if error is None else f"{type(error).__name__}: {error}"
