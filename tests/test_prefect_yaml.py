"""``prefect.yaml`` says what it should, and what it says fits the flow; without a server."""

import re
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml

from muster.tasks.job import PreprocessParams

REPO = Path(__file__).resolve().parents[1]
TEXT = (REPO / "prefect.yaml").read_text()
DEPLOYMENTS = yaml.safe_load(TEXT)["deployments"]


@pytest.fixture(params=DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def deployment(request):
    return request.param


def test_preprocess_runs_every_night() -> None:
    (nightly,) = (one for one in DEPLOYMENTS if one["entrypoint"] == "muster.flows.preprocess:preprocess")
    (schedule,) = nightly["schedules"]
    minute, hour, *rest = schedule["cron"].split()
    assert minute.isdigit() and hour.isdigit() and rest == ["*", "*", "*"]


def test_nothing_in_it_is_bound_to_one_machine() -> None:
    assert not re.search(r"""(^|[\s"'\[{:=])(/|~/|[A-Za-z]:\\)\w""", TEXT, re.MULTILINE)
    assert not re.search(r"https?://", TEXT)


def test_every_deployment_has_a_module_entry_point_and_a_description(deployment) -> None:
    assert re.fullmatch(r"muster\.flows\.\w+:\w+", deployment["entrypoint"])
    assert deployment["description"] and deployment["tags"]


def test_every_schedule_is_named_and_knows_its_time_zone(deployment) -> None:
    for schedule in deployment["schedules"]:
        ZoneInfo(schedule["timezone"])
        assert re.fullmatch(r"[a-z][a-z0-9-]*", schedule["slug"])


def test_a_late_run_waits_for_the_one_before(deployment) -> None:
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}


def test_the_work_pool_is_the_trusted_one(deployment) -> None:
    assert deployment["work_pool"]["name"] == "trusted"


def test_the_parameters_make_a_job(deployment) -> None:
    assert deployment["enforce_parameter_schema"] is True
    PreprocessParams.model_validate(deployment["parameters"]["params"])


def test_the_parameters_are_those_of_the_flow(deployment) -> None:
    from importlib import import_module

    module, name = deployment["entrypoint"].split(":")
    flow = getattr(import_module(module), name)
    assert flow.validate_parameters(deployment["parameters"])
    assert set(deployment["parameters"]) <= set(flow.parameters.properties)
