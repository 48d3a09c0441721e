import pytest

from rapid_dist.errors import ArtifactError
from rapid_dist.storage.manifest import MANIFEST, read_manifest, write_file
from rapid_dist.storage.stage import BEGUN, FinishedParts, StageFolder
from rapid_dist.storage.store import Store

SPEC = {"training": {"steps": 10, "rate": 0.1}, "shares": (0.5, 0.5)}
INPUTS = {"images": "d1", "weights": "d2"}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "stage")


def begin(store, *, stage="train", spec=SPEC, inputs=INPUTS) -> StageFolder:
    return StageFolder(store, stage=stage, spec=spec, inputs=inputs)


def test_a_new_folder_is_begun_and_not_finished(store):
    assert begin(store).finished is None
    assert store.list_files() == [BEGUN]


def test_finishing_writes_the_manifest_and_ends_the_beginning(store):
    folder = begin(store)
    entries = [write_file(store, name, name.encode(), rows=1) for name in ("b", "a")]
    manifest = folder.finish(privacy_class="dp", files=entries, facts={"n": 2}, not_private_reasons=["x"])
    assert store.list_files() == sorted(["a", "b", MANIFEST])
    assert [f.path for f in manifest.files] == ["a", "b"]
    assert read_manifest(store).digest == manifest.digest


def test_the_same_call_on_a_finished_folder_has_nothing_left_to_do(store):
    manifest = begin(store).finish(privacy_class="public", files=[])
    again = begin(store)
    assert again.finished.digest == manifest.digest
    assert store.list_files() == [MANIFEST]


def test_the_same_call_on_an_unfinished_folder_resumes_it(store):
    begin(store)
    store.write_bytes("half", b"1")
    assert begin(store).finished is None
    assert store.list_files() == [BEGUN, "half"]


@pytest.mark.parametrize("is_finished", [True, False])
def test_another_spec_is_refused_and_the_differing_setting_named(store, is_finished):
    folder = begin(store)
    if is_finished:
        folder.finish(privacy_class="public", files=[])
    before = {name: store.read_bytes(name) for name in store.list_files()}
    with pytest.raises(ArtifactError, match=r"training\.steps: 10 -> 11") as caught:
        begin(store, spec={**SPEC, "training": {"steps": 11, "rate": 0.1}})
    assert "rate" not in str(caught.value)
    assert {name: store.read_bytes(name) for name in store.list_files()} == before


@pytest.mark.parametrize("is_finished", [True, False])
def test_other_inputs_are_refused_and_only_the_changed_one_named(store, is_finished):
    folder = begin(store)
    if is_finished:
        folder.finish(privacy_class="public", files=[])
    with pytest.raises(ArtifactError, match=r"other inputs \(weights changed\)"):
        begin(store, inputs={**INPUTS, "weights": "d3"})
    with pytest.raises(ArtifactError, match=r"other inputs \(images, more changed\)"):
        begin(store, inputs={"weights": "d2", "more": "d4"})


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_folder_of_another_stage_is_refused(store, is_finished):
    folder = begin(store)
    if is_finished:
        folder.finish(privacy_class="public", files=[])
    with pytest.raises(ArtifactError, match="holds stage 'train', not 'sample'"):
        begin(store, stage="sample")


def test_finished_parts_outlive_the_process_that_made_them(store):
    FinishedParts(store, "ingest").add(12, {"rows": 3})
    FinishedParts(store, "ingest").add(0, {"rows": 1})
    FinishedParts(store, "other").add(5, {"rows": 9})
    assert FinishedParts(store, "ingest").load() == {0: {"rows": 1}, 12: {"rows": 3}}


def test_cleared_parts_are_gone_and_others_stay(store):
    parts, others = FinishedParts(store, "ingest"), FinishedParts(store, "other")
    parts.add(1, {})
    others.add(2, {"rows": 9})
    parts.clear()
    assert parts.load() == {}
    assert others.load() == {2: {"rows": 9}}


def test_a_part_marked_again_keeps_the_later_result(store):
    parts = FinishedParts(store, "ingest")
    parts.add(1, {"rows": 1})
    parts.add(1, {"rows": 2})
    assert parts.load() == {1: {"rows": 2}}


def test_a_half_written_mark_is_no_mark(store):
    store.write_bytes("progress-ingest/.tmp-abc", b"{")
    assert FinishedParts(store, "ingest").load() == {}
