"""Ledger leaves, key commitments and the Merkle root, against Certificate Transparency's published vectors."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import JobError
from muster.trust import ledger
from muster.trust.events import RecordVerdict
from muster.trust.policy import Policy

KEY = bytes(range(32))
# The eight test leaves of Certificate Transparency's reference implementation and their tree heads by size.
CT_LEAVES = [bytes.fromhex(h) for h in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
CT_LEAVES.append(bytes(range(0x60, 0x70)))
CT_ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


@pytest.mark.parametrize(("size", "root"), CT_ROOTS.items())
def test_roots_are_those_of_certificate_transparency(size, root):
    assert ledger.merkle_root(map(ledger.hash_leaf, CT_LEAVES[:size])).hex() == root


def recursive_root(hashes):
    """RFC 6962 section 2.1, as written."""
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while 2 * k < len(hashes):
        k *= 2
    return ledger.hash_node(recursive_root(hashes[:k]), recursive_root(hashes[k:]))


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=70))
def test_root_is_the_recursive_definition(leaves):
    hashes = [ledger.hash_leaf(leaf) for leaf in leaves]
    assert ledger.merkle_root(hashes) == recursive_root(hashes)


def test_leaf_bytes_are_fixed():
    leaf = ledger.verdict_leaf(1.5, "j", RecordVerdict("accepted", {"unit": "ü", "rows": 3, "round": None}))
    expected = '{"fields":{"round":null,"rows":3,"unit":"ü","verdict":"accepted"},"job":"j","kind":"verdict"'
    assert leaf == (expected + ',"time_ms":1500,"v":1}').encode()


def test_job_opened_commits_without_revealing():
    leaf = ledger.job_opened_leaf(0, "j", Policy(), final_key=KEY, in_flight_key=bytes(32))
    fields = json.loads(leaf)["fields"]
    assert KEY.hex() not in leaf.decode()
    assert ledger.check_key(fields["final_commitment"], "final", "j", KEY)
    assert not ledger.check_key(fields["final_commitment"], "in-flight", "j", KEY)
    assert not ledger.check_key(fields["final_commitment"], "final", "other", KEY)
    assert not ledger.check_key(fields["final_commitment"], "final", "j", bytes(32))
    assert fields["max_error"] == "0.001"


def test_short_keys_and_unknown_purposes_are_refused():
    for purpose, key in (("final", b"short"), ("lottery", KEY)):
        with pytest.raises(JobError):
            ledger.key_revealed_leaf(0, "j", purpose, key)


@pytest.mark.parametrize("value", [0.5, {"ä": 1}, {1: 2}, 2**53, b"x", "\ud800", [object()]])
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises(JobError):
        ledger.canonical_json(value)


def test_leaves_are_bounded():
    with pytest.raises(JobError, match="at most 65536 bytes"):
        ledger.verdict_leaf(0, "j", RecordVerdict("x", {"unit": "u" * 70_000}))
