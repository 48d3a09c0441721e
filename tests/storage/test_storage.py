import builtins
import errno
import os
import pickle
import threading

import pytest

from rapid_dist.errors import InputError, StorageError
from rapid_dist.storage import store as storage
from rapid_dist.storage.store import Store


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "folder")


def everything_under(path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def full_disk(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


class FullAfterHalf:
    """A file that takes half of what is written and then reports a full disk."""

    def __init__(self, path, mode):
        self._file = builtins.open(path, mode)  # noqa: SIM115

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._file.close()

    def write(self, data):
        self._file.write(data[: len(data) // 2])
        full_disk()


@pytest.mark.parametrize("path", ["../x", "a/../../x", "a/..", "..", "/etc/passwd", "/"])
def test_a_path_that_leaves_the_folder_is_refused_by_every_method(store, path):
    calls = [
        store.path,
        store.child,
        store.exists,
        store.size,
        store.list_files,
        store.read_bytes,
        store.delete,
        lambda p: store.write_bytes(p, b""),
        lambda p: store.create_exclusive(p, b""),
    ]
    for call in calls:
        with pytest.raises(InputError, match="leaves"):
            call(path)


def test_names_that_only_look_like_escapes_are_ordinary(store):
    store.write_bytes("..a/b..c/...", b"x")
    assert store.read_bytes("..a/b..c/...") == b"x"
    assert store.child("..a").child("b..c").list_files() == ["..."]


def test_what_was_written_is_read_and_listed(store):
    assert not store.exists("a/one")
    assert store.list_files("a") == []
    store.write_bytes("a/two", b"22")
    store.write_bytes("a/one", b"1")
    store.write_bytes("a/deeper/three", b"333")
    assert store.list_files("a") == ["one", "two"]
    assert (store.read_bytes("a/two"), store.size("a/deeper/three")) == (b"22", 3)
    assert Store(f"file://{store.uri}").read_bytes("a/one") == b"1"


def test_sizes_are_those_of_the_files_directly_in_a_folder(store):
    store.write_bytes("a/x.bin", b"12345")
    store.write_bytes("a/b/y.bin", b"1")
    assert store.file_sizes("a") == {"x.bin": 5}
    assert store.file_sizes("nowhere") == {}


def test_a_reader_seeks_to_what_is_asked_for(store):
    store.write_bytes("a/x.bin", b"0123456789")
    with store.open_reader("a/x.bin") as file:
        file.seek(6)
        assert file.read(2) == b"67"
    with pytest.raises(InputError, match=r"a/no\.bin does not exist"), store.open_reader("a/no.bin"):
        pass


def test_reading_an_absent_file_is_an_input_error(store):
    with pytest.raises(InputError, match=r"a/b does not exist"):
        store.read_bytes("a/b")


def test_deleting_twice_is_deleting_once(store):
    store.write_bytes("a", b"1")
    store.delete("a")
    store.delete("a")
    assert not store.exists("a")


@pytest.mark.parametrize("failing", ["replace", "fsync", "write"])
def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(store, tmp_path, monkeypatch, failing):
    store.write_bytes("a/b", b"old")
    with monkeypatch.context() as patch:
        if failing == "write":
            patch.setattr(storage, "open", FullAfterHalf, raising=False)
        else:
            patch.setattr(os, failing, full_disk)
        with pytest.raises(StorageError, match="no space left"):
            store.write_bytes("a/b", b"new and longer")
    assert everything_under(tmp_path) == ["folder/a/b"]
    assert store.read_bytes("a/b") == b"old"


@pytest.mark.parametrize("failing", ["link", "fsync"])
def test_an_exclusive_file_on_a_full_disk_is_not_created_at_all(store, tmp_path, monkeypatch, failing):
    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full_disk)
        with pytest.raises(StorageError, match="no space left"):
            store.create_exclusive("entry", b"data")
    assert everything_under(tmp_path) == []


def test_a_file_stands_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for write in (Store(tmp_path / "file").write_bytes, Store(tmp_path / "file").create_exclusive):
        with pytest.raises(StorageError, match="file is a file"):
            write("a", b"x")


def test_a_reader_never_sees_a_part_of_a_file(store):
    """Two whole contents take turns while a reader looks; anything but one of them is a torn write."""
    whole = [b"a" * 200_000, b"b" * 100_000]
    store.write_bytes("f", whole[0])
    stop, torn = threading.Event(), []

    def read():
        while not stop.is_set():
            data = store.read_bytes("f")
            if data not in whole:
                torn.append(len(data))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(40):
        store.write_bytes("f", whole[i % 2])
    stop.set()
    reader.join()
    assert torn == []


def test_the_second_writer_of_an_exclusive_file_loses_and_changes_nothing(store, tmp_path):
    assert store.create_exclusive("entry", b"first")
    assert not store.create_exclusive("entry", b"second")
    assert store.read_bytes("entry") == b"first"
    assert everything_under(tmp_path) == ["folder/entry"]


def test_of_many_threads_exactly_one_creates_an_exclusive_file(store):
    for round_ in range(5):
        start, answers = threading.Barrier(8), {}

        def create(i, name=f"entry-{round_}", start=start, answers=answers):
            start.wait(timeout=30)
            answers[i] = store.create_exclusive(name, bytes([i]) * 1000)

        threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        winners = [i for i, made in answers.items() if made]
        assert len(answers) == 8
        assert len(winners) == 1
        assert store.read_bytes(f"entry-{round_}") == bytes(winners) * 1000


def test_a_store_pickles_as_its_uri(store):
    assert store.fs is not None
    again = pickle.loads(pickle.dumps(store))
    assert again.uri == store.uri
    again.write_bytes("a", b"1")
    assert store.read_bytes("a") == b"1"


@pytest.mark.parametrize("uri", ["", "http://x/y", "gs://b/p"])
def test_a_uri_of_another_kind_is_refused(uri):
    with pytest.raises(InputError):
        Store(uri)


def test_an_s3_uri_keeps_bucket_and_prefix_without_a_connection():
    store = Store("s3://bucket/prefix/")
    assert (store.uri, store.is_local) == ("s3://bucket/prefix", False)
    assert store.path("a/b") == "bucket/prefix/a/b"
    assert store.child("a").uri == "s3://bucket/prefix/a"


def test_a_folder_into_which_another_process_still_writes_is_deleted_whole(tmp_path, monkeypatch):
    store = Store(tmp_path / "out")
    store.write_bytes("work/a", b"1")
    real, late = os.rmdir, ["b", "c"]

    def rmdir(path, **kwargs):
        if late and str(path).endswith("work"):
            (tmp_path / "out" / "work" / late.pop()).write_bytes(b"2")
        return real(path, **kwargs)

    monkeypatch.setattr(os, "rmdir", rmdir)
    store.delete_folder("work")
    assert not late
    assert not (tmp_path / "out" / "work").exists()


def test_chunks_that_end_by_raising_leave_the_old_file_and_no_temporary_one(store, tmp_path):
    def chunks(*, ends_well):
        yield b"new "
        if not ends_well:
            raise KeyError("in the middle")
        yield b"file"

    store.write_bytes("a/x", b"old")
    with pytest.raises(KeyError):
        store.write_chunks("a/x", chunks(ends_well=False))
    assert (store.read_bytes("a/x"), everything_under(tmp_path)) == (b"old", ["folder/a/x"])
    store.write_chunks("a/x", chunks(ends_well=True))
    assert (store.read_bytes("a/x"), everything_under(tmp_path)) == (b"new file", ["folder/a/x"])
