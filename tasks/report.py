"""What a finished job has to say for itself: numbers, how liars were caught, costs, the certificate's sentence.

Reads the registry and the run's costs; computes nothing else. ``str(report)`` is what the CLI prints.

Invariants: every number is of this run or of the registry, never an estimate; leverage is given only with the parts it
is made of.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Caught:
    """A contributor whose work was discarded, and the evidence in one line."""

    contributor: str
    reason: str


@dataclass(frozen=True)
class JobReport:
    """The outcome of ``preprocess``; ``already_done`` means that OUT was complete and nothing ran."""

    out: str
    job_id: str
    already_done: bool = False
    rows: int = 0
    kept: int = 0
    rejected: int = 0
    chunks: int = 0
    resumed_chunks: int = 0
    input_nbytes: int = 0
    wall_s: float = 0.0
    stage_s: dict[str, float] = field(default_factory=dict)
    attempts: dict[tuple[str, str], int] = field(default_factory=dict)
    caught: tuple[Caught, ...] = ()
    rounds: int = 0
    rows_recomputed: int = 0
    chunks_at_home: int = 0
    trusted_cpu_s: dict[str, float] = field(default_factory=dict)
    volunteer_cpu_s: float | None = None
    certificate: dict[str, object] = field(default_factory=dict)
    next_command: str = ""

    @property
    def statement(self) -> str:
        """The certificate's sentence."""
        return str(self.certificate.get("statement", ""))

    @property
    def n_attempts(self) -> int:
        """Attempts of volunteers and of trusted compute."""
        return sum(self.attempts.values())

    def lines(self) -> list[tuple[str, str]]:
        """Return label and text of each line, in order."""
        if self.already_done:
            return [("published", f"{self.out} is complete already; nothing to do"), ("next", self.next_command)]
        mib_s = self.input_nbytes / 2**20 / self.wall_s if self.wall_s else 0.0
        lines = [("rows", f"{self.kept:,} published, {self.rejected:,} rejected, of {self.rows:,}")]
        if nulls := self.certificate.get("carried_nulls"):
            lines.append(("carried", f"{nulls:,} values of the carried columns can't be read and are null"))
        resumed = f"; {self.resumed_chunks} taken over from an earlier run" if self.resumed_chunks else ""
        lines.append(("chunks", f"{self.chunks} in {self.n_attempts} attempts{resumed}"))
        lines.append(("time", f"{self.wall_s:.1f} s, {mib_s:.1f} MiB/s of input read"))
        lines.extend(("caught", f"{c.contributor}: {c.reason}") for c in self.caught)
        if self.rounds:
            plural = "s" if self.rounds > 1 else ""
            lines.append(("audit", f"{self.rows_recomputed:,} rows recomputed, {self.rounds} final round{plural}"))
        if self.chunks_at_home:
            lines.append(("at home", f"{self.chunks_at_home} chunks computed by trusted workers"))
        if self.trusted_cpu_s:
            parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in self.trusted_cpu_s.items())
            lines.append(("trusted", f"{sum(self.trusted_cpu_s.values()):.2f} CPU s: {parts}"))
        if self.volunteer_cpu_s:
            share = self.trusted_cpu_s.get("audit", 0.0) / self.volunteer_cpu_s
            lines.append(("volunteers", f"{self.volunteer_cpu_s:.2f} CPU s; audits cost {share:.1%} of that"))
        lines += [("certified", self.statement), ("published", self.out), ("next", self.next_command)]
        return [(label, text) for label, text in lines if text]

    def __str__(self) -> str:
        width = max(len(label) for label, _ in self.lines())
        return "\n".join(f"{label:>{width}}  {text}" for label, text in self.lines())
