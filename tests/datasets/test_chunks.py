"""References travel to volunteers: what is parsed back is exactly what was written, and nothing else is accepted."""

from __future__ import annotations

import itertools

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.datasets.chunks import MAX_JSON_NBYTES, ChunkRef, coalesce
from muster.datasets.cutting import Cut, Target, cut
from muster.datasets.reading import RangeBuffer, read_chunk
from muster.errors import SourceError

REF = ChunkRef(
    index=3, file=1, format="parquet", fingerprint="ab" * 32, origin_nbytes=1000, first_row=10, n_rows=5,
    ranges=((4, 100), (900, 100)), columns=("text", "n"), detail={"footer": 900, "row_groups": [0, 2], "skip": 1},
)  # fmt: skip


def test_json_round_trip_and_digest():
    assert ChunkRef.from_json(REF.to_json()) == REF
    assert REF.input_nbytes == 200
    moved = ChunkRef.from_json(REF.to_json().replace('"index":3', '"index":4'))
    assert moved.digest == REF.digest
    assert ChunkRef.from_json(REF.to_json().replace('"n_rows":5', '"n_rows":6')).digest != REF.digest


BAD = {
    "no such field": lambda r: r.update(extra=1),
    "field gone": lambda r: r.pop("ranges"),
    "other version": lambda r: r.update(v=2),
    "other format": lambda r: r.update(format="pickle"),
    "bool for int": lambda r: r.update(n_rows=True),
    "float for int": lambda r: r.update(n_rows=5.0),
    "no rows": lambda r: r.update(n_rows=0),
    "too many rows": lambda r: r.update(n_rows=1 << 40),
    "negative row": lambda r: r.update(first_row=-1),
    "long fingerprint": lambda r: r.update(fingerprint="a" * 129),
    "overlap": lambda r: r.update(ranges=[[4, 100], [50, 10]]),
    "outside": lambda r: r.update(ranges=[[950, 100]]),
    "empty range": lambda r: r.update(ranges=[[4, 0]]),
    "triple": lambda r: r.update(ranges=[[4, 1, 1]]),
    "huge": lambda r: r.update(origin_nbytes=1 << 50, ranges=[[0, 1 << 40]]),
    "many ranges": lambda r: r.update(origin_nbytes=1 << 50, ranges=[[2 * k, 1] for k in range(9000)]),
    "no columns": lambda r: r.update(columns=[]),
    "twice": lambda r: r.update(columns=["a", "a"]),
    "column type": lambda r: r.update(columns=[1]),
    "detail key": lambda r: r["detail"].update(path="/etc/passwd"),
    "detail type": lambda r: r["detail"].update(skip=[1]),
    "detail item": lambda r: r["detail"].update(row_groups=["0"]),
    "detail negative": lambda r: r["detail"].update(skip=-1),
    "not an object": lambda r: r.update(detail=[]),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_anything_else_is_refused(change):
    raw = orjson.loads(REF.to_json())
    change(raw)
    with pytest.raises(SourceError, match="chunk reference"):
        ChunkRef.from_json(orjson.dumps(raw).decode())


def test_text_that_is_no_reference_is_refused():
    for text in ["", "[]", "null", "{", '{"v":1}', " " * (MAX_JSON_NBYTES + 1)]:
        with pytest.raises(SourceError, match="chunk reference"):
            ChunkRef.from_json(text)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 30)), max_size=20))
def test_coalesced_ranges_hold_the_same_bytes(ranges):
    joined = coalesce(ranges)
    assert {b for o, n in ranges for b in range(o, o + n)} == {b for o, n in joined for b in range(o, o + n)}
    assert all(a + n < b for (a, n), (b, _) in itertools.pairwise(joined))


@given(st.data())
def test_range_buffer_serves_its_pieces_and_nothing_else(data):
    whole = bytes(range(256))
    cuts = sorted(data.draw(st.sets(st.integers(0, 256), min_size=2, max_size=8)))
    pieces = [(a, b - a) for a, b in itertools.pairwise(cuts) if data.draw(st.booleans())]
    buffer = RangeBuffer({(o, n): whole[o : o + n] for o, n in pieces})
    offset, length = data.draw(st.integers(0, 255)), data.draw(st.integers(1, 60))
    have = {b for o, n in pieces for b in range(o, o + n)}
    if set(range(offset, offset + length)) <= have:
        assert bytes(buffer.read(offset, length)) == whole[offset : offset + length]
    else:
        with pytest.raises(SourceError, match="outside the fetched ranges"):
            buffer.read(offset, length)
    with pytest.raises(SourceError, match="expected 5 bytes, found 1"):
        RangeBuffer({(0, 5): b"a"})


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 500)), max_size=30),
    st.none() | st.integers(1, 30),
    st.integers(1, 1000),
    st.none() | st.integers(1, 200),
)
def test_cuts_cover_every_row_once(pieces, rows_per_chunk, target, limit):
    rows, sizes = [r for r, _ in pieces], [s for _, s in pieces]
    owner = [k for k, r in enumerate(rows) for _ in range(r)]
    total = min(len(owner), limit or len(owner))
    at = 0
    for one in cut(rows, sizes, Target(rows_per_chunk, target), limit):
        assert one.first_row == at
        assert one.n_rows > 0
        at += one.n_rows
        assert (owner[one.first_row], owner[at - 1]) == (one.first, one.last - 1)
        assert one.first_row - one.skip == sum(rows[: one.first])
        if rows_per_chunk:
            assert one.n_rows == rows_per_chunk or at == total
    assert at == total


def test_cut_sizes_follow_the_target():
    assert [c.n_rows for c in cut([10] * 5, [40] * 5, Target(None, 100), None)] == [20, 20, 10]
    assert list(cut([9], [300], Target(None, 100), None)) == [
        Cut(0, 3, 0, 1, 0),
        Cut(3, 3, 0, 1, 3),
        Cut(6, 3, 0, 1, 6),
    ]


def test_positions_outside_the_chunk_are_refused():
    import pyarrow as pa

    schema = pa.schema([("text", pa.string()), ("n", pa.int64())])
    for positions in ([9], [15], [12, 12], [13, 11]):
        with pytest.raises(SourceError, match=r"expected ascending numbers in \[10, 14\]"):
            read_chunk(REF, schema, RangeBuffer({}), positions)
    with pytest.raises(SourceError, match="column n: not in the frozen schema"):
        read_chunk(REF, pa.schema([("text", pa.string())]), RangeBuffer({}))
