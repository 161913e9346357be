"""Where a dataset is published: a local folder that appears by one rename, or an object store whose manifest is last.

What it does: puts whole files under names inside OUT, tells what is at OUT, makes the dataset visible, cleans up.
What it does not do: know what the files hold (``publish`` does).

Local folder: everything is built in the hidden sibling ``.NAME.muster-<job>`` and renamed to OUT at the end, so that
readers see the dataset whole or not at all. Object store (any fsspec file system): stores have no rename, so files are
written in place and ``_muster/manifest.parquet`` last. **Readers of an object store open the manifest first**: without
it there is no dataset yet; with it the parts that it lists are complete.

Invariants: nothing at OUT that another job or program wrote is changed or removed; a crash leaves either nothing
visible or the whole dataset; what it leaves hidden is removed by the next publication of the same job.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

import fsspec
import pyarrow as pa

from muster.errors import OutputError

MANIFEST_FILE = "_muster/manifest.parquet"
CERTIFICATE_FILE = "_muster/certificate.json"
REJECTS_FILE = "_muster/rejects.parquet"
_MARKER_FILE = "_muster/publishing.json"
MAX_CERTIFICATE_NBYTES = 1 << 20

State = Literal["absent", "partial", "complete", "foreign"]


class Target(Protocol):
    """A place for one dataset of one job."""

    def state(self) -> State:
        """What is there: nothing, our own unfinished work, our own whole dataset, or something of another origin."""
        ...

    def require_writable(self) -> None:
        """OutputError if it is plain already that nothing can be written there."""
        ...

    def begin(self) -> None:
        """Start from nothing: remove our own unfinished work. OutputError if OUT is taken."""
        ...

    def put_file(self, name: str, source: Path) -> None:
        """Add a copy (or hard link) of a file that never changes again."""
        ...

    def put_bytes(self, name: str, data: bytes | pa.Buffer) -> None:
        """Add a file."""
        ...

    def reveal(self, manifest: Path) -> None:
        """Add the manifest and make the dataset visible."""
        ...

    def abort(self) -> None:
        """Remove our own unfinished work."""
        ...


def open_target(out_url: str, job: str, storage_options: dict[str, Any] | None = None) -> Target:
    """The target for an OUT: a path, or any fsspec URL.

    Raises:
        OutputError: no file system knows the URL, or it can't be reached.
    """
    fs, path = open_location(out_url, storage_options)
    if "file" in _protocols(fs):
        return _LocalTarget(Path(path), job)
    return _StoreTarget(fs, path, job)


def open_location(url: str, storage_options: dict[str, Any] | None = None) -> tuple[fsspec.AbstractFileSystem, str]:
    """File system and path of an fsspec URL; OutputError if there is none."""
    try:
        fs, path = fsspec.core.url_to_fs(url, **(storage_options or {}))
    except (ValueError, ImportError, OSError) as err:
        raise OutputError(f"{url}: can't be opened: {err}") from err
    return fs, str(path).rstrip("/") or "/"


class _LocalTarget:
    """A folder on this machine."""

    def __init__(self, out: Path, job: str) -> None:
        self.out, self._job = out.absolute(), job
        mark = hashlib.sha256(job.encode()).hexdigest()[:16]
        self.hidden = self.out.with_name(f".{self.out.name}.muster-{mark}")

    def state(self) -> State:
        if self.out.is_dir() and not any(self.out.iterdir()):
            return "partial" if self.hidden.exists() else "absent"
        if self.out.exists() or self.out.is_symlink():
            certificate = self.out / CERTIFICATE_FILE
            whole = (self.out / MANIFEST_FILE).is_file() and certificate.is_file()
            return "complete" if whole and _job_of(_read_bounded(certificate)) == self._job else "foreign"
        return "partial" if self.hidden.exists() else "absent"

    def require_writable(self) -> None:
        folder = next(path for path in self.out.parents if path.exists())
        if not folder.is_dir():
            raise OutputError(f"{self.out}: can't be made: {folder} is not a folder")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"{self.out}: can't be made: no permission to write in {folder}")

    def begin(self) -> None:
        _require_free(self.state(), str(self.out))
        self.abort()
        try:
            (self.hidden / "_muster").mkdir(parents=True)
        except OSError as err:
            raise OutputError(f"{self.out.parent}: can't write there: {err.strerror}") from err

    def put_file(self, name: str, source: Path) -> None:
        """Hard link where the file system allows it, copy elsewhere."""
        target = self._path(name)
        try:
            os.link(source, target)
        except FileExistsError:
            raise
        except OSError:
            with source.open("rb") as src, target.open("xb") as dst:
                shutil.copyfileobj(src, dst, 1 << 20)
        _fsync(target)

    def put_bytes(self, name: str, data: bytes | pa.Buffer) -> None:
        target = self._path(name)
        try:
            with target.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as err:
            err.filename = err.filename or str(target)  # a full disk does not say which file it was
            raise

    def reveal(self, manifest: Path) -> None:
        self.put_file(MANIFEST_FILE, manifest)
        for folder in (self.hidden / "_muster", self.hidden):
            _fsync(folder)
        _require_free(self.state(), str(self.out))
        try:
            if os.name == "nt" and self.out.is_dir():
                self.out.rmdir()
            self.hidden.rename(self.out)  # replaces an empty folder on POSIX and fails on any other
        except OSError as err:
            raise OutputError(f"{self.out}: can't be made visible: {err.strerror}") from err
        _fsync(self.out.parent)

    def abort(self) -> None:
        if self.hidden.exists():
            shutil.rmtree(self.hidden)

    def _path(self, name: str) -> Path:
        return self.hidden / _checked_name(name)


class _StoreTarget:
    """A prefix in an object store, by fsspec."""

    def __init__(self, fs: fsspec.AbstractFileSystem, root: str, job: str) -> None:
        self._fs, self._root, self._job = fs, root, job

    def state(self) -> State:
        self._fs.invalidate_cache()
        found = self._fs.find(self._root)
        if not found:
            return "absent"
        marker = self._job_in(_MARKER_FILE) or self._job_in(CERTIFICATE_FILE)
        if marker != self._job:
            return "foreign"
        return "complete" if self._fs.exists(self._path(MANIFEST_FILE)) else "partial"

    def require_writable(self) -> None:
        """Nothing is plain about a store before something is written."""

    def begin(self) -> None:
        _require_free(self.state(), self._root)
        self.abort()
        self.put_bytes(_MARKER_FILE, json.dumps({"job": self._job}).encode())

    def put_file(self, name: str, source: Path) -> None:
        self._call(name, lambda path: self._fs.put_file(str(source), path))

    def put_bytes(self, name: str, data: bytes | pa.Buffer) -> None:
        raw = data if isinstance(data, bytes) else data.to_pybytes()
        self._call(name, lambda path: self._fs.pipe_file(path, raw))

    def reveal(self, manifest: Path) -> None:
        # From here on the certificate, which names the job too, marks the work as ours.
        if self._job_in(CERTIFICATE_FILE) == self._job:
            self._fs.rm_file(self._path(_MARKER_FILE))
        self.put_file(MANIFEST_FILE, manifest)

    def abort(self) -> None:
        if self.state() == "partial":
            marker = self._path(_MARKER_FILE)
            for path in self._fs.find(self._root):
                if path != marker:
                    self._fs.rm_file(path)
            if self._fs.exists(marker):
                self._fs.rm_file(marker)

    def _job_in(self, name: str) -> str | None:
        try:
            with self._fs.open(self._path(name), "rb") as file:
                return _job_of(file.read(MAX_CERTIFICATE_NBYTES))
        except FileNotFoundError:
            return None

    def _call(self, name: str, write: Callable[[str], object]) -> None:
        path = self._path(_checked_name(name))
        try:
            self._fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            write(path)
        except OSError as err:
            raise OutputError(f"{path}: can't be written: {err}") from err

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _require_free(state: State, out: str) -> None:
    if state == "foreign":
        hint = "choose another OUT, or remove it"
        raise OutputError(f"{out}: exists and is not an unfinished or finished dataset of this job", hint=hint)
    if state == "complete":
        raise OutputError(f"{out}: is already complete, made by this job")


def _protocols(fs: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _checked_name(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/") or "\\" in name:
        raise ValueError(f"not a file name inside a dataset: {name!r}")
    return name


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_CERTIFICATE_NBYTES)


def _job_of(document: bytes) -> str | None:
    """The job that a certificate or marker names; None if it is neither."""
    with contextlib.suppress(ValueError, RecursionError):
        parsed = json.loads(document)
        if isinstance(parsed, dict) and isinstance(parsed.get("job"), str):
            return str(parsed["job"])
    return None


def _fsync(path: Path) -> None:
    """Flush a file or folder to disk; folders can't be opened for that on Windows, where it is not needed."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
