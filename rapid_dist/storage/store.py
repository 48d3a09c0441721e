"""One folder on a local disk or under an s3:// prefix, with writes that are whole or absent."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, TypeVar

from rapid_dist.errors import InputError, RapidDistError, StorageError
from rapid_dist.storage import s3

Value = TypeVar("Value")

_DELETE_TRIES = 20
_PARTS_AT_ONCE = 2  # of a file that is sent from a disk


class Store:
    """A folder given by URI: a local path, file:// or s3://bucket/prefix.

    All paths passed to methods are relative, with forward slashes, and may not leave the folder.
    The endpoint of an S3-compatible service comes from AWS_ENDPOINT_URL, credentials from the usual
    AWS variables or profile; neither is ever written into an artefact. Instances pickle as their URI.
    """

    def __init__(self, uri: str | os.PathLike[str]):
        self.uri = _normalise(os.fspath(uri))
        self.is_local = not self.uri.startswith("s3://")
        self._fs: Any = None

    def __getstate__(self) -> str:
        return self.uri

    def __setstate__(self, uri: str) -> None:
        self.__init__(uri)

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    @property
    def fs(self) -> Any:
        """The fsspec file system; s3fs is imported only for s3://."""
        if self._fs is None:
            import fsspec

            self._fs = fsspec.filesystem("file") if self.is_local else s3.open_s3()
        return self._fs

    def path(self, relative: str = "") -> str:
        """The path as the file system wants it. Raises InputError when it would leave the folder."""
        parts = [p for p in relative.split("/") if p not in ("", ".")]
        if ".." in parts or relative.startswith("/"):
            raise InputError(f"path {relative!r} leaves {self.uri}; paths inside a folder must be relative")
        root = self.uri.removeprefix("s3://") if not self.is_local else self.uri
        return "/".join([root, *parts])

    def uri_of(self, relative: str) -> str:
        """What people are shown of a file, and what every command takes. Raises InputError as path does."""
        self.path(relative)
        return f"{self.uri}/{relative}"

    def child(self, relative: str) -> Store:
        """The store of a sub-folder."""
        self.path(relative)
        return Store(f"{self.uri}/{relative}")

    def exists(self, relative: str = "") -> bool:
        with translated(self.uri):
            return bool(self._call(lambda: self.fs.exists(self.path(relative))))

    def size(self, relative: str) -> int:
        with translated(self.uri):
            return int(self._call(lambda: self.fs.size(self.path(relative))))

    def list_files(self, relative: str = "") -> list[str]:
        """Sorted names of the files directly in a folder; an absent folder has none."""
        return sorted(self.file_sizes(relative))

    def file_sizes(self, relative: str = "") -> dict[str, int]:
        """Name -> bytes of the files directly in a folder, by one listing; an absent folder has none."""
        with translated(self.uri):
            try:
                entries = self._call(lambda: self.fs.ls(self.path(relative), detail=True))
            except FileNotFoundError:
                return {}
        return {e["name"].rsplit("/", 1)[-1]: int(e["size"]) for e in entries if e["type"] == "file"}

    @contextlib.contextmanager
    def open_reader(self, relative: str) -> Iterator[BinaryIO]:
        """A seekable file that fetches only what is read of it. Raises InputError when it is absent."""
        with translated(self.uri):
            try:
                file: Any = self.fs.open(self.path(relative), "rb") if self.is_local else _Ranges(self, relative)
            except FileNotFoundError:
                raise InputError(f"{self.uri}/{relative} does not exist") from None
            with file:
                yield file

    def read_range(self, relative: str, start: int, stop: int) -> bytes:
        """Bytes start to stop of a file."""
        with translated(self.uri):
            return self._call(lambda: self.fs.cat_file(self.path(relative), start=start, end=stop))

    def read_bytes(self, relative: str) -> bytes:
        """Raises InputError when the file is absent."""
        with translated(self.uri):
            try:
                return self._call(lambda: self.fs.cat_file(self.path(relative)))
            except FileNotFoundError:
                raise InputError(f"{self.uri}/{relative} does not exist") from None

    def write_bytes(self, relative: str, data: bytes) -> None:
        """Writes the whole file or nothing: a reader never sees a part of it."""
        target = self.path(relative)
        with translated(self.uri):
            if not self.is_local:
                with _bucket_required(self.uri):
                    self._call(lambda: self.fs.pipe_file(target, data, chunksize=s3.PART_BYTES))
                return
            with _temporary_beside(target, [data]) as temporary:
                os.replace(temporary, target)
                _fsync_folder(target)

    def write_chunks(self, relative: str, chunks: Iterable[bytes]) -> None:
        """As write_bytes, holding one chunk at a time; when the chunks end by raising, nothing is written."""
        target = self.path(relative)
        with translated(self.uri):
            if self.is_local:
                with _temporary_beside(target, chunks) as temporary:
                    os.replace(temporary, target)
                    _fsync_folder(target)
                return
            with tempfile.NamedTemporaryFile() as file:  # put whole, so that it can be put again
                file.writelines(chunks)
                file.flush()
                sizes = {"chunksize": s3.PART_BYTES, "max_concurrency": _PARTS_AT_ONCE}
                with _bucket_required(self.uri):
                    self._call(lambda: self.fs.put_file(file.name, target, **sizes))

    def create_exclusive(self, relative: str, data: bytes) -> bool:
        """Writes the file only if it is absent; returns whether this call made it. Durable on return.

        Locally a hard link of a synced temporary file, on S3 a conditional put: of two writers one wins. When the
        answer to a put is lost it is sent again, and may then find its own object and return False: a caller that
        must know compares what it reads with its own bytes, which therefore have to differ from every other writer's.
        """
        target = self.path(relative)
        with translated(self.uri):
            try:
                if not self.is_local:
                    with _bucket_required(self.uri):
                        self._call(lambda: self.fs.pipe_file(target, data, mode="create", chunksize=s3.PART_BYTES))
                    return True
                with _temporary_beside(target, [data]) as temporary:
                    os.link(temporary, target)
                    _fsync_folder(target)
                return True
            except FileExistsError:
                return False
            except OSError as error:
                if s3.is_refused_creation(error):
                    return False
                raise

    def refuses_to_create_twice(self, relative: str) -> bool:
        """Returns whether create_exclusive can be relied on here, by trying it on a file that then stays.

        Some services take a conditional put and ignore the condition. Once the file exists this is one request.
        """
        return self.is_local or not all(self.create_exclusive(relative, b"{}") for _ in range(2))

    def delete(self, relative: str) -> None:
        with translated(self.uri), contextlib.suppress(FileNotFoundError):
            self._call(lambda: self.fs.rm_file(self.path(relative)))

    def delete_folder(self, relative: str) -> None:
        """Deletes a sub-folder with all it holds; an absent one is no error."""
        if not relative:
            raise InputError(f"refusing to delete the whole of {self.uri}; name a sub-folder")
        with translated(self.uri), contextlib.suppress(FileNotFoundError):
            self._call(lambda: _removed_whole(self.fs, self.path(relative)))

    def _call(self, fn: Callable[[], Value]) -> Value:
        return fn() if self.is_local else s3.retried(fn)


class _Ranges(io.RawIOBase):
    """A remote file of which each read is one request; nothing is read ahead, that would fetch other shards' rows."""

    def __init__(self, store: Store, relative: str):
        self._store, self._relative, self._place = store, relative, 0
        self._size = store.size(relative)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        stop = min(self._size, self._place + len(buffer))
        data = self._store.read_range(self._relative, self._place, stop) if stop > self._place else b""
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def _removed_whole(fs: Any, folder: str) -> None:
    """Deletes a folder that another process may still be writing into: what came in between goes in the next try."""
    for tries_left in reversed(range(_DELETE_TRIES)):
        try:
            fs.rm(folder, recursive=True)
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or tries_left == 0:
                raise


KNOWN_SCHEMES = "a local path, file:// or s3:// (in lower case)"


def unknown_scheme(uri: str) -> str | None:
    """Returns the scheme of a URI that no store opens, such as gs or S3; None for a local path, file:// and s3://."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    return scheme[1] if scheme and scheme[1] not in ("file", "s3") else None


def _normalise(uri: str) -> str:
    if not uri:
        raise InputError("got an empty path; expected a folder or an s3:// prefix")
    scheme = unknown_scheme(uri)
    if scheme is not None:
        raise InputError(f"{uri!r} has scheme {scheme!r}; expected {KNOWN_SCHEMES}")
    if uri.startswith("s3://"):
        return uri.rstrip("/")
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://"))).rstrip("/") or "/"


@contextlib.contextmanager
def _temporary_beside(target: str, chunks: Iterable[bytes]) -> Iterator[str]:
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
    except FileExistsError:
        raise StorageError(f"{os.path.dirname(target)} is a file; expected a folder, or a path not taken yet") from None
    temporary = f"{os.path.dirname(target)}/.tmp-{secrets.token_hex(8)}"
    try:
        with open(temporary, "xb") as f:
            for chunk in chunks:
                f.write(chunk)
            f.flush()
            os.fsync(f.fileno())
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _fsync_folder(target: str) -> None:
    fd = os.open(os.path.dirname(target), os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _bucket_required(uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise StorageError(f"{uri} refused: its bucket does not exist; create the bucket first") from None


@contextlib.contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turns what a file system raises into one StorageError that names the place and never a secret."""
    try:
        yield
    except (RapidDistError, FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        if uri.startswith("s3://"):
            raise s3.explained(uri, error) from error
        if error.errno == errno.ENOSPC:
            raise StorageError(f"no space left at {uri}; free some space and run the same line again") from error
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise StorageError(f"{uri} refused: {reason}; check the path and its permissions") from error
    except Exception as error:
        if uri.startswith("s3://") and s3.is_about_s3(error):
            raise s3.explained(uri, error) from error
        raise
