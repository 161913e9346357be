"""Settings from the environment, and the one state folder that everything Muster writes lives in.

Reads ``MUSTER_*`` variables; tells Prefect, Numba and Dask to keep their files in the state folder and to report
nothing to anybody. Holds no job parameters (``muster.tasks.job``) and makes no folder before it is needed.

Invariants: nothing is written outside ``Settings.home`` unless a variable says so; a variable that the user has set is
never overridden; relative paths are resolved once, against the working directory of the command.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from muster.errors import ConfigError


class Settings(BaseSettings):
    """What the environment says; every field ``x`` is read from ``MUSTER_X``."""

    model_config = SettingsConfigDict(env_prefix="MUSTER_", extra="ignore", frozen=True)

    home: Path = Field(default=Path(".muster"), description="State folder: pools, keys, logs, caches, Prefect's files")
    keystore: Path | None = Field(default=None, description="File of pinned public keys; default: HOME/keystore.json")
    operator_bundle: Path | None = Field(
        default=None, description="Credentials for --pool URL; default: HOME/operator.json"
    )
    debug: bool = Field(default=False, description="Show full tracebacks")

    @field_validator("home", "keystore", "operator_bundle")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - keeps links as given

    @property
    def keystore_path(self) -> Path:
        """The file of public keys that certificates are checked against."""
        return self.keystore or self.home / "keystore.json"

    @property
    def logs_dir(self) -> Path:
        """Where commands leave their logs."""
        return self.home / "logs"

    @property
    def operator_bundle_path(self) -> Path:
        """The credentials that ``--pool URL`` uses."""
        return self.operator_bundle or self.home / "operator.json"

    def pool_dir(self, name: str = "default") -> Path:
        """The state folder of the pool called ``name``; raises ConfigError when the name is no plain word."""
        if not name or len(name) > 64 or not all(c.isalnum() or c in "-_" for c in name):
            raise ConfigError(f"pool name {name!r}: expected 1 to 64 letters, digits, - or _")
        return self.home / "pools" / name

    def environment(self) -> dict[str, str]:
        """The variables that keep Prefect, Numba and Dask inside the state folder and quiet."""
        return {
            "MUSTER_HOME": str(self.home),
            "NUMBA_CACHE_DIR": str(self.home / "cache" / "numba"),
            "PREFECT_HOME": str(self.home / "prefect"),
            "DASK_CONFIG": str(self.home / "dask"),
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        }


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Return this process's settings; raises ConfigError naming the variable that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "MUSTER_" + "_".join(str(part) for part in first["loc"]).upper()
        raise ConfigError(f"environment variable {name}: {first['msg'].lower()}, found {first['input']!r}") from error


def prepare_prefect() -> Settings:
    """Do what ``prepare_environment`` does, and make Prefect's folder: its database fails without it."""
    current = prepare_environment()
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    return current


def prepare_environment() -> Settings:
    """Export ``Settings.environment`` for this process and its children, without touching what is already set.

    Must run before numba, prefect or dask is imported: all three read their variables at import.
    """
    current = settings()
    for name, value in current.environment().items():
        os.environ.setdefault(name, value)
    # A relative MUSTER_HOME would mean another folder in a child with another working directory.
    os.environ["MUSTER_HOME"] = str(current.home)
    return current
