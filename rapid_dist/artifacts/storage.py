"""One folder on a local disk or under an s3:// prefix, with writes that are whole or absent."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from rapid_dist.errors import InputError, StorageError


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

            if self.is_local:
                self._fs = fsspec.filesystem("file")
            else:
                # Named here so that it is part of fsspec's cache key: another endpoint is another file system.
                endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
                self._fs = fsspec.filesystem("s3", use_listings_cache=False, endpoint_url=endpoint)
        return self._fs

    def path(self, relative: str = "") -> str:
        """The path as the file system wants it. Raises InputError when it would leave the folder."""
        parts = [p for p in relative.split("/") if p not in ("", ".")]
        if ".." in parts or relative.startswith("/"):
            raise InputError(f"path {relative!r} leaves {self.uri}; paths inside a folder must be relative")
        root = self.uri.removeprefix("s3://") if not self.is_local else self.uri
        return "/".join([root, *parts])

    def child(self, relative: str) -> Store:
        """The store of a sub-folder."""
        self.path(relative)
        return Store(f"{self.uri}/{relative}")

    def exists(self, relative: str = "") -> bool:
        with _translated(self.uri):
            return bool(self.fs.exists(self.path(relative)))

    def size(self, relative: str) -> int:
        with _translated(self.uri):
            return int(self.fs.size(self.path(relative)))

    def list_files(self, relative: str = "") -> list[str]:
        """Sorted names of the files directly in a folder; an absent folder has none."""
        return sorted(self.file_sizes(relative))

    def file_sizes(self, relative: str = "") -> dict[str, int]:
        """Name -> bytes of the files directly in a folder, by one listing; an absent folder has none."""
        with _translated(self.uri):
            try:
                entries = self.fs.ls(self.path(relative), detail=True)
            except FileNotFoundError:
                return {}
        return {e["name"].rsplit("/", 1)[-1]: int(e["size"]) for e in entries if e["type"] == "file"}

    @contextlib.contextmanager
    def open_reader(self, relative: str) -> Iterator[BinaryIO]:
        """A seekable file that fetches only what is read of it. Raises InputError when it is absent."""
        with _translated(self.uri):
            try:
                # Without a cache: Parquet asks for exact ranges, and reading ahead would fetch other shards' rows.
                file = self.fs.open(self.path(relative), "rb", **({} if self.is_local else {"cache_type": "none"}))
            except FileNotFoundError:
                raise InputError(f"{self.uri}/{relative} does not exist") from None
            with file:
                yield file

    def read_bytes(self, relative: str) -> bytes:
        """Raises InputError when the file is absent."""
        with _translated(self.uri):
            try:
                return self.fs.cat_file(self.path(relative))
            except FileNotFoundError:
                raise InputError(f"{self.uri}/{relative} does not exist") from None

    def write_bytes(self, relative: str, data: bytes) -> None:
        """Writes the whole file or nothing: a reader never sees a part of it."""
        target = self.path(relative)
        with _translated(self.uri):
            if not self.is_local:
                with _bucket_required(self.uri):
                    self.fs.pipe_file(target, data)
                return
            with _temporary_beside(target, data) as temporary:
                os.replace(temporary, target)
                _fsync_folder(target)

    def create_exclusive(self, relative: str, data: bytes) -> bool:
        """Writes the file only if it is absent; returns whether this call made it. Durable on return.

        Locally a hard link of a synced temporary file, on S3 a conditional put: of two writers one wins.
        """
        target = self.path(relative)
        with _translated(self.uri):
            try:
                if not self.is_local:
                    with _bucket_required(self.uri):
                        self.fs.pipe_file(target, data, mode="create")
                    return True
                with _temporary_beside(target, data) as temporary:
                    os.link(temporary, target)
                    _fsync_folder(target)
                return True
            except FileExistsError:
                return False

    def delete(self, relative: str) -> None:
        with _translated(self.uri), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(relative))

    def delete_folder(self, relative: str) -> None:
        """Deletes a sub-folder with all it holds; an absent one is no error."""
        if not relative:
            raise InputError(f"refusing to delete the whole of {self.uri}; name a sub-folder")
        with _translated(self.uri), contextlib.suppress(FileNotFoundError):
            self.fs.rm(self.path(relative), recursive=True)


def _normalise(uri: str) -> str:
    if not uri:
        raise InputError("got an empty path; expected a folder or an s3:// prefix")
    scheme = urlsplit(uri).scheme if "://" in uri else ""
    if scheme == "s3":
        return uri.rstrip("/")
    if scheme not in ("", "file"):
        raise InputError(f"{uri!r} has scheme {scheme!r}; expected a local path or s3://")
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://"))).rstrip("/") or "/"


@contextlib.contextmanager
def _temporary_beside(target: str, data: bytes) -> Iterator[str]:
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
    except FileExistsError:
        raise StorageError(f"{os.path.dirname(target)} is a file; expected a folder, or a path not taken yet") from None
    temporary = f"{os.path.dirname(target)}/.tmp-{secrets.token_hex(8)}"
    try:
        with open(temporary, "xb") as f:
            f.write(data)
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
def _translated(uri: str) -> Iterator[None]:
    """Turns what a file system raises into one StorageError that names the place and never a secret."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageError(f"no space left at {uri}; free some space and run the same line again") from error
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise StorageError(f"{uri} refused: {reason}; check the path, its permissions and the endpoint") from error
    except Exception as error:
        module = type(error).__module__
        if module.startswith(("botocore", "aiobotocore", "aiohttp")):
            raise StorageError(
                f"{uri} refused: {type(error).__name__}; check the bucket, AWS credentials and AWS_ENDPOINT_URL"
            ) from error
        raise
