"""Volunteers that misbehave, as data: what each script does differently from an honest volunteer, stage by stage.

A volunteer's script is the part of its name before the dash (``lies-1``). Started as an embedded volunteer's module;
everything but the scripted stage is the product's own code, in a real process.
"""

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from muster.cluster.bundle import Bundle
from muster.cluster.unit import UnitMessage
from muster.cluster.volunteer import agent
from muster.cluster.volunteer.assignment import Assignment
from muster.cluster.volunteer.execute import Executor
from muster.cluster.volunteer.spool import Finished
from muster.datasets.chunks import ChunkRef
from muster.datasets.result_format import POSITION, REJECT


@dataclass(frozen=True)
class Script:
    """What differs: a share of altered rows, seconds of delay, or another payload."""

    lies: float = 0.0
    rejects: float = 0.0
    delay_s: float = 0.0
    exit_after: int | None = None
    drop_column: bool = False
    extra_rows: int = 0
    payload: bytes | None = None
    replay: bool = False
    kernel_error: str = ""
    silent: bool = False
    holds: bool = False


SCRIPTS = {
    "honest": Script(),
    "lies": Script(lies=0.05),
    "subtle": Script(lies=0.002),
    "hides": Script(rejects=0.05),
    "slow": Script(delay_s=60.0),
    "lags": Script(delay_s=0.3),
    "vanishes": Script(exit_after=2),
    "schema": Script(drop_column=True),
    "rows": Script(extra_rows=3),
    "oversized": Script(payload=b"\0" * (64 << 20)),
    "garbage": Script(payload=b"ARROW1 is not what this is" * 50),
    "replays": Script(replay=True),
    "fails": Script(kernel_error="out of paint"),
    "silent": Script(silent=True),
    "holds": Script(holds=True),
}


class ScriptedExecutor(Executor):
    """An executor with the stages of its script replaced."""

    def __init__(self, bundle: Bundle, *, n_compute: int, scratch: Path) -> None:
        super().__init__(bundle, n_compute=n_compute, scratch=scratch)
        self.script = SCRIPTS[bundle.name.split("-")[0]]
        self.done = 0
        self.first: pa.Table | None = None

    def __call__(self, message: UnitMessage) -> None:
        if self.script.holds:
            time.sleep(600)
        if not self.script.silent:
            super().__call__(message)

    def produce(self, ref: ChunkRef, table: pa.Table) -> pa.Table:
        time.sleep(self.script.delay_s)
        self.done += 1
        if self.script.exit_after is not None and self.done > self.script.exit_after:
            os._exit(9)
        if self.script.kernel_error:
            raise RuntimeError(self.script.kernel_error)
        self.first = self.first or table
        if self.script.replay:
            return self.first
        if self.script.lies:
            table = altered(table, self.script.lies)
        if self.script.rejects:
            table = rejecting(table, self.script.rejects)
        if self.script.drop_column:
            table = table.drop_columns([table.column_names[-1]])
        if self.script.extra_rows:
            table = pa.concat_tables([table, table.slice(0, self.script.extra_rows)])
        return table

    def encode(self, table: pa.Table) -> pa.Buffer | bytes:
        return self.script.payload or super().encode(table)

    def upload(self, assignment: Assignment, finished: Finished) -> None:
        super().upload(assignment, finished)


def altered(table: pa.Table, share: float) -> pa.Table:
    """Add one to the last integer column of some rows, chosen by position."""
    index = max(i for i, field in enumerate(table.schema) if i > 1 and pa.types.is_integer(field.type))
    chosen = _chosen(table, share)
    field = table.schema.field(index)
    values = table.column(index).combine_chunks().fill_null(0).to_numpy(zero_copy_only=False)
    return table.set_column(index, field, pa.array(values + chosen.astype(values.dtype), field.type))


def rejecting(table: pa.Table, share: float) -> pa.Table:
    """Claim that some good rows could not be read."""
    chosen = pa.array(_chosen(table, share))
    reasons = pa.compute.if_else(chosen, pa.scalar("invalid UTF-8"), pa.scalar(None, pa.string()))
    columns = [table.column(0), reasons]
    columns += [pa.compute.if_else(chosen, pa.scalar(None, c.type), c) for c in table.columns[2:]]
    assert table.column_names[1] == REJECT
    return pa.Table.from_arrays(columns, schema=table.schema)


def _chosen(table: pa.Table, share: float) -> np.ndarray:
    positions = table[POSITION].to_pylist()
    return np.array([random.Random(p).random() < share for p in positions])


def run(config: agent.VolunteerConfig, ready: Callable[[dict[str, object]], None]) -> None:
    """Run a scripted volunteer."""
    agent.run(config, ready, executor_class=ScriptedExecutor)
