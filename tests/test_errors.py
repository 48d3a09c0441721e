"""Errors of ours are of Python's own kinds too, and keep their name and words on the way up all the same."""

from __future__ import annotations

import errno
import io
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rapid_dist import errors, layout
from rapid_dist.errors import InputError, RapidDistError, SpecError, StorageError
from rapid_dist.ingest import parquet as parquet_source
from rapid_dist.ingest.npz import read_npz_unit
from rapid_dist.ingest.sources import discover
from rapid_dist.storage.stage import OwnerLog
from rapid_dist.storage.store import Store, translated
from rapid_dist.storage.tables import grouped_table_arrays, read_column, read_table_group


@pytest.mark.parametrize(
    ("kind", "builtin"), [(SpecError, ValueError), (InputError, ValueError), (StorageError, OSError)]
)
def test_an_error_is_of_the_kind_that_a_python_user_expects(kind, builtin):
    assert issubclass(kind, RapidDistError)
    assert issubclass(kind, builtin)


@pytest.mark.parametrize("kind", errors._descendants(RapidDistError))
def test_an_error_keeps_its_class_and_words_through_a_pickle_and_as_plain_text(kind):
    def fail():
        raise kind("the words")

    with pytest.raises(kind, match=r"^the words$"):
        errors.value_of(errors.as_value(fail))
    copy = pickle.loads(pickle.dumps(kind("the words")))
    assert (type(copy), str(copy)) == (kind, "the words")


def test_a_label_outside_the_classes_of_an_npz_file_keeps_its_own_message(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 8, 8), np.uint8), labels=np.array([0, 1, 7]))
    source = discover(str(tmp_path / "a.npz"), class_names=("cat", "dog"))
    with pytest.raises(InputError, match=r"a\.npz has label 7; expected 0 to 1"):
        list(read_npz_unit(source.units[0]))


@pytest.mark.parametrize("kind", [InputError, StorageError])
def test_an_error_of_ours_while_a_parquet_source_is_read_is_not_called_a_bad_file(tmp_path, kind):
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "a.parquet")
    with pytest.raises(kind, match=r"^the words$"), parquet_source._opened(str(tmp_path / "a.parquet")):
        raise kind("the words")


class FailingFile(io.RawIOBase):
    """A file of 10 kB on a store that does not answer."""

    place = 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: 10_000}[whence]
        return self.place

    def tell(self):
        return self.place

    def readinto(self, buffer):
        raise StorageError("s3://b refused: SlowDown")


@pytest.mark.parametrize(
    "read",
    [lambda file: read_column(file, "a", where="w"), lambda file: read_table_group(file, 0, where="w")],
    ids=["column", "group"],
)
def test_a_store_that_fails_while_a_table_is_read_is_not_called_a_bad_table(read):
    with pytest.raises(StorageError, match=r"^s3://b refused: SlowDown$"):
        read(FailingFile())


def test_what_the_bytes_of_a_table_raise_of_ours_is_not_called_a_bad_table(monkeypatch):
    def fail(*_, **__):
        raise SpecError("the words")

    monkeypatch.setattr(pq, "ParquetFile", fail)
    with pytest.raises(SpecError, match=r"^the words$"):
        grouped_table_arrays(b"", where="w")


@pytest.mark.parametrize("uri", ["/a", "s3://b/a"])
@pytest.mark.parametrize("kind", [InputError, StorageError])
def test_an_error_explained_once_is_not_explained_again(uri, kind):
    with pytest.raises(kind, match=r"^no space left at /x$") as caught, translated(uri):
        raise kind("no space left at /x") from OSError(errno.ENOSPC, "full")
    assert type(caught.value) is kind


def test_a_file_in_the_place_of_a_folder_keeps_its_own_message(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    for write in (Store(tmp_path / "a").write_bytes, Store(tmp_path / "a").create_exclusive):
        with pytest.raises(StorageError, match="is a file; expected a folder"):
            write("b", b"")


def test_a_log_that_vanishes_while_it_is_read_is_not_called_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(Store, "exists", lambda *_: True)
    with pytest.raises(InputError, match=f"{layout.OWNER_LOG} does not exist"):
        OwnerLog(Store(tmp_path)).seconds()
