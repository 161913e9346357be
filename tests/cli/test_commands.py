"""The command line as a user meets it: a real process for each call."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

MUSTER = Path(sys.executable).with_name("muster")
COMMANDS = [
    ["demo"],
    ["preprocess"],
    ["plan"],
    ["verify"],
    ["kernels"],
    ["coordinator"],
    ["invite"],
    ["operator"],
    ["operator", "create"],
    ["volunteer"],
    ["volunteer", "run"],
]


def muster(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MUSTER_", "PREFECT_"))}
    return subprocess.run(
        [MUSTER, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(tmp_path, command) -> None:
    done = muster(tmp_path, *command, "--help")
    assert done.returncode == 0, done.stderr
    assert f"muster {' '.join(command)}" in done.stdout
    if command not in (["operator"], ["volunteer"]):
        assert "Example" in done.stdout
    assert not list(tmp_path.iterdir())


def test_help_is_instant(tmp_path) -> None:
    muster(tmp_path, "--help")  # the first call after an installation compiles the byte code
    took_s = []
    for _ in range(8):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        muster(tmp_path, "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    # CPU seconds, and the best of eight: other processes on this machine only ever add to it.
    assert min(took_s) <= 0.3, took_s


def test_the_version_is_the_package_s(tmp_path) -> None:
    from importlib.metadata import version

    assert muster(tmp_path, "--version").stdout == f"muster {version('muster-compute')}\n"


def test_without_a_command_the_help_is_shown(tmp_path) -> None:
    done = muster(tmp_path)
    assert done.returncode == 2
    assert "preprocess" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["preprocess", "a"], "OUT"),
        (["preprocess", "a", "b"], "--recipe"),
        (["preprocess", "a", "b", "-r", "k@1", "--on-bad-row", "ignore"], "--on-bad-row"),
        (["preprocess", "a", "b", "-r", "k@1", "--max-error", "2"], "--max-error"),
        (["preprocess", "a", "b", "-r", "k@1", "--confidence", "0.1"], "--confidence"),
        (["preprocess", "a", "b", "-r", "k@1", "--storage-option", "anon"], "--storage-option"),
        (["preprocess", "a", "b", "-r", "k@1", "--rows-per-chunk", "5", "--chunk-mib", "1"], "rows per chunk"),
        (["plan", "a", "b", "-r", "k@1", "--volunteers", "0"], "--volunteers"),
        (["invite", "--contributor", "Ada", "--bundle", "no/such/folder/ada.json"], "no/such/folder"),
        (["coordinator", "--pool-name", "../up"], "../up"),
        (["volunteer", "run", "--bundle", "nowhere.json"], "nowhere.json"),
        (["frobnicate"], "frobnicate"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_wrong_argument_is_named(tmp_path, arguments, named) -> None:
    done = muster(tmp_path, *arguments)
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_the_kernels_are_listed_with_their_schemas(tmp_path) -> None:
    done = muster(tmp_path, "kernels")
    assert done.returncode == 0, done.stderr
    for words in ("text.quality@1", "text.minhash@1", "reads", "text: string", "adds"):
        assert words in done.stdout


def test_an_unknown_kernel_is_refused_naming_the_known_ones(tmp_path) -> None:
    done = muster(tmp_path, "kernels", "text.nonsense@9")
    assert done.returncode == 2
    assert "text.nonsense@9" in done.stderr and "text.quality@1" in done.stderr
