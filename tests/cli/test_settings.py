"""The state folder and what the environment may say about it."""

import os

import pytest

from muster.errors import ConfigError
from muster.settings import Settings, prepare_environment, prepare_prefect, settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    for name in [*os.environ]:
        if name.startswith(("MUSTER_", "PREFECT_")) or name in {"NUMBA_CACHE_DIR", "DASK_CONFIG", "DO_NOT_TRACK"}:
            monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # what prepare_environment sets goes with the test
    monkeypatch.chdir(tmp_path)
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_everything_lies_in_the_state_folder(tmp_path) -> None:
    current = Settings()
    assert current.home == tmp_path / ".muster"
    places = [current.keystore_path, current.operator_bundle_path, current.logs_dir, current.pool_dir("lab")]
    places += [current.environment()[name] for name in ("NUMBA_CACHE_DIR", "PREFECT_HOME", "DASK_CONFIG")]
    assert all(str(place).startswith(str(current.home) + os.sep) for place in places)
    assert not current.home.exists()


def test_muster_home_moves_it(tmp_path) -> None:
    os.environ["MUSTER_HOME"] = "elsewhere"
    assert prepare_environment().home == tmp_path / "elsewhere"
    assert os.environ["MUSTER_HOME"] == str(tmp_path / "elsewhere")
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "elsewhere" / "prefect")


def test_prefect_finds_its_folder(tmp_path) -> None:
    prepare_prefect()
    assert (tmp_path / ".muster" / "prefect").is_dir()


def test_what_the_user_has_set_stays() -> None:
    os.environ["PREFECT_HOME"] = "/somewhere/else"
    prepare_environment()
    assert os.environ["PREFECT_HOME"] == "/somewhere/else"


def test_a_wrong_variable_is_named() -> None:
    os.environ["MUSTER_DEBUG"] = "perhaps"
    with pytest.raises(ConfigError, match=r"MUSTER_DEBUG.*perhaps"):
        settings()


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a b", "x" * 65])
def test_a_pool_name_is_a_plain_word(name) -> None:
    with pytest.raises(ConfigError, match="pool name"):
        Settings().pool_dir(name)
