"""Where source files live: the local disk, or any file system that fsspec knows. Listing, versions, hashes, ranges.

It does not know formats. Invariants: listings are sorted by name; ``version`` changes whenever a cheap look can tell
(size, modification time, inode; ETag or the like), so a local rewrite that keeps size and modification time is only
found by content; a fingerprint is the BLAKE3 of the content, or begins with ``etag:`` and binds address, strong ETag,
version id and size. Credentials in storage options stay in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol, cast

from blake3 import blake3

from muster.datasets.reading import ByteSource
from muster.errors import SourceChangedError, SourceError

Progress = Callable[[str, int, int], None]
"""Called with (file name, bytes hashed, bytes in all)."""

_HASH_BLOCK_NBYTES = 4 << 20
_SMALL_NBYTES = 1 << 17
_GLOB = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Found:
    """A file: the ``path`` to open it by, its ``name`` relative to the source, size in bytes, version token."""

    path: str
    name: str
    nbytes: int
    version: str


class Origin(Protocol):
    """A place with files."""

    def find(self) -> Iterator[Found]:
        """Yield the source's files, sorted by name; ``SourceError`` if there is no such place."""

    def look(self, path: str) -> tuple[int, str]:
        """Return the file's size in bytes and version token now."""

    def fingerprint(self, found: Found, on_progress: Progress | None) -> str:
        """Return the file's strong fingerprint."""

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes; ``SourceChangedError`` if the file ends before."""

    def open(self, path: str) -> IO[bytes]:
        """Open the file for streaming."""


@dataclass(frozen=True, slots=True)
class FileBytes(ByteSource):
    """One file of an origin as a ``ByteSource``."""

    origin: Origin
    path: str

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes at ``offset``."""
        return self.origin.read(self.path, offset, length)


def open_origin(url: str, storage_options: Mapping[str, Any] | None = None) -> Origin:
    """Return the origin of a path, glob or fsspec URL."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return LocalOrigin(Path(url).expanduser())
    if scheme in {"file", "local"}:
        return LocalOrigin(Path(rest))
    return RemoteOrigin(url, storage_options or {})


class LocalOrigin:
    """Files of this machine."""

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links and rename the source

    def find(self) -> Iterator[Found]:
        """Yield the file, the files of a folder (hidden ones left out), or what the glob matches."""
        path = self._path
        if path.is_file():
            yield self._found(str(path), path.name)
        elif path.is_dir():
            yield from self._walk(str(path), "")
        elif _GLOB & set(str(path)):
            root = _glob_root(path)
            matches = root.glob(str(path.relative_to(root)))
            names = sorted(m.relative_to(root).as_posix() for m in matches if m.is_file())
            yield from (self._found(str(root / name), name) for name in names)
        else:
            raise SourceError(f"{path}: expected a file, a folder or a glob, found nothing there")

    def _walk(self, folder: str, prefix: str) -> Iterator[Found]:
        """Depth first; folders sort as their name with ``/``, so that whole names come out sorted."""
        try:
            with os.scandir(folder) as scan:
                shown = [entry for entry in scan if not entry.name.startswith(".")]
        except OSError as error:
            raise SourceError(f"{folder}: can't be listed: {error.strerror}") from None
        entries = [(entry.name + "/" * entry.is_dir(follow_symlinks=False), entry) for entry in shown]
        entries.sort(key=lambda pair: os.fsencode(pair[0]))
        for name, entry in entries:
            if name.endswith("/"):
                yield from self._walk(entry.path, prefix + name)
            elif entry.is_file():
                yield self._found(entry.path, prefix + name)

    def _found(self, path: str, name: str) -> Found:
        nbytes, version = self.look(path)
        return Found(path, name, nbytes, version)

    def look(self, path: str) -> tuple[int, str]:
        """Return size and ``size-mtime-inode``; ``SourceChangedError`` if the file is gone."""
        try:
            stat = Path(path).stat()
        except OSError as error:
            raise SourceChangedError(f"{path}: expected the source file, found: {error.strerror}") from None
        return stat.st_size, _version(stat)

    def fingerprint(self, found: Found, on_progress: Progress | None) -> str:
        """Hash the content, on all cores; read, not mapped: a mapped file that shrinks kills the process."""
        try:
            with Path(found.path).open("rb", buffering=0) as file:
                digest = hash_stream(file, partial(on_progress, found.name) if on_progress else None, found.nbytes)
        except OSError as error:
            raise SourceError(f"{found.name}: can't be read: {error.strerror}") from None
        if self.look(found.path)[1] != found.version:
            raise SourceChangedError(f"{found.name}: changed while it was hashed")
        return digest

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes."""
        try:
            with Path(path).open("rb", buffering=0) as file:
                file.seek(offset)
                data = file.read(length) or b""
                while len(data) < length and (more := file.read(length - len(data))):
                    data += more
        except OSError as error:
            raise SourceChangedError(f"{path}: expected the source file, found: {error.strerror}") from None
        return _whole(data, path, offset, length)

    def open(self, path: str) -> IO[bytes]:
        """Open the file, buffered."""
        return Path(path).open("rb")


class RemoteOrigin:
    """Files of an fsspec file system."""

    def __init__(self, url: str, storage_options: Mapping[str, Any]) -> None:
        import fsspec

        self._url = url
        try:
            self._fs, self._root = fsspec.url_to_fs(url, **storage_options)
        except (ImportError, ValueError) as error:
            raise SourceError(f"{url}: {error}") from None

    def find(self) -> Iterator[Found]:
        """Yield the object, everything below the prefix, or what the glob matches."""
        try:
            found = self._list()
        except (OSError, ValueError) as error:
            raise SourceError(f"{self._url}: can't be listed: {error}") from None
        if not found:
            raise SourceError(f"{self._url}: expected an object, a prefix or a glob, found nothing there")
        yield from sorted(found, key=lambda f: f.name.encode())

    def _list(self) -> list[Found]:
        fs, root = self._fs, self._root
        if _GLOB & set(root):
            infos = list(fs.glob(root, detail=True).values())
            base = root[: min(root.index(ch) for ch in _GLOB if ch in root)].rpartition("/")[0]
        elif fs.isfile(root):
            infos, base = [fs.info(root)], root.rpartition("/")[0]
        else:
            infos, base = list(fs.find(root, detail=True).values()), root
        files = [info for info in infos if info.get("type", "file") == "file"]
        named = [(info, info["name"].removeprefix(base).lstrip("/")) for info in files]
        return [
            Found(info["name"], name, _size(info), _remote_version(info))
            for info, name in named
            if not any(part.startswith(".") for part in name.split("/"))
        ]

    def look(self, path: str) -> tuple[int, str]:
        """Return size and version token, past any listing cache."""
        try:
            self._fs.invalidate_cache(self._fs._parent(path))  # no public name for the parent's listing
            info = self._fs.info(path)
        except OSError as error:
            raise SourceChangedError(f"{path}: expected the source file, found: {error}") from None
        return _size(info), _remote_version(info)

    def fingerprint(self, found: Found, on_progress: Progress | None) -> str:
        """Bind address, strong ETag or checksum, version id and size; without one of these, hash the content."""
        info = self._fs.info(found.path)
        strong = _strong_tag(info)
        if strong is None:
            with self.open(found.path) as file:
                return hash_stream(file, partial(on_progress, found.name) if on_progress else None, found.nbytes)
        parts = [self._fs.unstrip_protocol(found.path), strong, str(info.get("VersionId")), str(found.nbytes)]
        return "etag:" + blake3("\0".join(parts).encode()).hexdigest()

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes."""
        if length == 0:
            return b""
        try:
            data = bytes(self._fs.cat_file(path, start=offset, end=offset + length))
        except FileNotFoundError:
            raise SourceChangedError(f"{path}: expected the source file, found nothing there") from None
        except (OSError, ValueError) as error:
            raise SourceError(f"{path}: bytes [{offset}, {offset + length}) can't be read: {error}") from None
        return _whole(data, path, offset, length)

    def open(self, path: str) -> IO[bytes]:
        """Open the object for streaming."""
        return cast("IO[bytes]", self._fs.open(path, "rb"))


def hash_stream(file: Any, on_progress: Callable[[int, int], None] | None, nbytes: int) -> str:
    """Return the BLAKE3 (hex) of a stream, read in blocks and hashed on all cores."""
    if nbytes <= _SMALL_NBYTES:  # threads and a big buffer cost more than hashing it
        data = file.read(_SMALL_NBYTES + 1)
        if len(data) <= _SMALL_NBYTES:
            if on_progress is not None:
                on_progress(len(data), nbytes)
            return blake3(data).hexdigest()
        file.seek(0)
    hasher = blake3(max_threads=blake3.AUTO)
    block = bytearray(_HASH_BLOCK_NBYTES)
    view = memoryview(block)
    done = 0
    while count := file.readinto(block):
        hasher.update(view[:count])
        done += count
        if on_progress is not None:
            on_progress(done, nbytes)
    return hasher.hexdigest()


def _whole(data: bytes, path: str, offset: int, length: int) -> bytes:
    if len(data) != length:
        raise SourceChangedError(
            f"{path}: the source changed under the running job: "
            f"expected {length} bytes at {offset}, found {len(data)}: the file is shorter"
        )
    return data


def _version(stat: os.stat_result) -> str:
    return f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ino}"


def _size(info: Mapping[str, Any]) -> int:
    size = info.get("size")
    if size is None:
        raise SourceError(f"{info.get('name')}: the server does not say how big it is, so it can't be read by range")
    return int(size)


def _strong_tag(info: Mapping[str, Any]) -> str | None:
    """Return what the store promises to change with the content; weak ETags (RFC 9110 section 8.8.1) don't count."""
    for key in ("ETag", "etag", "md5Hash", "content_md5", "md5", "Content-MD5", "Digest"):
        value = info.get(key)
        if value and not str(value).startswith("W/"):
            return f"{key}={value}"
    return None


def _remote_version(info: Mapping[str, Any]) -> str:
    token = _strong_tag(info)
    if token is None:
        times = (info.get(key) for key in ("mtime", "LastModified", "last_modified", "created"))
        seen: Any = next((time for time in times if time), "")
        # Listings and single look-ups of one file system may give the same time as datetime and as seconds.
        seconds = seen.timestamp() if hasattr(seen, "timestamp") else seen
        token = f"{seconds:.3f}" if isinstance(seconds, int | float) else str(seconds)
    return f"{_size(info)}-{info.get('VersionId') or ''}-{token}"


def _glob_root(path: Path) -> Path:
    parts = path.parts
    fixed = next(k for k, part in enumerate(parts) if _GLOB & set(part))
    return Path(*parts[:fixed])
