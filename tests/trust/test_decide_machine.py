"""``decide`` driven by a small pool: honest, lying, refusing and vanishing contributors, events late, twice, reordered.

The pool obeys instructions as the dispatcher does and knows the truth (which rows of which attempt are wrong), so that
it can check what ``decide`` can't see: nobody honest is ever caught, and nothing wrong survives to certification.
"""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from muster.trust.decide import decide, resume
from muster.trust.events import (
    AcceptResult,
    AttemptFailed,
    AttemptStarted,
    AuditFailed,
    AuditReported,
    AuditRows,
    BadRow,
    CompareOnly,
    ComputeAtHome,
    DiscardContributor,
    FailJob,
    HomeRequested,
    IssueUnit,
    RecordVerdict,
    RefereeComputed,
    RefereeFailed,
    ResultDiscarded,
    ResultRefused,
    ResultValidated,
)
from muster.trust.policy import InFlight, Policy
from muster.trust.records import ContributorRecord, Records, UnitRecord, UnitState
from muster.trust.sampling import in_flight_seed

KEY = bytes(range(32))
N_ROWS = 12
POLICY = Policy(max_error=0.01, in_flight=InFlight(2, 3, 0.3, 2), max_faults=2, max_tries=6)
PEOPLE = {"ann": "honest", "bob": "honest", "cat": "honest", "eve": "liar", "mal": "liar", "ref": "refuser"}


@dataclass
class Attempt:
    unit: str
    issue: int
    name: str
    contributor: str
    digest: str = "good"
    wrong: frozenset = frozenset()

    @property
    def by(self):
        return {"attempt": self.name, "volunteer": f"{self.contributor}-pc", "contributor": self.contributor}


@dataclass
class Pool:
    units: dict = field(default_factory=dict)
    people: dict = field(default_factory=dict)
    attempts: dict = field(default_factory=dict)
    running: list = field(default_factory=list)
    orders: list = field(default_factory=list)  # audits, comparisons and home work under way
    discards: list = field(default_factory=list)
    standing: dict = field(default_factory=dict)  # what the exchange holds, by unit
    caught: set = field(default_factory=set)
    history: list = field(default_factory=list)
    failed: str = ""
    poison: str = ""

    def apply(self, event, resume_after=False):
        name = getattr(event, "contributor", None)
        people = {name: self.people[name]} if name else {}
        before = self.units[event.unit]
        changed, instructions = decide(Records(before, people), event, POLICY)
        after = changed.unit or before
        self.units[event.unit] = after
        self.people |= changed.contributors
        self.history.append(event)
        if before.settled and not after.settled:
            self.standing.pop(event.unit)
        for instruction in instructions:
            self.carry_out(instruction)
        return instructions

    def carry_out(self, order):
        if isinstance(order, AcceptResult):
            assert order.unit not in self.standing, "a unit was accepted twice"
            self.standing[order.unit] = order.attempt
        elif isinstance(order, AuditRows | CompareOnly | ComputeAtHome):
            self.orders.append(order)
        elif isinstance(order, DiscardContributor):
            theirs = [u for u, r in self.units.items() if r.state is UnitState.ACCEPTED]
            self.discards += [
                ResultDiscarded(u, order.contributor) for u in theirs if self.units[u].contributor == order.contributor
            ]
        elif isinstance(order, FailJob):
            self.failed = order.text
        else:
            assert isinstance(order, IssueUnit | RecordVerdict)

    def start(self, unit, contributor, wrong=frozenset()):
        record = self.units[unit]
        name = f"t{len(self.attempts)}"
        digest = "good" if not wrong else f"bad-{name}"
        attempt = Attempt(unit, record.issue, name, contributor, digest, frozenset(wrong))
        self.attempts[name] = attempt
        self.running.append(attempt)
        self.apply(AttemptStarted(unit, record.issue, **attempt.by))

    def finish(self, attempt):
        where = {"unit": attempt.unit, "issue": attempt.issue, **attempt.by}
        if attempt.unit == self.poison:
            self.apply(AttemptFailed(**where, kind="kernel", text="boom"))
        elif PEOPLE[attempt.contributor] == "refuser":
            self.apply(ResultRefused(**where, kind="wrong-rows", text="11 rows", source_unchanged=True))
        else:
            seed = in_flight_seed(KEY, attempt.digest)
            self.apply(ResultValidated(**where, digest=attempt.digest, n_rows=N_ROWS, seed=seed))

    def report(self, name, offsets, round_number=None):
        attempt = self.attempts[name]
        wrong = sorted(attempt.wrong & set(offsets))
        bad = BadRow(wrong[0], "1", "2") if wrong else None
        self.caught |= {name} if wrong else set()
        self.apply(
            AuditReported(
                attempt.unit, name, attempt.contributor, round_number, len(offsets), bad, source_unchanged=True
            )
        )

    def perform(self, order):
        if isinstance(order, AuditRows):
            self.report(order.attempt, order.offsets)
        elif isinstance(order, ComputeAtHome):
            good = order.unit != self.poison
            self.apply(RefereeComputed(order.unit, "good") if good else RefereeFailed(order.unit, "boom"))
        else:
            wrong = [self.attempts[a].wrong if a in self.attempts else frozenset() for a in (order.attempt, order.late)]
            # Attempts with different digests differ in a row where at least one of them is wrong.
            first = min(wrong[0] | wrong[1])
            for name in (order.attempt, order.late):
                if name in self.attempts:
                    self.report(name, (first,))


class DecideMachine(RuleBasedStateMachine):
    @initialize(n_units=st.integers(1, 4), poisoned=st.integers(0, 9))
    def begin(self, n_units, poisoned):
        self.pool = Pool(people={name: ContributorRecord(name) for name in PEOPLE})
        self.pool.units = {f"u{i}": UnitRecord(f"u{i}", N_ROWS, f"chunk {i}") for i in range(n_units)}
        self.pool.poison = f"u{poisoned}"

    @rule(data=st.data(), who=st.sampled_from(sorted(PEOPLE)), wrong=st.sets(st.integers(0, N_ROWS - 1), min_size=1))
    def start(self, data, who, wrong):
        unit = data.draw(st.sampled_from(sorted(self.pool.units)))
        if not self.pool.people[who].quarantined:
            self.pool.start(unit, who, wrong if PEOPLE[who] == "liar" else frozenset())

    @precondition(lambda self: self.pool.running)
    @rule(data=st.data())
    def finish(self, data):
        """Any running attempt ends, also of somebody quarantined meanwhile."""
        self.pool.finish(self.pool.running.pop(data.draw(st.integers(0, len(self.pool.running) - 1))))

    @precondition(lambda self: self.pool.running)
    @rule(data=st.data(), over=st.booleans(), kind=st.sampled_from(["lost", "transfer", "settled", "no-upload"]))
    def vanish(self, data, over, kind):
        """The attempt is reported ended but may still finish: it is not removed from the running ones."""
        attempt = data.draw(st.sampled_from(self.pool.running))
        self.pool.apply(AttemptFailed(attempt.unit, attempt.issue, **attempt.by, kind=kind, text="", issue_over=over))

    @precondition(lambda self: self.pool.orders)
    @rule(data=st.data())
    def referee(self, data):
        self.pool.perform(self.pool.orders.pop(data.draw(st.integers(0, len(self.pool.orders) - 1))))

    @precondition(lambda self: any(isinstance(o, AuditRows) for o in self.pool.orders))
    @rule()
    def referee_breaks_down(self):
        order = next(o for o in self.pool.orders if isinstance(o, AuditRows))
        self.pool.orders.remove(order)
        self.pool.apply(AuditFailed(order.unit, order.attempt, "out of memory"))

    @precondition(lambda self: self.pool.discards)
    @rule()
    def discard(self):
        self.pool.apply(self.pool.discards.pop(0))

    @rule(data=st.data())
    def starve(self, data):
        self.pool.apply(HomeRequested(data.draw(st.sampled_from(sorted(self.pool.units))), "nobody there"))

    @precondition(lambda self: self.pool.history)
    @rule(data=st.data())
    def again(self, data):
        """Any event may be delivered a second time, at any time."""
        self.pool.apply(data.draw(st.sampled_from(self.pool.history)))

    @invariant()
    def nobody_honest_is_caught(self):
        if hasattr(self, "pool"):
            assert not any(r.quarantined and PEOPLE[n] == "honest" for n, r in self.pool.people.items())

    @invariant()
    def records_and_exchange_agree(self):
        if not hasattr(self, "pool"):
            return
        for name, unit in self.pool.units.items():
            assert self.pool.standing.get(name) == (unit.attempt if unit.settled else None)
            assert (unit.state is UnitState.ACCEPTED) == (unit.contributor is not None)
            assert len(unit.failures_by) <= POLICY.max_attempts
            assert len(unit.failed_attempts) <= POLICY.max_tries
            if unit.state is UnitState.ACCEPTED and self.pool.people[unit.contributor].quarantined:
                assert ResultDiscarded(name, unit.contributor) in self.pool.discards

    @invariant()
    def what_was_caught_does_not_stand(self):
        if hasattr(self, "pool"):
            assert not self.pool.caught & set(self.pool.standing.values())

    def teardown(self):
        if hasattr(self, "pool"):
            finish_job(self.pool)


def finish_job(pool):
    """Run to the end with everybody's help; every unit must end, and a whole final audit must leave only good rows."""
    for round_number in range(1, 12):
        settle(pool)
        if pool.failed:
            assert pool.poison in pool.failed or "chunk" in pool.failed
            assert pool.units.get(pool.poison) is not None
            return
        before = dict(pool.standing)
        for unit, attempt in before.items():
            if attempt in pool.attempts and pool.standing.get(unit) == attempt:
                pool.report(attempt, tuple(range(N_ROWS)), round_number)
        if pool.standing == before and not pool.discards:
            break
    assert all(unit.quiet for unit in pool.units.values())
    assert not any(pool.attempts[a].wrong for a in pool.standing.values() if a in pool.attempts)
    assert not any(r.quarantined for r in (pool.people[u.contributor] for u in pool.units.values() if u.contributor))


def settle(pool):
    for _ in range(500):
        if pool.failed:
            return
        if pool.discards:
            pool.apply(pool.discards.pop())
        elif pool.orders:
            pool.perform(pool.orders.pop())
        elif pool.running:
            pool.finish(pool.running.pop())
        else:
            open_units = [name for name, unit in pool.units.items() if unit.state is UnitState.OPEN]
            if not open_units:
                return
            assert resume(pool.units[open_units[0]], POLICY) == (
                IssueUnit(open_units[0], pool.units[open_units[0]].issue),
            )
            tried = pool.units[open_units[0]].failures_by
            helper = next(name for name in ("ann", "bob", "cat", "ann") if f"{name}-pc" not in tried)
            pool.start(open_units[0], helper)
    raise AssertionError("the job does not end")


TestDecide = DecideMachine.TestCase
TestDecide.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
