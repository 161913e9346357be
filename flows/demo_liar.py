"""The demo's liar: a volunteer that changes 5 % of its rows and keeps every shape right.

An ordinary volunteer process with one stage replaced; the pool's code knows nothing of it. Used by ``muster demo`` and
by nothing else.

Invariant: what it changes depends on the row's position only, so that the demo is the same every time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from muster.cluster.volunteer import agent
from muster.cluster.volunteer.execute import Executor
from muster.datasets.chunks import ChunkRef
from muster.datasets.result_format import POSITION

LIES_PER_ROW = 0.05


class Liar(Executor):
    """Computes honestly, then adds one to an integer column of every twentieth row or so."""

    def produce(self, ref: ChunkRef, table: pa.Table) -> pa.Table:
        """Return the result with some rows altered."""
        table = super().produce(ref, table)
        index = next(i for i, field in enumerate(table.schema) if i > 1 and pa.types.is_integer(field.type))
        field = table.schema.field(index)
        positions = table[POSITION].to_numpy().astype(np.uint64)
        lies = (positions * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40) < LIES_PER_ROW * 2**24
        honest = table.column(index).combine_chunks()
        altered = pa.array(honest.fill_null(0).to_numpy(zero_copy_only=False) + lies.astype(np.int64))
        return table.set_column(index, field, altered.cast(field.type, safe=False))


def run(config: agent.VolunteerConfig, ready: Callable[[dict[str, object]], None]) -> None:
    """Run the liar; the signature of every volunteer module."""
    agent.run(config, ready, executor_class=Liar)
