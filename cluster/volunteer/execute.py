"""What a volunteer does with one unit: redeem, fetch, read, compute, encode, upload.

Dask's threads run units side by side, so that one unit's transfers overlap with another's computing; only ``n_compute``
of them decode, compute or encode at the same time. Each stage is a small method that a subclass may replace.
What it does not do: talk HTTP (``transfer``), schedule, or keep anything of a unit beyond its encoded result.

Invariants: only recipes of kernels installed here run; one unit is worked on once at a time in this process; an encoded
result stays on disk until it is uploaded or not wanted; input buffers are dropped as soon as they are decoded; every
error leaves as a UnitError with bounded text, after the gateway was told.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from muster.cluster.bundle import Bundle
from muster.cluster.unit import UnitError, UnitMessage
from muster.cluster.volunteer.assignment import Assignment
from muster.cluster.volunteer.spool import Finished, Spool
from muster.cluster.volunteer.transfer import GatewayClient, SettledError, SourceChangedError, TransferError
from muster.datasets.chunks import ChunkRef
from muster.datasets.reading import ChunkRows, RangeBuffer, read_chunk
from muster.datasets.result_format import build_result
from muster.datasets.result_ipc import encode_ipc
from muster.errors import MusterError, SourceError
from muster.kernels.recipe import Recipe

log = logging.getLogger("muster.volunteer")
MAX_ERROR_CHARS = 1500
_MAX_RECIPES = 16


class FailedAttempt(Exception):  # noqa: N818 - an outcome
    """A stage failed: ``kind`` is kernel, source, transfer or input, ``str`` says what happened."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text[:MAX_ERROR_CHARS])
        self.kind = kind


class Executor:
    """Executes units for one volunteer; called by Dask's threads, any number at a time."""

    def __init__(self, bundle: Bundle, *, n_compute: int, scratch: Path) -> None:
        self.bundle = bundle
        self.gateway = GatewayClient(bundle)
        self.spool = Spool(scratch / "finished")
        self._cores = threading.BoundedSemaphore(n_compute)
        self._recipes: OrderedDict[str, Recipe] = OrderedDict()
        self._busy: dict[str, _Turn] = {}
        self._lock = threading.Lock()
        pa.set_cpu_count(n_compute)

    def __call__(self, message: UnitMessage) -> None:
        """Execute one unit; its result is at the gateway when this returns.

        Raises:
            UnitError: "settled" when the work is not wanted any more, else "<kind>: <what happened>".
        """
        with self._alone(message.unit):
            try:
                assignment = self.redeem(message)
            except SettledError:
                raise UnitError("settled") from None
            except TransferError as error:
                raise UnitError(f"transfer: {error}"[:MAX_ERROR_CHARS]) from None
            try:
                self._execute(message, assignment)
            except SettledError:
                raise UnitError("settled") from None
            except FailedAttempt as failed:
                log.warning("unit %s, issue %d: %s: %s", message.unit, message.issue, failed.kind, failed)
                if failed.kind != "transfer":  # a transfer may work with the next ticket: the attempt stays open
                    self.gateway.fail(assignment, failed.kind, str(failed))
                raise UnitError(f"{failed.kind}: {failed}") from None

    def _execute(self, message: UnitMessage, assignment: Assignment) -> None:
        recipe, ref, schema = self.understand(assignment)
        finished = self.spool.find(message.unit, recipe.identity)
        if finished is None:
            payload = self.work(recipe, ref, schema, self.fetch(assignment, ref))
            finished = self.spool.put(message.unit, recipe.identity, payload)
        try:
            self.upload(assignment, finished)
        except TransferError as error:
            raise FailedAttempt("transfer", f"upload: {error}") from None  # it stays in the spool
        except SettledError:
            self.spool.drop(finished)
            raise
        self.spool.drop(finished)

    # -- stages; a subclass may replace each -----------------------------------------------------------------------

    def redeem(self, message: UnitMessage) -> Assignment:
        """Turn the unit's ticket into an assignment; raises SettledError or TransferError."""
        return self.gateway.redeem(message.ticket)

    def understand(self, assignment: Assignment) -> tuple[Recipe, ChunkRef, pa.Schema]:
        """Parse what the assignment asks for, strictly; raises FailedAttempt for an unknown kernel or a bad chunk."""
        try:
            recipe = self._recipe(assignment.recipe)
        except MusterError as error:
            raise FailedAttempt("kernel", f"this volunteer can't run the recipe: {error}") from None
        if recipe.identity != assignment.build:  # its results might differ, and it would look like a liar
            raise FailedAttempt(
                "kernel", "this volunteer has another build of the recipe's kernels: install the pool's"
            )
        try:
            schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(assignment.schema, validate=True)))
            return recipe, ChunkRef.from_json(assignment.chunk), schema
        except (MusterError, ValueError, pa.ArrowException) as error:
            raise FailedAttempt("input", f"the assignment's chunk is malformed: {error}") from None

    def fetch(self, assignment: Assignment, ref: ChunkRef) -> RangeBuffer:
        """Fetch the chunk's bytes; raises SettledError or FailedAttempt."""
        try:
            return RangeBuffer(self.gateway.fetch(assignment, ref.ranges))
        except SourceChangedError as error:
            raise FailedAttempt("source", f"the source has changed: {error}") from None
        except TransferError as error:
            raise FailedAttempt("transfer", f"fetch: {error}") from None

    def work(self, recipe: Recipe, ref: ChunkRef, schema: pa.Schema, source: RangeBuffer) -> pa.Buffer | bytes:
        """Decode, compute and encode on one of the volunteer's cores; raises FailedAttempt."""
        with self._cores:
            try:
                rows = self.read(ref, schema, source)
                del source
            except SourceError as error:
                raise FailedAttempt("input", str(error)) from None
            try:
                table = self.produce(ref, self.compute(recipe, ref, rows))
                del rows
                return self.encode(table)
            except Exception as error:
                raise FailedAttempt("kernel", f"{type(error).__name__}: {error}") from None

    def read(self, ref: ChunkRef, schema: pa.Schema, source: RangeBuffer) -> ChunkRows:
        """Decode the chunk's rows; raises SourceError."""
        return read_chunk(ref, schema, source)

    def compute(self, recipe: Recipe, ref: ChunkRef, rows: ChunkRows) -> pa.Table:
        """Run the recipe: the result table, ``ref.n_rows`` rows of position, reject and kernel columns."""
        positions = np.arange(ref.first_row, ref.first_row + ref.n_rows, dtype=np.int64)
        return build_result(positions, rows.reject, recipe.run(rows.table))

    def produce(self, ref: ChunkRef, table: pa.Table) -> pa.Table:  # noqa: ARG002 - a subclass may want to know the chunk
        """Return the result table that is to be encoded; an honest volunteer returns ``table``."""
        return table

    def encode(self, table: pa.Table) -> pa.Buffer | bytes:
        """Encode a result table as Arrow IPC."""
        return encode_ipc(table)

    def upload(self, assignment: Assignment, finished: Finished) -> None:
        """Send the encoded result; raises SettledError or TransferError."""
        self.gateway.upload(assignment, finished.path, finished.blake3_hex)

    # --------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the connections to the gateway."""
        self.gateway.close()

    def _recipe(self, text: str) -> Recipe:
        """The parsed recipe; its kernels begin to compile while the first chunk is fetched."""
        with self._lock:
            known = self._recipes.get(text)
            if known is not None:
                self._recipes.move_to_end(text)
                return known
        recipe = Recipe.from_json(text)
        with self._lock:
            if text not in self._recipes:
                self._recipes[text] = recipe
                threading.Thread(target=_warm, args=(recipe,), name="warm", daemon=True).start()
            while len(self._recipes) > _MAX_RECIPES:
                self._recipes.popitem(last=False)
        return recipe

    @contextlib.contextmanager
    def _alone(self, unit: str) -> Iterator[None]:
        """Let one thread at a time work on a unit: after a reconnection Dask may send it again while it is computed."""
        with self._lock:
            turn = self._busy.setdefault(unit, _Turn())
            turn.n_threads += 1
        try:
            with turn.lock:
                yield
        finally:
            with self._lock:
                turn.n_threads -= 1
                if turn.n_threads == 0:
                    del self._busy[unit]


class _Turn:
    """The lock of one unit and how many threads hold it or wait for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.n_threads = 0


def _warm(recipe: Recipe) -> None:
    with contextlib.suppress(Exception):  # the first run will meet the same error and report it
        recipe.warm()
