"""The certificate's sentence in every grade, credit, and the generated diagram of the documentation."""

from pathlib import Path

import numpy as np
import pytest

from muster.errors import JobError
from muster.trust.certificate import Grade, Run, Tolerance, claims
from muster.trust.credit import Credit, credits_of
from muster.trust.diagram import mermaid
from muster.trust.final_audit import conclude_round, plan_round
from muster.trust.ledger import canonical_json
from muster.trust.policy import Policy
from muster.trust.records import ContributorRecord, UnitRecord, UnitState

ROOT = "5a" * 32


def certify(kept, rejected, trusted=7, bad=(), tolerances=()):
    plan = plan_round(Policy(), bytes(32), ROOT, 1, {"kept": np.array(kept), "rejected": np.array(rejected)})
    outcome = conclude_round(plan, plan.n_rows, bad, Policy())
    volunteer_rows = sum(kept) + sum(rejected)
    run = Run("j", ROOT, "r", ("text.minhash@1",), trusted, volunteer_rows, tolerances)
    return run, plan, outcome, claims(run, Policy(), plan, outcome, plan.n_rows)


def test_the_sentence_of_an_audited_dataset():
    made = certify([900_000, 100_000], [0, 0])[3]
    assert made.sentence() == (
        "the procedure certifies a dataset in which more than 0.001 of the 1,000,000 kept rows computed by volunteers "
        "differs from the referee's recomputation with probability at most 0.01; "
        "7 rows were computed by trusted workers"
    )
    assert canonical_json(made.to_dict())


def test_a_whole_stratum_is_said_to_be_whole_and_a_tolerance_is_named():
    text = certify([1_000_000], [12], trusted=1, tolerances=(Tolerance("infer.net@1", "1e-5", "0"),))[3].sentence()
    assert "recomputation within rtol 1e-5, atol 0 for kernel infer.net@1 with" in text
    assert "; all 12 rejected rows computed by volunteers were recomputed and none differs; 1 row was" in text


def test_the_other_grades():
    assert certify([400], [100])[3].sentence() == (
        "a referee recomputed all 500 rows computed by volunteers (400 kept, 100 rejected) and none differs; "
        "7 rows were computed by trusted workers"
    )
    trusted = claims(Run("j", ROOT, "r", (), 9, 0), Policy(), None, None)
    assert trusted.sentence() == "trusted, unaudited: 9 rows were computed by trusted workers, none by volunteers"
    assert certify([400], [100], bad=["eve"])[3].grade is Grade.UNCERTIFIED
    assert claims(Run("j", ROOT, "r", (), 9, 1), Policy(), None, None).grade is Grade.UNCERTIFIED


def test_a_round_over_another_manifest_or_other_rows_certifies_nothing():
    _, plan, outcome, _ = certify([400], [100])
    for run in (Run("j", "00" * 32, "r", (), 0, 500), Run("j", ROOT, "r", (), 0, 501)):
        with pytest.raises(JobError):
            claims(run, Policy(), plan, outcome)


def test_credit_is_verified_rows_of_people_in_good_standing():
    ann = UnitRecord("u", 100, "chunk 0", UnitState.ACCEPTED, contributor="ann")
    home = UnitRecord("v", 100, "chunk 1", UnitState.TRUSTED)
    people = [ContributorRecord("ann")]
    assert credits_of([(ann, 1.5), (ann, 0.5), (home, 9.0)], people) == (Credit("ann", 2, 200, 2000),)
    with pytest.raises(JobError, match="quarantine"):
        credits_of([(ann, 1.0)], [ContributorRecord("ann", quarantined=True)])
    with pytest.raises(JobError, match="settled"):
        credits_of([(UnitRecord("w", 1, "chunk 2"), 1.0)], people)


def test_the_documented_diagram_is_the_generated_one():
    page = Path(__file__).parents[2] / "docs" / "trust.md"
    assert f"```mermaid\n{mermaid()}\n```" in page.read_text()
