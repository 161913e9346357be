"""Results: round trips, every kind of fault, and bytes that lie about what they inflate to."""

from __future__ import annotations

import dataclasses
import io
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.datasets import result_ipc
from muster.datasets.digest import table_digest
from muster.datasets.results import (
    ResultFault,
    decode_ipc_bounded,
    encode_ipc,
    part_schema,
    read_rows,
    result_schema,
    validate_result,
    write_accepted,
)
from muster.errors import JobError, KernelError

OUTPUT = pa.schema(
    [
        ("h", pa.uint64()),
        ("n", pa.int32()),
        ("small", pa.int8()),
        ("ok", pa.bool_()),
        ("score", pa.float32()),
        ("lang", pa.string()),
        ("ids", pa.list_(pa.int32())),
        ("vec", pa.list_(pa.float32(), 2)),
        ("st", pa.struct([("a", pa.int16()), ("b", pa.string())])),
    ]
)
SCHEMA = result_schema(OUTPUT)
BIG = 1 << 30


@dataclasses.dataclass(frozen=True)
class Rows:
    first_row: int
    n_rows: int


def make(n, first=100, rejects=(), seed=1):
    rng = random.Random(seed)
    bad = set(rejects)
    row = lambda value, i: None if i in bad or rng.random() < 0.05 else value  # noqa: E731
    columns = {
        "position": list(range(first, first + n)),
        "reject": [f"row {i} is bad" if i in bad else None for i in range(n)],
        "h": [row(rng.getrandbits(64), i) for i in range(n)],
        "n": [row(rng.randint(-5, 1000), i) for i in range(n)],
        "small": [row(i % 100, i) for i in range(n)],
        "ok": [row(i % 3 == 0, i) for i in range(n)],
        "score": [row(float(np.float32(rng.random())), i) for i in range(n)],
        "lang": [row(rng.choice(["en", "de", ""]), i) for i in range(n)],
        "ids": [row([i] * (i % 3), i) for i in range(n)],
        "vec": [row([1.0, float(i)], i) for i in range(n)],
        "st": [row({"a": i % 7, "b": None}, i) for i in range(n)],
    }
    return pa.table(columns, schema=SCHEMA)


def kind_of(call):
    with pytest.raises(ResultFault) as fault:
        call()
    assert len(fault.value.text) <= 300
    assert fault.value.text.isprintable()
    return fault.value.kind


@pytest.mark.parametrize("n", [0, 1, 1000, 70_000])
def test_encode_decode_round_trip(n):
    table = make(n) if n < 2000 else pa.concat_tables([make(1000)] * (n // 1000))
    ref = Rows(100, n)
    decoded = decode_ipc_bounded(encode_ipc(table, SCHEMA), SCHEMA, n, BIG)
    assert decoded.equals(table)
    if n < 2000:
        validate_result(decoded, ref, SCHEMA)
    assert table_digest(decoded) == table_digest(table)


def test_encode_refuses_another_schema():
    with pytest.raises(ValueError, match="expected"):
        encode_ipc(make(3).drop_columns("n"), SCHEMA)


def altered(**columns):
    table = make(10, rejects=[3])
    for name, values in columns.items():
        i = SCHEMA.get_field_index(name)
        table = table.set_column(i, SCHEMA.field(i), pa.array(values, SCHEMA.field(i).type))
    return table


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        ("wrong-schema", make(10).drop_columns("n")),
        ("wrong-schema", make(10).rename_columns(["position", "reject", "H", *OUTPUT.names[1:]])),
        ("wrong-schema", make(10).replace_schema_metadata({"k": "v"})),
        ("wrong-rows", make(9)),
        ("wrong-positions", make(10, first=101)),
        ("wrong-positions", altered(position=[100, 101, 102, 103, 105, 104, 106, 107, 108, 109])),
        ("wrong-positions", altered(position=[100, None, 102, 103, 104, 105, 106, 107, 108, 109])),
        ("bad-reason", altered(reject=[None] * 3 + ["x" * 201] + [None] * 6)),
        ("bad-reason", altered(reject=[None] * 3 + ["bell\a"] + [None] * 6)),
        ("bad-reason", altered(reject=[None] * 3 + [""] + [None] * 6)),
        ("reject-not-null", altered(n=list(range(10)))),
        ("reject-not-null", altered(ids=[[]] * 10)),
    ],
)
def test_every_fault_has_its_kind(kind, table):
    ref = Rows(100, 10)
    assert kind_of(lambda: validate_result(table, ref, SCHEMA)) == kind
    validate_result(make(10, rejects=[3, 4]), ref, SCHEMA)


def test_decoding_refuses_other_schemas_counts_and_trailing_bytes():
    data = encode_ipc(make(10)).to_pybytes()
    decode = lambda d, n=10, m=BIG, s=SCHEMA: decode_ipc_bounded(d, s, n, m)  # noqa: E731
    assert kind_of(lambda: decode(data, 11)) == "wrong-rows"
    assert kind_of(lambda: decode(data, 0)) == "wrong-rows"
    assert kind_of(lambda: decode(data + b"x")) == "wrong-rows"
    assert kind_of(lambda: decode(data[:-8])) == "wrong-rows"
    assert kind_of(lambda: decode(data[: len(data) // 2])) == "undecodable"
    assert kind_of(lambda: decode(b"")) == "undecodable"
    assert kind_of(lambda: decode(data, m=100)) == "too-big"
    assert kind_of(lambda: decode(encode_ipc(make(10).drop_columns("n")))) == "wrong-schema"
    other = make(10).set_column(3, "n", pa.array(range(10), pa.uint32()))
    assert kind_of(lambda: decode(encode_ipc(other))) == "wrong-schema"


def stream(*batches, schema=None, options=None):
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema or batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


def test_decoding_refuses_extra_batches_dictionaries_metadata_and_old_versions():
    batch = make(10).combine_chunks().to_batches()[0]
    half = [batch.slice(0, 5), batch.slice(5)]
    assert kind_of(lambda: decode_ipc_bounded(stream(*half), SCHEMA, 10, BIG)) == "wrong-rows"
    assert kind_of(lambda: decode_ipc_bounded(stream(batch, batch.slice(0, 0)), SCHEMA, 10, BIG)) == "wrong-rows"
    encoded = batch.set_column(7, "lang", batch["lang"].dictionary_encode())
    assert kind_of(lambda: decode_ipc_bounded(stream(encoded), SCHEMA, 10, BIG)) == "undecodable"
    marked = batch.replace_schema_metadata({"k": "v"})
    assert kind_of(lambda: decode_ipc_bounded(stream(marked), SCHEMA, 10, BIG)) == "wrong-schema"
    old = pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V4)
    assert kind_of(lambda: decode_ipc_bounded(stream(batch, options=old), SCHEMA, 10, BIG)) == "undecodable"
    legacy = pa.ipc.IpcWriteOptions(use_legacy_format=True)
    assert kind_of(lambda: decode_ipc_bounded(stream(batch, options=legacy), SCHEMA, 10, BIG)) == "undecodable"
    lz4 = pa.ipc.IpcWriteOptions(compression="lz4")
    assert decode_ipc_bounded(stream(batch, options=lz4), SCHEMA, 10, BIG).num_rows == 10


def test_a_bomb_is_refused_before_anything_is_inflated():
    schema = result_schema(pa.schema([("text", pa.string())]))
    text = ["x" * 300_000_000]
    bomb = encode_ipc(pa.table({"position": [0], "reject": [None], "text": text}, schema=schema))
    assert bomb.size < 1_000_000
    del text
    before = pa.default_memory_pool().max_memory()
    pool = pa.system_memory_pool()
    old = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        peak = pool.max_memory()
        assert kind_of(lambda: decode_ipc_bounded(bomb, schema, 1, 10_000_000)) == "too-big"
        assert pool.max_memory() <= max(peak, pool.bytes_allocated() + 1_000_000)
    finally:
        pa.set_memory_pool(old)
    assert pa.default_memory_pool().max_memory() == before


def test_a_lying_length_prefix_never_inflates_past_its_claim():
    schema = result_schema(pa.schema([("text", pa.string())]))
    table = pa.table({"position": [0], "reject": [None], "text": ["x" * 5_000_000]}, schema=schema)
    data = encode_ipc(table).to_pybytes()
    claim = (5_000_000).to_bytes(8, "little", signed=True)
    assert data.count(claim) >= 1
    at = data.rindex(claim)
    for lie in (0, 1, 100, 4_999_999, 5_000_001, 2**62, -2, -1):
        forged = data[:at] + lie.to_bytes(8, "little", signed=True) + data[at + 8 :]
        kind = kind_of(lambda data=forged: decode_ipc_bounded(data, schema, 1, 20_000_000))
        assert kind in {"undecodable", "too-big"}


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_bytes_are_faults_or_valid_tables(seed, flips):
    data = bytearray(_SMALL)
    for where, value in flips:
        data[(where + seed) % len(data)] = value
    try:
        table = decode_ipc_bounded(bytes(data), SCHEMA, 20, 1 << 20)
        validate_result(table, Rows(100, 20), SCHEMA)
    except ResultFault:
        return
    table_digest(table)


_SMALL = encode_ipc(make(20, rejects=[2])).to_pybytes()


def test_the_inflated_size_is_known_exactly(monkeypatch):
    seen = []
    original = result_ipc._Batch.inflated_nbytes
    monkeypatch.setattr(result_ipc._Batch, "inflated_nbytes", lambda self: seen.append(original(self)) or seen[-1])
    table = make(5000)
    decode_ipc_bounded(encode_ipc(table), SCHEMA, 5000, BIG)
    real = sum(b.size for c in table.combine_chunks().columns for b in c.chunk(0).buffers() if b is not None)
    assert 0.9 * real <= seen[0] <= 1.1 * real + 2000


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int8(), pa.string()), pa.string_view(), pa.null(), pa.uuid(),
                                  pa.map_(pa.string(), pa.int8()), pa.list_(pa.string_view())])  # fmt: skip
def test_output_types_that_may_not_cross_the_border(kind):
    with pytest.raises(KernelError, match="'odd'"):
        result_schema(pa.schema([("odd", kind)]))


@pytest.mark.parametrize("name", ["position", "reject", "reason", "_muster_file"])
def test_reserved_output_names(name):
    with pytest.raises(KernelError, match="reserved"):
        result_schema(pa.schema([(name, pa.int8())]))


@pytest.mark.parametrize("rejects", [[], [0], [3, 7, 40_000 - 1], list(range(40_000))])
def test_written_parts_hold_the_kept_rows_and_read_back_by_position(tmp_path, rejects):
    n = 40_000
    ref = Rows(5, n)
    table = make(n, first=5, rejects=rejects)
    kept, bad = tmp_path / "k.parquet", tmp_path / "r.parquet"
    info = write_accepted(table, ref, "a/b.parquet", kept, bad)
    assert (info.kept, info.rejected) == (n - len(rejects), len(rejects))
    assert info.digest == table_digest(table)
    assert info.kept_blake3 == blake3(kept.read_bytes()).hexdigest()
    assert info.kept_nbytes == kept.stat().st_size
    part = pq.read_table(kept)
    assert part.schema.equals(part_schema(OUTPUT))
    expected = table.filter(pa.compute.is_null(table["reject"]))
    assert part.drop_columns(["_muster_file", "_muster_position"]).equals(expected.select(OUTPUT.names))
    assert part["_muster_position"].equals(expected["position"])
    assert set(part["_muster_file"].to_pylist()) <= {"a/b.parquet"}
    assert bad.exists() == bool(rejects)
    if rejects:
        assert info.rejects_blake3 == blake3(bad.read_bytes()).hexdigest()
        rows = pq.read_table(bad)
        assert rows["_muster_position"].to_pylist() == [5 + i for i in rejects]
    wanted = sorted({5, 6, 8, 12, 20_000, 20_001, n + 4})
    picked = read_rows(kept, bad if rejects else None, wanted, SCHEMA)
    assert picked.equals(table.take([p - 5 for p in wanted]))
    assert read_rows(kept, bad if rejects else None, [], SCHEMA).num_rows == 0
    with pytest.raises(JobError, match="neither"):
        read_rows(kept, bad if rejects else None, [4, 5], SCHEMA)


def test_parts_are_deterministic_and_never_overwrite(tmp_path):
    table, ref = make(1000), Rows(100, 1000)
    one, two = io.BytesIO(), io.BytesIO()
    assert write_accepted(table, ref, "f", one, io.BytesIO()) == write_accepted(table, ref, "f", two, io.BytesIO())
    assert one.getvalue() == two.getvalue()
    path = tmp_path / "x"
    path.touch()
    with pytest.raises(FileExistsError):
        write_accepted(table, ref, "f", path, tmp_path / "y")
    with pytest.raises(ValueError, match="chunk of 5"):
        write_accepted(table, Rows(100, 5), "f", io.BytesIO(), io.BytesIO())
