"""The rules of the house, checked on the source: who may import whom, what is light, what a file looks like.

Reads every file with ``ast``; a rule that needs a running interpreter starts a fresh one.
"""

import ast
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
ROOMS = ("flows", "tasks", "cluster", "trust", "kernels", "datasets")
FRAME = ("cli", "errors", "settings")

# Downwards only; a room may always import itself and muster.errors.
MAY_IMPORT = {
    "flows": {"tasks", "cluster", "trust", "kernels", "datasets", "settings"},
    "tasks": {"cluster", "trust", "kernels", "datasets", "settings"},
    "cluster": {"kernels", "datasets", "settings"},
    "trust": set(),
    "kernels": set(),
    "datasets": set(),
    "settings": set(),
    "errors": set(),
    "cli": {"flows", "tasks", "cluster", "trust", "kernels", "datasets", "settings"},
}
POSIX_ONLY = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
# What would let trust act or draw on its own; time and randomness arrive in its events.
IMPURE = {
    "asyncio",
    "datetime",
    "io",
    "os",
    "pathlib",
    "random",
    "secrets",
    "socket",
    "subprocess",
    "threading",
    "time",
}
NOT_ON_A_VOLUNTEER = {"alembic", "fastapi", "prefect", "sqlalchemy", "starlette", "uvicorn"}
TRUSTED_SIDE = ("muster.cluster.coordinator", "muster.tasks", "muster.flows", "muster.trust")
HEAVY = {"dask", "distributed", "httpx", "numba", "numpy", "pandas", "prefect", "pyarrow", "pydantic", "sqlalchemy"}
FORBIDDEN_NAMES = {"common.py", "core.py", "helper.py", "helpers.py", "misc.py", "util.py", "utils.py"}
MAX_LINES = 350


@dataclass(frozen=True)
class Import:
    """One imported module as written: ``names`` are what ``from module import names`` asks for."""

    module: str
    names: tuple[str, ...]
    line: int
    at_load: bool  # runs when the module is imported, on every platform

    @property
    def top(self) -> str:
        return self.module.split(".")[0]

    def modules(self) -> set[str]:
        """Every dotted name that this may load: ``from a import b`` is a, and a.b should b be a module."""
        return {self.module, *(f"{self.module}.{name}" for name in self.names)}


def _files(*rooms: str) -> list[Path]:
    found: list[Path] = []
    for room in rooms:
        root = REPO / room if room in ROOMS else REPO / "src" / "muster" / room
        found += sorted(root.rglob("*.py")) if root.is_dir() else [root.with_suffix(".py")]
    return found


def _module(path: Path) -> str:
    relative = path.relative_to(REPO / "src" / "muster" if path.is_relative_to(REPO / "src") else REPO)
    return ".".join(("muster", *relative.with_suffix("").parts))


def _room(path: Path) -> str:
    return _module(path).split(".")[1]


@cache
def _imports(path: Path) -> tuple[Import, ...]:
    found: list[Import] = []

    def visit(node: ast.AST, at_load: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, (), node.lineno, at_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports as from muster.…, not relative"
            found.append(Import(node.module or "", tuple(a.name for a in node.names), node.lineno, at_load))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        inner = at_load and not _guards(node)
        for child in ast.iter_child_nodes(node):
            visit(child, inner)

    visit(ast.parse(path.read_text(encoding="utf-8"), str(path)), at_load=True)
    return tuple(found)


def _guards(node: ast.AST) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return True
    if isinstance(node, ast.If):
        return any(word in ast.unparse(node.test) for word in ("sys.platform", "os.name"))
    if isinstance(node, ast.Try):
        return any(
            "ImportError" in ast.unparse(h.type) or "ModuleNotFound" in ast.unparse(h.type)
            for h in node.handlers
            if h.type is not None
        )
    return False


def _all() -> list[Path]:
    return _files(*ROOMS, *FRAME)


def _where(path: Path, what: Import) -> str:
    return f"{path.relative_to(REPO)}:{what.line} imports {what.module}"


def _inside(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def test_there_is_something_to_check() -> None:
    assert {_room(path) for path in _all()} >= {"cluster", "cli", "errors", "settings"}


def test_imports_run_downwards_only() -> None:
    wrong = []
    for path in _all():
        own = _room(path)
        for what in _imports(path):
            if what.top != "muster":
                continue
            rooms = {name.split(".")[1] for name in what.modules() if name.count(".")}
            bad = rooms - MAY_IMPORT[own] - {own, "errors", "__version__"}
            wrong += [_where(path, what)] if bad else []
    assert not wrong, "\n".join(wrong)


def test_the_two_sides_of_the_border_do_not_know_each_other() -> None:
    sides = {
        REPO / "cluster" / "volunteer": ("muster.cluster.coordinator",),
        REPO / "cluster" / "coordinator": ("muster.cluster.volunteer",),
        # Half of the edge runs beside the scheduler; that a volunteer loads none of it is checked below.
        REPO / "cluster" / "edge": ("muster.cluster.volunteer",),
    }
    wrong = [
        _where(path, what)
        for folder, forbidden in sides.items()
        for path in sorted(folder.rglob("*.py"))
        for what in _imports(path)
        if any(_inside(name, forbidden) for name in what.modules())
    ]
    assert not wrong, "\n".join(wrong)


def test_trust_is_pure() -> None:
    allowed = (sys.stdlib_module_names - IMPURE) | {"numpy"}
    wrong = [
        _where(path, what)
        for path in _files("trust")
        for what in _imports(path)
        if what.top not in allowed and not _inside(what.module, ("muster.trust", "muster.errors"))
    ]
    assert not wrong, "\n".join(wrong)


def test_errors_need_the_standard_library_only() -> None:
    (path,) = _files("errors")
    assert {what.top for what in _imports(path)} <= sys.stdlib_module_names


def test_fsspec_is_met_in_datasets_and_the_gateway_only() -> None:
    wrong = [
        _where(path, what)
        for path in _all()
        for what in _imports(path)
        if what.top in {"adlfs", "fsspec", "gcsfs", "s3fs"}
        and _room(path) != "datasets"
        and not _inside(_module(path), ("muster.cluster.coordinator.gateway",))
    ]
    assert not wrong, "\n".join(wrong)


def _volunteer_side() -> dict[str, Path]:
    """The modules that a volunteer loads: cluster/volunteer and everything of ours that it imports, at any time."""
    by_name = {_module(path): path for path in _all()}
    todo = [name for name in by_name if _inside(name, ("muster.cluster.volunteer", "muster.cli.volunteers"))]
    seen: dict[str, Path] = {}
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen[name] = by_name[name]
        todo += [m for what in _imports(by_name[name]) for m in what.modules() if m in by_name]
    return seen


def test_a_volunteer_never_loads_the_trusted_side() -> None:
    wrong = [
        _where(path, what)
        for path in _volunteer_side().values()
        for what in _imports(path)
        if what.top in NOT_ON_A_VOLUNTEER or any(_inside(name, TRUSTED_SIDE) for name in what.modules())
    ]
    assert not wrong, "\n".join(wrong)


def test_a_volunteer_may_run_on_any_platform() -> None:
    wrong = [
        _where(path, what)
        for path in (*_volunteer_side().values(), *_files("cli", "errors", "settings", "kernels", "datasets"))
        for what in _imports(path)
        if what.at_load and what.top in POSIX_ONLY
    ]
    assert not wrong, "\n".join(wrong)


def test_root_folders_are_no_regular_packages() -> None:
    found = [str(path.relative_to(REPO)) for room in ROOMS for path in (REPO / room).rglob("__init__.py")]
    assert not found, f"{found}: a regular package called datasets would hide Hugging Face's"


def test_the_import_root_links_to_every_room() -> None:
    for room in ROOMS:
        link = REPO / "src" / "muster" / room
        assert link.is_symlink() and not link.readlink().is_absolute() and link.resolve() == REPO / room


def test_the_repository_root_is_not_importable() -> None:
    ours = {str(REPO), ""} & set(sys.path)
    assert not ours, "run the tests as make test does: python -P -m pytest"
    assert not (REPO / "conftest.py").exists()
    options = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"]
    assert "--import-mode=importlib" in options


def _loaded_by(module: str) -> set[str]:
    command = [sys.executable, "-P", "-c", f"import {module}, sys; print(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split())


@pytest.mark.parametrize("module", ["muster.cli.app", "muster.errors"])
def test_light_modules_load_nothing_heavy(module: str) -> None:
    script = f"import {module}, sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert not HEAVY & set(loaded.stdout.split())


def test_the_kernel_registry_compiles_nothing_at_import() -> None:
    script = "import muster.kernels.registry, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert not {"numba", "llvmlite", "pyarrow.compute"} & set(loaded.stdout.split())


def test_every_module_says_what_it_is() -> None:
    paths = [*_all(), *sorted((REPO / "benchmarks").rglob("*.py"))]
    bare = [path for path in paths if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert not bare, "\n".join(str(path.relative_to(REPO)) for path in bare)


def test_files_stay_small_and_are_named_for_what_they_hold() -> None:
    paths = [*_all(), *sorted((REPO / "tests").rglob("*.py")), *sorted((REPO / "benchmarks").rglob("*.py"))]
    long = [path for path in paths if len(path.read_text(encoding="utf-8").splitlines()) > MAX_LINES]
    vague = [path for path in paths if path.name in FORBIDDEN_NAMES]
    assert not long + vague, "\n".join(str(path.relative_to(REPO)) for path in long + vague)
