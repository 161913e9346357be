"""The canonical digest against an independent oracle in plain Python, and what must and must not change it."""

from __future__ import annotations

import itertools
import json
import math
import struct

import blake3
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muster.datasets.digest import TableDigester, schema_digest, table_digest
from muster.errors import SourceError


def h(data):
    return blake3.blake3(data).digest()


def pack_bits(bits):
    return bytes(sum(bit << i for i, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8))


FIXED = {
    "int8": "<b",
    "int16": "<h",
    "int32": "<i",
    "int64": "<q",
    "uint8": "<B",
    "uint64": "<Q",
    "date32": "<i",
    "timestamp[us]": "<q",
    'timestamp[ns,"UTC"]': "<q",
    "time[ms]": "<i",
    "duration[s]": "<q",
}
NAN = {"<e": 0x7E00, "<f": 0x7FC00000, "<d": 0x7FF8000000000000}
FLOATS = {"float16": "<e", "float32": "<f", "float64": "<d"}


def oracle_streams(name, values):
    """Streams of a column from its canonical type and Python values, written from the docstring alone."""
    if name == "null":
        return []
    valid = [v is not None for v in values]
    streams = [b"" if all(valid) else pack_bits(valid)]
    if name == "bool":
        return [*streams, pack_bits([bool(v) for v in values])]
    if name in FIXED:
        return [*streams, b"".join(struct.pack(FIXED[name], v or 0) for v in values)]
    if name in FLOATS:
        return [*streams, b"".join(oracle_float(FLOATS[name], v) for v in values)]
    if name.startswith("decimal128"):
        scaled = [0 if v is None else int(v.scaleb(2)) for v in values]
        return [*streams, b"".join(v.to_bytes(16, "little", signed=True) for v in scaled)]
    if name == "fixed_binary[3]":
        return [*streams, b"".join(v or bytes(3) for v in values)]
    if name in ("string", "binary"):
        raw = [b"" if v is None else v.encode() if isinstance(v, str) else v for v in values]
        return [*streams, b"".join(struct.pack("<I", len(v)) for v in raw), b"".join(raw)]
    return streams + oracle_nested(name, values)


def oracle_float(code, value):
    if value is None:
        return bytes(struct.calcsize(code))
    if math.isnan(value):
        return NAN[code].to_bytes(struct.calcsize(code), "little")
    return struct.pack(code, value)


def oracle_nested(name, values):
    flat = [x for v in values if v is not None for x in v]
    if name.startswith("list<"):
        return [b"".join(struct.pack("<I", len(v or ())) for v in values), *oracle_streams(name[5:-1], flat)]
    if name.startswith("fixed_list<"):
        return oracle_streams(name[11:-4], flat)
    assert name.startswith("struct<")
    out = []
    for key, kind in (("a", "int32"), ("b", "string")):
        out += oracle_streams(kind, [None if v is None else v[key] for v in values])
    return out


def oracle_digest(columns, n_rows):
    """Digest of columns given as {name: (canonical type, values)}."""
    pairs = json.dumps([[name, kind] for name, (kind, _) in columns.items()], separators=(",", ":"))
    data = b"muster-table-1\n" + h(pairs.encode()) + struct.pack("<Q", n_rows)
    for kind, values in columns.values():
        data += b"".join(h(stream) for stream in oracle_streams(kind, values))
    return h(data).hex()


def ints(bits, *, signed=True):
    low = -(2 ** (bits - 1)) if signed else 0
    return st.integers(low, low + 2**bits - 1)


STRUCT = pa.struct([("a", pa.int32()), ("b", pa.string())])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
KINDS = {
    "null": (pa.null(), st.none()),
    "bool": (pa.bool_(), st.booleans()),
    "int8": (pa.int8(), ints(8)),
    "int16": (pa.int16(), ints(16)),
    "int64": (pa.int64(), ints(64)),
    "uint64": (pa.uint64(), ints(64, signed=False)),
    "float16": (pa.float16(), st.floats(width=16)),
    "float32": (pa.float32(), st.floats(width=32)),
    "float64": (pa.float64(), st.floats()),
    "decimal128(9,2)": (pa.decimal128(9, 2), st.decimals(-9999, 9999, places=2)),
    "fixed_binary[3]": (pa.binary(3), st.binary(min_size=3, max_size=3)),
    "string": (pa.string(), TEXT),
    "binary": (pa.binary(), st.binary(max_size=12)),
    "list<int16>": (pa.list_(pa.int16()), st.lists(st.none() | ints(16), max_size=4)),
    "list<list<string>>": (
        pa.list_(pa.list_(pa.string())),
        st.lists(st.none() | st.lists(TEXT, max_size=2), max_size=2),
    ),
    "fixed_list<float32>[2]": (pa.list_(pa.float32(), 2), st.lists(st.floats(width=32), min_size=2, max_size=2)),
    'struct<"a":int32,"b":string>': (STRUCT, st.fixed_dictionaries({"a": st.none() | ints(32), "b": st.none() | TEXT})),
}
TEMPORAL = {
    "date32": pa.date32(),
    "timestamp[us]": pa.timestamp("us"),
    'timestamp[ns,"UTC"]': pa.timestamp("ns", tz="UTC"),
    "time[ms]": pa.time32("ms"),
    "duration[s]": pa.duration("s"),
}


@st.composite
def columns(draw, max_rows=40):
    name = draw(st.sampled_from(sorted(KINDS)))
    kind, strategy = KINDS[name]
    maker = strategy if draw(st.booleans()) else st.none() | strategy
    values = draw(st.lists(maker, max_size=max_rows))
    return name, kind, values


def as_table(array):
    return pa.table({"x": array})


def dirty(array):
    """The same values with other bytes under nulls, junk before and after, and a bitmap that starts within a byte."""
    n = len(array)
    if pa.types.is_null(array.type) or n == 0:
        return array
    donor = next((v for v in array if v.is_valid), None)
    if donor is None:
        return pa.concat_arrays([array, array]).slice(n)
    filled = array.fill_null(donor) if not pa.types.is_nested(array.type) else None
    if filled is None or pa.types.is_boolean(array.type) or array.null_count == 0:
        return pa.concat_arrays([pa.repeat(donor, 3), array, array]).slice(3, n)
    valid = np.concatenate((np.ones(5, bool), np.asarray(array.is_valid()), np.ones(3, bool)))
    padded = pa.concat_arrays([pa.repeat(donor, 5), filled, pa.repeat(donor, 3)])
    bitmap = pa.py_buffer(np.packbits(valid, bitorder="little").tobytes() + b"\xff")
    return pa.Array.from_buffers(array.type, n, [bitmap, *padded.buffers()[1:]], offset=5)


def encodings(array):
    """Other Arrow layouts of the same values."""
    kind = array.type
    wide = {pa.string(): [pa.large_string(), pa.string_view()], pa.binary(): [pa.large_binary(), pa.binary_view()]}
    for other in wide.get(kind, []):
        yield array.cast(other)
    if pa.types.is_list(kind):
        yield array.cast(pa.large_list(kind.value_type))
        yield pa.array(array.to_pylist(), pa.list_view(kind.value_type))
        yield pa.array(array.to_pylist(), pa.large_list_view(kind.value_type))
    if not pa.types.is_nested(kind) and not pa.types.is_null(kind) and not pa.types.is_float16(kind):
        yield array.dictionary_encode()
        yield array.dictionary_encode().slice(0)


quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(columns(), st.data())
def test_the_digest_is_the_oracles_for_every_cut_layout_and_padding(column, data):
    name, kind, values = column
    array = pa.array(values, kind)
    assert array.to_pylist() == values or name.startswith(("float", "fixed_list"))
    expected = oracle_digest({"x": (name, values)}, len(values))
    assert table_digest(as_table(array)) == expected
    assert table_digest(as_table(dirty(array))) == expected
    for other in encodings(array):
        assert table_digest(as_table(other)) == expected
        assert table_digest(as_table(other.slice(0, len(other)))) == expected
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=5)))
    edges = [0, *cuts, len(values)]
    source = dirty(array)
    pieces = [source.slice(a, b - a) for a, b in itertools.pairwise(edges)]
    assert table_digest(as_table(pa.chunked_array(pieces, kind))) == expected


@quick
@given(columns(), st.integers(0, 39))
def test_two_cuts_of_encoded_arrays_agree(column, at):
    name, kind, values = column
    array = pa.array(values, kind)
    for other in encodings(array):
        cut = pa.chunked_array([other.slice(0, at), other.slice(min(at, len(other)))], other.type)
        assert table_digest(as_table(cut)) == oracle_digest({"x": (name, values)}, len(values))


@quick
@given(columns(), columns())
def test_different_values_types_or_names_have_different_digests(one, two):
    a, b = pa.array(one[2], one[1]), pa.array(two[2], two[1])
    ka, kb = oracle_streams(one[0], one[2]), oracle_streams(two[0], two[2])
    same = one[0] == two[0] and len(a) == len(b) and ka == kb
    assert (table_digest(as_table(a)) == table_digest(as_table(b))) == same
    assert table_digest(as_table(a)) != table_digest(pa.table({"y": a}))


@pytest.mark.parametrize("name", sorted(TEMPORAL))
def test_temporals_have_unit_and_timezone(name):
    values = [0, None, 5, 86_399]
    storage = pa.int32() if TEMPORAL[name].bit_width == 32 else pa.int64()
    array = pa.array(values, storage).cast(TEMPORAL[name])
    assert table_digest(as_table(array)) == oracle_digest({"x": (name, values)}, 4)
    integers = pa.array(values, pa.int64())
    kinds = [pa.timestamp(unit, tz=zone) for unit in ("s", "ms", "us") for zone in (None, "UTC", "Europe/Paris")]
    digests = {table_digest(as_table(integers.cast(kind))) for kind in kinds}
    assert len(digests) == 9


def test_nan_is_one_and_minus_zero_is_not_zero():
    bits = np.array([0x7FF8000000000000, 0xFFF8000000000001, 0x7FF0000000000001], np.uint64)
    digests = {table_digest(as_table(pa.array(bits[i : i + 1].view(np.float64)))) for i in range(3)}
    assert len(digests) == 1
    assert table_digest(as_table(pa.array([0.0]))) != table_digest(as_table(pa.array([-0.0])))
    assert table_digest(as_table(pa.array([0.0]))) != table_digest(as_table(pa.array([None], pa.float64())))


def test_rows_order_count_and_borders_matter():
    digests = [
        table_digest(as_table(pa.array(values, kind)))
        for values, kind in [
            (["ab", "c"], pa.string()),
            (["a", "bc"], pa.string()),
            (["c", "ab"], pa.string()),
            (["abc"], pa.string()),
            (["abc", ""], pa.string()),
            (["abc", None], pa.string()),
            ([b"ab", b"c"], pa.binary()),
            ([], pa.string()),
            ([None], pa.null()),
            ([None, None], pa.null()),
            ([[1], [2]], pa.list_(pa.int8())),
            ([[1, 2], []], pa.list_(pa.int8())),
            ([[1, 2], None], pa.list_(pa.int8())),
            ([[1, 2]], pa.list_(pa.int8(), 2)),
        ]
    ]
    assert len(set(digests)) == len(digests)
    two = pa.table({"a": pa.array([1]), "b": pa.array([2])})
    assert table_digest(two) != table_digest(two.select(["b", "a"]))


def test_long_columns_cross_block_borders():
    rng = np.random.default_rng(5)
    n = 70_003
    values = rng.integers(0, 2**63, n, dtype=np.int64)
    null = rng.random(n) < 0.1
    text = [None if x else f"r{v % 1000}" for v, x in zip(values.tolist(), null.tolist(), strict=True)]
    table = pa.table({"v": pa.array(values, mask=null), "f": pa.array(values / 7, mask=null), "t": pa.array(text)})
    expected = oracle_digest(
        {
            "v": ("int64", table["v"].to_pylist()),
            "f": ("float64", table["f"].to_pylist()),
            "t": ("string", text),
        },
        n,
    )
    assert table_digest(table) == expected
    shifted = pa.concat_tables([table.slice(n - 3), table]).combine_chunks().slice(3)
    assert table_digest(shifted) == expected
    digester = TableDigester(table.schema)
    for batch in table.to_batches(max_chunksize=977):
        digester.update(batch)
    assert digester.hexdigest() == expected


def test_lengths_under_nulls_are_hidden_over_several_chunks():
    offsets = pa.py_buffer(np.array([0, 3, 6, 8], np.int32).tobytes())
    array = pa.Array.from_buffers(pa.string(), 3, [pa.py_buffer(b"\x05"), offsets, pa.py_buffer(b"abcXXXde")])
    assert array.to_pylist() == ["abc", None, "de"]
    assert table_digest(as_table(array)) == table_digest(as_table(pa.array(["abc", None, "de"])))


def test_struct_children_under_a_null_struct_are_nulls():
    child = pa.array([1, 2, 3], pa.int32())
    held = pa.StructArray.from_arrays(
        [child, pa.array(["x", "y", "z"])], ["a", "b"], mask=pa.array([False, True, False])
    )
    plain = pa.array([{"a": 1, "b": "x"}, None, {"a": 3, "b": "z"}], STRUCT)
    assert table_digest(as_table(held)) == table_digest(as_table(plain))


def test_run_ends_digest_as_values():
    array = pa.RunEndEncodedArray.from_arrays(pa.array([3, 5, 9], pa.int32()), pa.array(["a", None, "b"]))
    assert table_digest(as_table(array.slice(2))) == table_digest(as_table(pa.array(["a", None, None, *"bbbb"])))


def test_schema_digest_ignores_metadata_and_nullability_only():
    plain = pa.schema([("a", pa.int64()), ("b", pa.string())])
    marked = pa.schema([pa.field("a", pa.int64(), nullable=False), ("b", pa.large_string())], metadata={"k": "v"})
    assert schema_digest(plain) == schema_digest(marked)
    assert schema_digest(plain) != schema_digest(pa.schema([("a", pa.int32()), ("b", pa.string())]))


@pytest.mark.parametrize(
    "kind", [pa.map_(pa.string(), pa.int8()), pa.sparse_union([pa.field("a", pa.int8())]), pa.uuid()]
)
def test_types_without_a_canonical_form_are_refused_by_name(kind):
    with pytest.raises(SourceError, match="'odd'"):
        TableDigester(pa.schema([("odd", kind)]))


def test_a_changed_schema_is_refused():
    digester = TableDigester(pa.schema([("a", pa.int64())]))
    with pytest.raises(ValueError, match="schema changed"):
        digester.update(pa.table({"b": pa.array([1])}))


def test_list_views_out_of_order_digest_as_lists():
    view = pa.ListViewArray.from_arrays([3, 0, 1, 0], [2, 1, 0, 3], pa.array([1, 2, 3, 4, 5], pa.int8()))
    plain = pa.array([[4, 5], [1], [], [1, 2, 3]], pa.list_(pa.int8()))
    assert table_digest(as_table(view)) == table_digest(as_table(plain))
    assert table_digest(as_table(view.slice(1, 3))) == table_digest(as_table(plain.slice(1, 3)))
