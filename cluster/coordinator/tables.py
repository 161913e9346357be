"""The registry's tables and the engine that reaches them.

Holds: the schema and how a connection behaves. Does not hold: any query; those are in ``registry`` (the services'
side: volunteers and attempts) and ``jobs`` (the flow's side: jobs, units, audit rounds, ledger).

Invariants: every write transaction takes SQLite's write lock at its start (no lock upgrade can deadlock); rows are
never deleted, only their state changes; times are POSIX seconds; ids are lower-case hex.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
)
from sqlalchemy.pool import PoolProxiedConnection

BUSY_TIMEOUT_S = 30.0

metadata = MetaData()

contributors = Table(
    "contributors",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("enrolled_s", Float, nullable=False),
    Column("quarantined_s", Float),
    Column("reason", Text),
)

# What a job knows of a contributor: trust's ContributorRecord as JSON.
standing = Table(
    "standing",
    metadata,
    Column("job_id", String(32), primary_key=True),
    Column("contributor", String(100), primary_key=True),
    Column("record", Text, nullable=False),
)

volunteers = Table(
    "volunteers",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("contributor", String(100), nullable=False),
    Column("enrolled_s", Float, nullable=False),
    Column("revoked_s", Float),
)

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", String(32), primary_key=True),
    Column("spec", Text, nullable=False),  # parameters as JSON
    Column("source", Text, nullable=False),  # datasets.Source as JSON
    Column("recipe", Text, nullable=False),
    Column("schema", Text, nullable=False),  # base64 of the frozen input schema
    Column("state", String(20), nullable=False),  # see jobs.JOB_STATES
    Column("created_s", Float, nullable=False),
    Column("owner", Text),  # who holds the lease
    Column("lease_until_s", Float),
    Column("inflight_key", LargeBinary, nullable=False),
    Column("final_key", LargeBinary, nullable=False),
    Column("events_seq", Integer, nullable=False, default=0),  # the last event that the dispatcher has dealt with
    Column("n_rows", BigInteger),
    Column("error", Text),
)

units = Table(
    "units",
    metadata,
    Column("job_id", String(32), primary_key=True),
    Column("unit_id", String(32), primary_key=True),
    Column("chunk_index", Integer, nullable=False),
    Column("chunk", Text, nullable=False),  # ChunkRef as JSON
    Column("n_rows", BigInteger, nullable=False),
    Column("max_nbytes", BigInteger, nullable=False),  # of one upload
    Column("state", String(12), nullable=False),  # trust's unit state
    Column("issue", Integer, nullable=False, default=1),
    Column("record", Text, nullable=False, default=""),  # trust's UnitRecord as JSON
    Column("attempt_id", String(32)),  # the accepted one
    Index("units_by_state", "job_id", "state", "chunk_index"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("attempt_id", String(32), primary_key=True),
    Column("job_id", String(32), nullable=False),
    Column("unit_id", String(32), nullable=False),
    Column("issue", Integer, nullable=False),
    Column("volunteer", String(100), nullable=False),  # "home" for trusted compute
    Column("contributor", String(100), nullable=False),
    Column("state", String(12), nullable=False),  # see registry.ATTEMPT_STATES
    Column("started_s", Float, nullable=False),
    Column("ended_s", Float),
    Column("upload_nbytes", BigInteger),
    Column("upload_blake3", String(64)),
    Column("outcome", Text),  # JSON: AcceptedInfo when validated, {"kind","text"} when refused or failed
    Index("attempts_by_unit", "job_id", "unit_id", "issue", "volunteer", unique=True),
    Index("attempts_by_state", "state"),
)

# What happened to attempts, in order: the dispatcher reads it from where it stopped.
events = Table(
    "events",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("job_id", String(32), nullable=False),
    Column("unit_id", String(32), nullable=False),
    Column("attempt_id", String(32), nullable=False),
    Column("kind", String(12), nullable=False),  # an attempt state
    Column("at_s", Float, nullable=False),
    Index("events_by_job", "job_id", "seq"),
)

rounds = Table(
    "rounds",
    metadata,
    Column("job_id", String(32), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("root", String(64), nullable=False),
    Column("state", String(12), nullable=False),  # committed | drawn | clean | failed | uncertified
    Column("drawn_s", Float, nullable=False),
    Column("outcome", Text),
)

ledger = Table(
    "ledger",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("job_id", String(32), nullable=False),
    Column("leaf", LargeBinary, nullable=False),
    Index("ledger_by_job", "job_id", "seq"),
)


class Database:
    """The registry's connections; ``read()`` sees the last committed state, ``write()`` is one transaction.

    Reading and writing have engines of their own: a connection that changes between autocommit and transactions pays
    extra statements for each question.
    """

    def __init__(self, pool_dir: str | Path) -> None:
        path = Path(pool_dir) / "registry.sqlite"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writing = _sqlite_engine(path)
        event.listen(self._writing, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        metadata.create_all(self._writing)
        self._reading = _sqlite_engine(path, isolation_level="AUTOCOMMIT", pool_reset_on_return=None)
        self._watching: PoolProxiedConnection | None = None

    def read(self) -> AbstractContextManager[Connection]:
        """Return a connection for reading, outside any transaction."""
        return self._reading.connect()

    def write(self) -> AbstractContextManager[Connection]:
        """Return a connection inside a write transaction; it commits on a clean exit."""
        return self._writing.begin()

    def version(self) -> int:
        """Return a number that changes whenever another connection has written (cheap; SQLite's data_version)."""
        if self._watching is None:
            self._watching = self._reading.raw_connection()
        return int(self._watching.cursor().execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close every pooled connection."""
        if self._watching is not None:
            self._watching.close()
        self._reading.dispose()
        self._writing.dispose()


def _sqlite_engine(path: Path, **options: Any) -> Engine:
    arguments = {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}
    engine = create_engine(f"sqlite:///{path}", connect_args=arguments, **options)

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver opens no transaction of its own; we say when, below
        _use_wal(connection)
        connection.execute("PRAGMA synchronous=NORMAL")

    return engine


def _use_wal(connection: Any) -> None:
    """Set the journal mode; SQLite does not wait for its own timeout where several processes set it on a new file."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
