"""The data card and the Croissant description of an export: what it is, what was promised, what it is good for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from rapid_dist.export.names import folder_name, inline
from rapid_dist.sampling.dataset import SampleDataset
from rapid_dist.storage.manifest import FileEntry

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_DATA = {
    "folder": "train/**/*.png",
    "parquet": "data/train-*.parquet",
    "hf": "data/train-*.parquet",
    "webdataset": "data/train-*.tar",
}
_MEDIA = {".parquet": "application/vnd.apache.parquet", ".tar": "application/x-tar", ".csv": "text/csv"}
METHOD = (
    "rapid_dist: the models of images come from public images; class statistics, or the late steps of a diffusion "
    "model (RAPID, retrieval augmented private diffusion), were learnt from private images with noise"
)
USES = "Training and testing programs where the real images may not go; teaching; a first look before real access."
LIMITS = (
    "No image shows a real case, so nothing may be concluded from one image.",
    "Rare kinds of images may be missing or wrong, and a model trained on these does worse than on the real ones.",
    "The promise is about one unit as stated; a person who contributed several units is protected less.",
    "The public images that the model learnt from are not protected.",
)


def data_card(samples: SampleDataset, *, title: str, form: str, files: Sequence[FileEntry]) -> str:
    """Returns README.md of an export: the YAML header of Hugging Face, then the card in words.

    Args:
        samples: What is exported, with its statement.
        title: What the run is called.
        form: The format, a key of FORMATS.
        files: The data files.

    Returns:
        Markdown; every name that a person chose is escaped.
    """
    names, counts, total = samples.class_names, samples.counts(), len(samples)
    header: dict[str, Any] = {
        "pretty_name": title,
        "license": "unknown",
        "annotations_creators": ["machine-generated"],
        "tags": ["image", "synthetic", "differential-privacy"],
        "size_categories": [next((name for bound, name in _SIZES if total < bound), "n>1M")],
    }
    if names:
        header["task_categories"] = ["image-classification"]
    if form in _DATA:
        data_files = "train/**" if form == "folder" else _DATA[form]
        header["configs"] = [{"config_name": "default", "data_files": [{"split": "train", "path": data_files}]}]
    if form in ("parquet", "hf"):
        label: Any = {"class_label": {"names": {str(i): name for i, name in enumerate(names)}}} if names else "int64"
        features = [{"name": "image", "dtype": "image"}, {"name": "label", "dtype": label}]
        split = {"name": "train", "num_examples": total, "num_bytes": sum(f.bytes for f in files)}
        header["dataset_info"] = {"features": features, "splits": [split]}
    said = samples.statement
    rows = [f"| {i} | {inline(name)} | `{folder_name(i, name)}` | {counts[name]} |" for i, name in enumerate(names)]
    table = (
        ["| label | class | folder name | images |", "|---|---|---|---|", *rows] if rows else ["There are no classes."]
    )
    lines = [
        "---",
        yaml.safe_dump(header, sort_keys=False).rstrip(),
        "---",
        "",
        f"# {inline(title)}",
        "",
        f"{total} synthetic images, drawn from a generative model. No image is a photograph or scan of anybody.",
        "",
        "## Personal and sensitive information",
        "",
        inline(said["words"]),
        "",
        "| | |",
        "|---|---|",
        f"| epsilon | {said['epsilon']:.6g} |",
        f"| delta | {said['delta']:g} |",
        f"| neighbouring relation | `{said['neighboring_relation']}` |",
        f"| unit of protection | {inline(said['unit'])} |",
        f"| counted by | {inline(said['sampler'])} sampling, PLD accountant |",
        f"| method | {inline(METHOD)} |",
        "",
        "Drawing more images from the same model costs no further privacy. What is assumed:",
        "",
        *[f"* {inline(line)}" for line in said["assumptions"]],
        "",
        "## Images per class",
        "",
        "These are counts of the synthetic images, chosen when they were drawn; they say nothing of the private ones.",
        "",
        *table,
        "",
        "## Uses and limits",
        "",
        USES,
        "",
        *[f"* {line}" for line in LIMITS],
        "",
        "## Files",
        "",
        "`SHA256SUMS` is checked with `sha256sum -c SHA256SUMS`; `croissant.json` describes the files to machines.",
        "The owner has to add a license and a contact before publication: the license above says unknown.",
        "",
    ]
    return "\n".join(lines)


def croissant(samples: SampleDataset, *, title: str, form: str, files: Sequence[FileEntry]) -> bytes:
    """Returns croissant.json (MLCommons Croissant 1.0), as far as it is known before publication.

    Args:
        samples: What is exported.
        title: What the run is called.
        form: The format, a key of FORMATS.
        files: The data files; single images are named by their pattern alone.

    Returns:
        JSON-LD bytes. Where it lies, its license, creator and date are for the owner to add.
    """
    said: Mapping[str, Any] = samples.statement
    distribution: list[dict[str, Any]] = [
        {
            "@type": "cr:FileObject",
            "@id": f.path,
            "name": f.path,
            "contentUrl": f.path,
            "contentSize": f"{f.bytes} B",
            "encodingFormat": _MEDIA.get(f.path[f.path.rfind(".") :], "application/octet-stream"),
            "sha256": f.sha256,
        }
        for f in files
        if not f.path.endswith(".png")
    ]
    if form in _DATA:
        kind = {"folder": "image/png", "webdataset": _MEDIA[".tar"]}.get(form, _MEDIA[".parquet"])
        pattern = {"@type": "cr:FileSet", "@id": "data", "name": "data", "includes": _DATA[form]}
        distribution.append({**pattern, "encodingFormat": kind})
    source = {"fileSet": {"@id": "data"}}
    fields: list[dict[str, Any]] = []
    if form == "folder":
        picked = {"image": {**source, "extract": {"fileProperty": "content"}}}
        fields = [_field("image", "sc:ImageObject", picked["image"])]
        for name, kind in (("file_name", "sc:Text"), ("label", "sc:Integer"), ("class_name", "sc:Text")):
            fields.append(
                _field(name, kind, {"fileObject": {"@id": "train/metadata.csv"}, "extract": {"column": name}})
            )
    elif form in ("parquet", "hf"):
        fields = [
            _field(name, kind, {**source, "extract": {"column": name}})
            for name, kind in (("image", "sc:ImageObject"), ("label", "sc:Integer"))
        ]
    plain = {
        "@context": {
            "@language": "en",
            "@vocab": "https://schema.org/",
            "sc": "https://schema.org/",
            "cr": "http://mlcommons.org/croissant/",
            "rai": "http://mlcommons.org/croissant/RAI/",
            "dct": "http://purl.org/dc/terms/",
            "conformsTo": "dct:conformsTo",
            **{name: f"cr:{name}" for name in ("recordSet", "field", "source", "extract", "column", "fileProperty")},
            **{name: f"cr:{name}" for name in ("fileObject", "fileSet", "includes")},
            "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        },
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": title,
        "description": f"{len(samples)} synthetic images. {said['words']}",
        "keywords": ["synthetic", "differential-privacy", "image"],
        "version": "1.0.0",
        "rai:personalSensitiveInformation": f"{said['words']} Unit of protection: {said['unit']}.",
        "rai:dataUseCases": USES,
        "rai:dataLimitations": " ".join(LIMITS),
        "rai:dataCollection": METHOD,
        "distribution": distribution,
    }
    if fields:
        plain["recordSet"] = [{"@type": "cr:RecordSet", "@id": "samples", "name": "samples", "field": fields}]
    return json.dumps(plain, indent=1).encode()


def _field(name: str, kind: str, source: Mapping[str, Any]) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": f"samples/{name}", "name": name, "dataType": kind, "source": dict(source)}
