"""Exports of made-up samples: other libraries read them as images, hostile names harm nothing, sums match."""

from __future__ import annotations

import csv
import gc
import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from rapid_dist.errors import InputError, PrivacyError
from rapid_dist.export.formats import FORMATS
from rapid_dist.export.names import folder_name, inline
from rapid_dist.export.write import BEGUN, SUMS, export_samples, open_drawn
from rapid_dist.sampling.dataset import open_samples
from rapid_dist.storage.manifest import Manifest, write_manifest
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import ImageTable, write_images

HOSTILE = ("<script>alert(1)</script>", "../../etc/passwd", "a\nb: [x", "test", "long" * 200, "=cmd|' /C calc'!A0")
STATEMENT = {
    "words": "The synthetic images are (2.5, 1e-05)-differentially private.",
    "epsilon": 2.5,
    "delta": 1e-5,
    "neighboring_relation": "add_or_remove_one",
    "unit": "one <b>patient</b>",
    "sampler": "Poisson, keyed by record",
    "assumptions": ["steps were fixed beforehand"],
    "not_private_reasons": [],
}
SECRET = "/clinic/mueller-anna.png"


@pytest.fixture(params=[1, 3], ids=["grey", "rgb"])
def channels(request):
    return request.param


@pytest.fixture
def samples(tmp_path, channels):
    return make_samples(tmp_path / "samples", channels)


def make_samples(folder: Path, channels=1, names=HOSTILE, reasons=()):
    store, rng = Store(folder), np.random.default_rng(0)
    files = []
    for part in range(2):
        index = np.arange(part * 9, part * 9 + 9)
        image = rng.integers(0, 256, (9, channels, 8, 8)).astype(np.uint8)
        table = ImageTable(example_id=index, image=image, label=(index % len(names)).astype(np.int32))
        said = {"stage": "sample", "privacy_class": "dp"}
        files.append(write_images(store, f"parts/part-{part:05d}.parquet", table, **said))
    facts = {"statement": STATEMENT, "run": SECRET.split("/")[1], "num_classes": len(names), "class_names": list(names)}
    manifest = Manifest(
        stage="sample",
        privacy_class="dp",
        spec={"private": SECRET},
        inputs={},
        files=files,
        facts=facts,
        not_private_reasons=reasons,
    )
    write_manifest(store, manifest)
    return open_samples(store, stage="sample", num_classes=len(names), class_names=names)


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def exported(samples, tmp_path):
    def export(form):
        export_samples(samples, Store(tmp_path / form), form=form, title="scans <i>")
        return tmp_path / form

    return export


def shown(image: np.ndarray) -> np.ndarray:
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0)


@pytest.mark.parametrize("form", FORMATS)
def test_every_export_has_card_croissant_and_sums_and_tells_nothing_private(exported, samples, form):
    files = all_bytes(exported(form))
    sums = dict(line.split("  ")[::-1] for line in files.pop(SUMS).decode().splitlines())
    assert sums == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert not any(SECRET.encode() in data or str(samples.store.uri).encode() in data for data in files.values())
    assert all(".." not in name and "<" not in name and len(name) < 100 for name in files)

    card = files["README.md"].decode()
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header)["pretty_name"] == "scans <i>"
    for text in ("epsilon | 2.5", "delta | 1e-05", "add_or_remove_one", "one &lt;b&gt;patient", "unknown"):
        assert text in body
    assert "<script" not in body
    assert "<b>" not in body
    assert body.count("| 3 |\n") == len(HOSTILE)  # images of each class
    croissant = json.loads(files["croissant.json"])
    assert {d["contentUrl"]: d["sha256"] for d in croissant["distribution"] if "sha256" in d}.items() <= sums.items()


def test_a_folder_has_png_files_by_class_and_their_names(exported, samples):
    root = exported("folder") / "train"
    rows = list(csv.DictReader(io.StringIO((root / "metadata.csv").read_text(), newline="")))
    assert len(rows) == len(samples) == len(list(root.glob("class_*/*.png")))
    for row, (image, label) in zip(rows, samples, strict=True):
        assert (row["class_name"], int(row["label"])) == (HOSTILE[label], label)
        assert (np.asarray(Image.open(root / row["file_name"])) == shown(image.numpy())).all()


def test_tar_shards_keep_a_sample_together(exported, samples):
    (shard,) = (exported("webdataset") / "data").glob("*.tar")
    with tarfile.open(shard) as tar:
        names = tar.getnames()
        assert [name.split(".")[1] for name in names] == ["png", "cls", "json"] * len(samples)
        assert json.load(tar.extractfile(names[2])) == {"label": 0, "class_name": HOSTILE[0]}
        assert (np.asarray(Image.open(tar.extractfile(names[3]))) == shown(samples[1][0].numpy())).all()


def test_arrays_are_read_without_pickle(exported, samples):
    read = np.load(exported("npz") / "samples.npz", allow_pickle=False)
    assert (read["images"][4] == shown(samples[4][0].numpy())).all()
    assert read["labels"].tolist() == samples.labels.tolist()
    assert tuple(read["class_names"]) == HOSTILE


def test_pandas_reads_png_bytes(exported, samples):
    pandas = pytest.importorskip("pandas")
    (path,) = (exported("parquet") / "data").glob("*.parquet")
    frame = pandas.read_parquet(path)
    assert frame["label"].tolist() == samples.labels.tolist()
    image = Image.open(io.BytesIO(frame["image"][5]["bytes"]))
    assert (np.asarray(image) == shown(samples[5][0].numpy())).all()


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # datasets leaves metadata.csv open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("form", ["parquet", "hf", "folder"])
def test_datasets_reads_images_and_classes(exported, samples, form, tmp_path):
    datasets = pytest.importorskip("datasets")
    read = datasets.load_dataset(str(exported(form)), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(read) == len(samples)
    assert isinstance(read.features["image"], datasets.Image)
    if form != "folder":
        assert read.features["label"].names == list(HOSTILE)
    found = {(np.asarray(row["image"]).tobytes(), row["label"]) for row in read}
    assert found == {(shown(image.numpy()).tobytes(), label) for image, label in samples}
    del read
    gc.collect()  # so that the file is closed within this test, and no other hears of it


def test_the_schema_says_image_and_classes(exported):
    parquet = pytest.importorskip("pyarrow.parquet")
    (path,) = (exported("parquet") / "data").glob("*.parquet")
    said = json.loads(parquet.read_schema(path).metadata[b"huggingface"])["info"]["features"]
    assert said["image"] == {"_type": "Image"}
    assert said["label"] == {"_type": "ClassLabel", "names": list(HOSTILE)}


def test_a_taken_folder_is_refused_and_a_begun_one_is_finished(samples, exported, tmp_path):
    with pytest.raises(InputError, match="finished export"):
        export_samples(samples, Store(exported("npz")), form="npz", title="scans <i>")
    taken = tmp_path / "taken"
    (taken / "scans").mkdir(parents=True)
    with pytest.raises(InputError, match="not empty"):
        export_samples(samples, Store(taken), form="npz", title="x")
    whole = all_bytes(tmp_path / "npz")
    for name in (SUMS, "README.md"):
        (tmp_path / "npz" / name).unlink()
    request = {"samples": samples.manifest.digest, "form": "npz", "title": "scans <i>"}
    (tmp_path / "npz" / BEGUN).write_text(json.dumps(request))
    with pytest.raises(InputError, match="not empty"):
        export_samples(samples, Store(tmp_path / "npz"), form="npz", title="another")
    export_samples(samples, Store(tmp_path / "npz"), form="npz", title="scans <i>")
    assert all_bytes(tmp_path / "npz").keys() == whole.keys()


def test_what_is_not_private_is_not_exported(tmp_path):
    samples = make_samples(tmp_path / "s", reasons=("a debugging key",))
    with pytest.raises(PrivacyError, match="NOT PRIVATE"):
        export_samples(samples, Store(tmp_path / "out"), form="npz", title="x")
    assert not (tmp_path / "out").exists()


def test_a_later_draw_says_its_own_names(samples):
    again, title = open_drawn(samples.store)
    assert (again.class_names, title) == (HOSTILE, "clinic")


def test_folder_names_are_plain_and_no_split():
    assert [folder_name(i, name) for i, name in enumerate(HOSTILE[:4])] == [
        "class_0_script-alert-1-script",
        "class_1_etc-passwd",
        "class_2_a-b-x",
        "class_3",
    ]
    assert len(folder_name(4, HOSTILE[4])) < 60
    assert folder_name(5, "Test2 lung") == "class_5_lung"
    assert folder_name(6, "日本") == "class_6"


def test_text_on_the_card_is_one_escaped_line():
    assert inline("a|b\n<x>`[y](http://z)") == "a&#124;b &lt;x&gt;&#96;&#91;y&#93;(http&#58;//z)"
