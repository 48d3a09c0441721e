"""The store's promises hold over HTTP as they do on a disk."""

import threading

import pytest

from rapid_dist.errors import InputError, StorageError
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.charges import Charge
from rapid_dist.privacy.ledger import open_ledger, read_ledger
from rapid_dist.storage.manifest import Manifest, open_artifact, read_file, write_file, write_manifest
from rapid_dist.storage.store import Store


def test_what_is_written_is_read_listed_and_deleted(s3):
    store = Store(f"{s3}/basic")
    assert not store.exists("a/x.bin")
    assert store.list_files("a") == []
    store.write_bytes("a/x.bin", b"12345")
    assert store.read_bytes("a/x.bin") == b"12345"
    assert store.size("a/x.bin") == 5
    assert store.file_sizes("a") == {"x.bin": 5}
    with store.open_reader("a/x.bin") as file:
        file.seek(2)
        assert file.read(2) == b"34"
    assert store.list_files("a") == ["x.bin"]
    store.delete("a/x.bin")
    store.delete("a/x.bin")
    assert not store.exists("a/x.bin")


def test_a_folder_is_deleted_whole_and_an_absent_one_is_no_error(s3):
    store = Store(f"{s3}/folders")
    store.write_bytes("a/x.bin", b"1")
    store.write_bytes("b/y.bin", b"2")
    store.delete_folder("a")
    store.delete_folder("a")
    assert store.list_files("a") == []
    assert store.list_files("b") == ["y.bin"]


def test_of_many_writers_exactly_one_creates(s3):
    made = []

    def create(i: int) -> None:
        made.append(Store(f"{s3}/race").create_exclusive("0.json", str(i).encode()))

    threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(made) == [False] * 7 + [True]


def test_an_absent_object_is_an_input_error(s3):
    with pytest.raises(InputError, match="does not exist"):
        Store(f"{s3}/absent").read_bytes("x")
    with pytest.raises(InputError, match="does not exist"), Store(f"{s3}/absent").open_reader("x"):
        pass


def test_an_absent_bucket_is_named(s3):
    with pytest.raises(StorageError, match="bucket does not exist"):
        Store("s3://no-such-bucket/run").write_bytes("x", b"1")


def test_a_closed_endpoint_is_one_error_that_shows_no_secret(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError) as caught:
        Store("s3://bucket/closed").write_bytes("x", b"1")
    assert "refused" in str(caught.value)
    assert "never-shown" not in str(caught.value)


def test_an_artefact_with_its_manifest_round_trips(s3):
    store = Store(f"{s3}/artefact")
    entry = write_file(store, "parts/0.bin", b"data", rows=4)
    manifest = Manifest(stage="ingest", privacy_class="public", spec={"a": 1}, inputs={}, files=[entry])
    write_manifest(store, manifest)
    opened = open_artifact(store, stage="ingest", privacy_classes=("public",))
    assert opened.digest == manifest.digest
    assert read_file(store, opened.files[0]) == b"data"
    assert b"never-shown" not in store.read_bytes("manifest.json")


def test_the_ledger_counts_every_attempt_on_s3(s3):
    store = Store(f"{s3}/ledger")
    charge = Charge(
        mechanism="poisson_gaussian", noise_multiplier=2.0, sample_rate=0.1, num_steps=10, purpose="training"
    )
    first = open_ledger(store, target_epsilon=10.0, target_delta=1e-5)
    first.charge(charge, attempt=first.begin_attempt({}), first_step=0)
    again = open_ledger(store, target_epsilon=10.0, target_delta=1e-5)
    again.charge(charge, attempt=again.begin_attempt({}), first_step=0)
    assert len(read_ledger(store).attempts) == 2
    assert read_ledger(store).spent_epsilon() > epsilon_pld((charge,), 1e-5)


def test_chunks_become_one_object_of_several_parts_or_none(s3, monkeypatch):
    monkeypatch.setattr("rapid_dist.storage.s3.PART_BYTES", 5 * 2**20)
    store, chunk = Store(f"{s3}/chunks"), bytes(range(256)) * 4 * 2**10

    def chunks(*, ends_well):
        yield from [chunk] * 11
        if not ends_well:
            raise KeyError("in the middle")

    with pytest.raises(KeyError):
        store.write_chunks("a/x", chunks(ends_well=False))
    assert store.list_files("a") == []
    store.write_chunks("a/x", chunks(ends_well=True))
    assert store.read_bytes("a/x") == chunk * 11
    with pytest.raises(StorageError, match="bucket does not exist"):
        Store("s3://nowhere/a").write_chunks("x", [b"1"])


def test_what_people_are_shown_of_a_file_is_what_commands_take(s3, tmp_path):
    assert Store(f"{s3}/run").uri_of("evaluation/report.html") == "s3://bucket/run/evaluation/report.html"
    assert Store(tmp_path).uri_of("report.html") == f"{tmp_path}/report.html"
    with pytest.raises(InputError, match="leaves"):
        Store(f"{s3}/run").uri_of("../other")
