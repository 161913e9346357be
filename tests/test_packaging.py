"""The wheel as strangers install it: real files, a lean base, a small job from it, an embedded pool from ``[pool]``.

Builds from a copy of the sources and installs with the pinned versions into an empty environment.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
ROOMS = ("flows", "tasks", "cluster", "trust", "kernels", "datasets")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info")
NOT_IN_BASE = {"prefect", "fastapi", "starlette", "uvicorn", "sqlalchemy"}
RECIPE = ("--recipe", "text.minhash@1")  # compiles in a second or two; the other kernels are tested elsewhere

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Installed:
    """An environment with Muster in it, and an empty folder to run it in."""

    bin: Path
    folder: Path

    def run(self, *command: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, seeing nothing of this repository or this test run."""
        inherited = ("PATH", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")
        env = {name: os.environ[name] for name in inherited if name in os.environ}
        env["HOME"] = str(self.folder / "home")
        return subprocess.run(
            [self.bin / command[0], *command[1:]],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )

    def python(self, code: str) -> str:
        done = self.run("python", "-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def _copy_of_the_sources(folder: Path) -> Path:
    # Building in the checkout would leave (and pick up) a stale build/lib.
    for room in ROOMS:
        shutil.copytree(REPO / room, folder / room, ignore=LEFT_OUT)
    shutil.copytree(REPO / "src", folder / "src", symlinks=True, ignore=LEFT_OUT)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built by way of the source distribution, so that both are known to be whole."""
    source = _copy_of_the_sources(tmp_path_factory.mktemp("source"))
    built = subprocess.run(
        [sys.executable, "-P", "-m", "build", "--no-isolation", "--outdir", source / "dist", source],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    (found,) = (source / "dist").glob("*.whl")
    return found


def _install(python: Path, *what: str) -> None:
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    done = subprocess.run(
        [*pip, "-c", REPO / "constraints.txt", *what], capture_output=True, text=True, timeout=500, cwd=python.parent
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def base(wheel, tmp_path_factory) -> Installed:
    """An environment with the base install and nothing else."""
    folder = tmp_path_factory.mktemp("base")
    venv.create(folder / "venv", with_pip=True, system_site_packages=False)
    _install(folder / "venv" / "bin" / "python", str(wheel))
    (folder / "home").mkdir()
    return Installed(folder / "venv" / "bin", folder)


@pytest.fixture(scope="module")
def pool(base, wheel) -> Installed:
    """The same environment after ``[pool]``; whatever asks for ``base`` must run before it."""
    _install(base.bin / "python", f"{wheel}[pool]")
    return base


def test_the_wheel_holds_every_source_file_as_a_real_file(wheel) -> None:
    with zipfile.ZipFile(wheel) as archive:
        infos = {info.filename: info for info in archive.infolist()}
    expected = {f"muster/{path.relative_to(REPO)}" for room in ROOMS for path in (REPO / room).rglob("*.py")}
    expected |= {str(path.relative_to(REPO / "src")) for path in (REPO / "src" / "muster").rglob("*.py")}
    assert not expected - set(infos)
    assert not [name for name, info in infos.items() if (info.external_attr >> 16) & 0o170000 == 0o120000]
    assert "muster/py.typed" in infos
    tops = {name.split("/")[0] for name in infos}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"muster"}
    assert any(name.endswith("/licenses/LICENSE") for name in infos)


def test_the_constraints_pin_everything_that_the_project_asks_for() -> None:
    lines = (REPO / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    names = {item.split("[")[0].split(">")[0].split("<")[0].split("=")[0].strip() for item in wanted}
    assert not {name.lower() for name in names} - {"muster-compute"} - set(pins)
    # The breakages that these keep out are silent: see docs/adr and the comment in the file.
    assert pins["prefect"] == "3.8.8" and pins["distributed"] == "2026.8.0"
    assert tuple(map(int, pins["fastapi"].split(".")))[:2] < (0, 151)
    assert tuple(map(int, pins["sqlalchemy"].split(".")))[:2] < (2, 1)


def test_the_base_install_brings_no_server_and_no_prefect(base) -> None:
    code = "import json, importlib.util as u, sys; print(json.dumps([n for n in sys.argv[1:] if u.find_spec(n)]))"
    done = base.run("python", "-c", code, *sorted(NOT_IN_BASE))
    assert json.loads(done.stdout) == []


def test_our_folders_do_not_take_names_that_belong_to_others(base) -> None:
    assert base.python(f"import importlib.util as u; print([n for n in {ROOMS} if u.find_spec(n)])") == "[]"
    assert base.python("import muster.datasets, muster.kernels; print('ours')") == "ours"


def test_the_installed_files_are_real_files(base) -> None:
    root = Path(base.python("import muster; print(muster.__file__)")).parent
    assert root.is_relative_to(base.folder)
    assert not [path for path in (root, *root.rglob("*")) if path.is_symlink()]


def test_the_command_answers(base) -> None:
    assert "preprocess" in base.run("muster", "--help").stdout
    listed = base.run("muster", "kernels")
    assert listed.returncode == 0, listed.stderr
    assert "text.minhash@1" in listed.stdout


@pytest.fixture(scope="module")
def corpus(base) -> Path:
    """A few hundred real documents: the standard library's own modules, as JSON lines."""
    path = base.folder / "corpus.jsonl"
    sources = sorted(Path(os.__file__).parent.glob("*.py"))
    with path.open("w", encoding="utf-8") as stream:
        for source in sources:
            text = source.read_text(encoding="utf-8", errors="replace")
            stream.write(json.dumps({"path": source.name, "text": text}) + "\n")
    return path


def _columns(base: Installed, out: str) -> str:
    return base.python(
        "import pyarrow.dataset as d, hashlib\n"
        f"t = d.dataset({out!r}, format='parquet', ignore_prefixes=['_muster', '.']).to_table()\n"
        "rows = sorted(t.to_pylist(), key=lambda row: (row['_muster_file'], row['_muster_position']))\n"
        "print(len(rows), hashlib.sha256(repr(rows).encode()).hexdigest())"
    )


def test_a_small_job_runs_at_home_from_the_base_install(base, corpus) -> None:
    done = base.run("muster", "preprocess", str(corpus), "at_home", *RECIPE, "--pool", "local")
    assert done.returncode == 0, done.stderr
    checked = base.run("muster", "verify", "at_home", "--recompute", "20")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert not list((base.folder / "home").iterdir())


def test_an_embedded_pool_gives_the_same_columns(pool, corpus) -> None:
    done = pool.run("muster", "preprocess", str(corpus), "lent", *RECIPE, "--volunteers", "2", timeout_s=240)
    assert done.returncode == 0, done.stderr
    checked = pool.run("muster", "verify", "lent")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert _columns(pool, "lent") == _columns(pool, "at_home")
    assert not list((pool.folder / "home").iterdir())
