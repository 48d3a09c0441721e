import json
from dataclasses import replace

import pytest

from rapid_dist.errors import ArtifactError, PrivacyError
from rapid_dist.storage.manifest import (
    MANIFEST,
    PRIVACY_CLASSES,
    FileEntry,
    Manifest,
    copy_file,
    file_entry,
    open_artifact,
    read_file,
    read_manifest,
    write_file,
    write_manifest,
)
from rapid_dist.storage.store import Store
from tests.wall_times import keys_of_times


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "artifact")


def make_manifest(**changes) -> Manifest:
    values = {
        "stage": "ingest",
        "privacy_class": "public",
        "spec": {"data": {"size": 8, "names": ["a", "b"]}},
        "inputs": {"source": "abc"},
        "files": [file_entry("parts/a", b"data", rows=3)],
        "facts": {"image_shape": [1, 8, 8], "ratio": 0.1},
        "not_private_reasons": ("a reason",),
        "seconds": 1.5,
    }
    return Manifest(**{**values, **changes})


def test_a_manifest_reads_back_with_the_same_digest(store):
    written = write_manifest(store, make_manifest())
    read = read_manifest(store)
    assert read.digest == written.digest
    assert read.files == [FileEntry(path="parts/a", rows=3, bytes=4, sha256=written.files[0].sha256)]
    assert (read.stage, read.facts, read.spec, read.seconds) == ("ingest", written.facts, written.spec, 1.5)


def test_there_is_no_manifest_before_one_is_written(store):
    assert read_manifest(store) is None


def test_a_spec_with_whole_numbers_as_keys_reads_back(store):
    """JSON keys are text, and 10 sorts before 2 as text: the digest must not depend on which it is."""
    written = write_manifest(store, make_manifest(spec={"label_map": {2: 0, 10: 1}}))
    assert read_manifest(store).digest == written.digest


def test_the_time_a_stage_took_is_not_in_its_digest():
    assert make_manifest(seconds=9.0).digest == make_manifest().digest


@pytest.mark.parametrize("stage", ["train", "sample"])
def test_a_manifest_of_class_dp_holds_no_seconds_however_it_is_made(store, stage):
    """Training reads private records, and one more large one moved what was written here by a millisecond."""
    made = make_manifest(stage=stage, privacy_class="dp")
    copied = replace(make_manifest(stage=stage, seconds=9.25), privacy_class="dp")
    for manifest in (made, copied, write_manifest(store, made), read_manifest(store)):
        assert manifest.seconds is None
        assert keys_of_times(json.loads(manifest.to_bytes())) == []


def test_a_manifest_of_class_dp_from_before_loses_its_seconds_when_it_is_read_or_copied(store):
    plain = json.loads(make_manifest(privacy_class="dp").to_bytes())
    store.write_bytes(MANIFEST, json.dumps({**plain, "seconds": 1234.5}).encode())
    read = read_manifest(store)
    assert read.seconds is None
    assert b"1234.5" not in write_manifest(store, read).to_bytes()


@pytest.mark.parametrize("privacy_class", ["public", "private"])
def test_other_manifests_keep_their_seconds(store, privacy_class):
    write_manifest(store, make_manifest(privacy_class=privacy_class, seconds=9.25))
    assert read_manifest(store).seconds == 9.25


@pytest.mark.parametrize(
    "changes",
    [
        {"stage": "other"},
        {"privacy_class": "private"},
        {"spec": {"data": {"size": 9, "names": ["a", "b"]}}},
        {"inputs": {"source": "abd"}},
        {"files": []},
        {"files": [file_entry("parts/a", b"datA", rows=3)]},
        {"files": [file_entry("parts/a", b"data", rows=4)]},
        {"facts": {"image_shape": [1, 8, 8], "ratio": 0.2}},
        {"not_private_reasons": ()},
    ],
)
def test_everything_else_is_in_its_digest(changes):
    assert make_manifest(**changes).digest != make_manifest().digest


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("privacy_class", "dp"),
        ("stage", "train"),
        ("inputs", {"source": "other"}),
        ("facts", {}),
        ("not_private_reasons", []),
        ("files", []),
    ],
)
def test_an_edited_manifest_is_refused(store, key, value):
    write_manifest(store, make_manifest())
    plain = json.loads(store.read_bytes(MANIFEST))
    plain[key] = value
    store.write_bytes(MANIFEST, json.dumps(plain).encode())
    with pytest.raises(ArtifactError, match="altered"):
        read_manifest(store)


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff", b'{"schema_version": 1, "digest": "x"}'])
def test_bytes_that_are_no_manifest_are_refused(store, data):
    store.write_bytes(MANIFEST, data)
    with pytest.raises(ArtifactError, match="not a manifest"):
        read_manifest(store)


def test_another_schema_version_is_refused_by_number(store):
    store.write_bytes(MANIFEST, make_manifest(schema_version=99).to_bytes())
    with pytest.raises(ArtifactError, match="schema version 99"):
        read_manifest(store)


def test_an_unknown_privacy_class_is_refused():
    with pytest.raises(PrivacyError, match="'secret'"):
        make_manifest(privacy_class="secret")


def test_a_file_is_read_when_it_matches_its_entry(store):
    entry = write_file(store, "parts/a", b"data", rows=3)
    assert (entry.rows, entry.bytes) == (3, 4)
    assert read_file(store, entry) == b"data"


@pytest.mark.parametrize("data", [b"datA", b"dat", b"data+", b""])
def test_an_altered_file_is_named(store, data):
    entry = write_file(store, "parts/a", b"data")
    store.write_bytes("parts/a", data)
    with pytest.raises(ArtifactError, match="parts/a does not match its digest"):
        read_file(store, entry)


def test_a_missing_file_is_named(store):
    entry = write_file(store, "parts/a", b"data")
    store.delete("parts/a")
    with pytest.raises(ArtifactError, match="parts/a is missing"):
        read_file(store, entry)


def test_a_file_is_taken_over_whole_in_chunks_of_any_size(store, tmp_path, monkeypatch):
    monkeypatch.setattr("rapid_dist.storage.manifest.CHUNK_BYTES", 3)
    other = Store(tmp_path / "other")
    for data in (b"", b"abc", b"abcdefgh"):
        entry = write_file(store, "parts/a", data, rows=2)
        assert copy_file(store, entry, other, remedy="build again") == entry
        assert read_file(other, entry) == data


@pytest.mark.parametrize("data", [b"datA", b"dat", b"data+", b"", None])
def test_an_altered_or_missing_file_is_not_taken_over(store, tmp_path, data):
    entry, other = write_file(store, "parts/a", b"data"), Store(tmp_path / "other")
    store.delete("parts/a")
    if data is not None:
        store.write_bytes("parts/a", data)
    with pytest.raises(ArtifactError, match=r"parts/a .*; build again"):
        copy_file(store, entry, other, remedy="build again")
    assert other.list_files("parts") == []


def test_an_input_that_was_never_made_names_the_stage_to_run(store):
    with pytest.raises(ArtifactError, match="run the stage 'ingest' first"):
        open_artifact(store, stage="ingest")


def test_an_input_of_another_stage_is_refused(store):
    write_manifest(store, make_manifest(stage="train"))
    with pytest.raises(ArtifactError, match="made by stage 'train'; expected 'ingest'"):
        open_artifact(store, stage="ingest")


@pytest.mark.parametrize("privacy_class", PRIVACY_CLASSES)
@pytest.mark.parametrize("allowed", [("public",), ("private",), ("dp",), ("public", "dp")])
def test_an_input_opens_only_when_its_class_is_allowed(store, privacy_class, allowed):
    written = write_manifest(store, make_manifest(privacy_class=privacy_class))
    if privacy_class in allowed:
        assert open_artifact(store, stage="ingest", privacy_classes=allowed).digest == written.digest
    else:
        with pytest.raises(PrivacyError, match=f"is {privacy_class}; expected"):
            open_artifact(store, stage="ingest", privacy_classes=allowed)
