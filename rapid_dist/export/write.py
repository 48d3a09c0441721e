"""One export: the samples in one format, with card, Croissant and checksums, into a folder of its own."""

from __future__ import annotations

import json

from rapid_dist.errors import ArtifactError, InputError, PrivacyError
from rapid_dist.export.card import croissant, data_card
from rapid_dist.export.formats import FORMATS, Writer
from rapid_dist.layout import SPEC
from rapid_dist.sampling.dataset import SampleDataset, open_samples
from rapid_dist.storage.manifest import open_artifact
from rapid_dist.storage.store import Store

SUMS = "SHA256SUMS"
BEGUN = ".begun-export.json"
_SAMPLE = "sample"  # the stage whose results are exported


def open_drawn(store: Store) -> tuple[SampleDataset, str]:
    """Opens a folder that more images were drawn into.

    Args:
        store: The folder, which says itself what its classes are called.

    Returns:
        The samples, and what their run is called.

    Raises:
        ArtifactError: The folder holds no such images.
    """
    manifest = open_artifact(store, stage=_SAMPLE, privacy_classes=("dp",))
    facts = manifest.facts
    if "run" not in facts:
        raise ArtifactError(f"{store.uri} are a run's own samples; give the folder of the run, which has a {SPEC}")
    names, num_classes = facts["class_names"], facts["num_classes"]
    return open_samples(store, stage=_SAMPLE, num_classes=num_classes, class_names=names), facts["run"]


def export_samples(samples: SampleDataset, out: Store, *, form: str, title: str) -> dict[str, int]:
    """Writes the samples in one format; SHA256SUMS comes last, so where it is, the export is whole.

    Args:
        samples: Released samples, of class dp.
        out: A folder that is empty, absent, or holds this very export begun.
        form: A key of FORMATS.
        title: What the data set is called.

    Returns:
        The number of files and of images.

    Raises:
        InputError: There is no such format, or out holds something else.
        PrivacyError: The samples are not covered by a promise.
        ArtifactError: A part of the samples does not match its digest.

    Guarantee: reads synthetic images, their statement and public settings alone, so nothing else can be in an export.
    """
    if form not in FORMATS:
        raise InputError(f"there is no format {form!r}; expected one of {', '.join(FORMATS)}")
    if samples.manifest.privacy_class != "dp" or samples.not_private_reasons:
        why = "; ".join(samples.not_private_reasons) or f"they are of class {samples.manifest.privacy_class}"
        raise PrivacyError(f"these samples are NOT PRIVATE ({why}), so they are not exported")
    request = json.dumps({"samples": samples.manifest.digest, "form": form, "title": title}).encode()
    held = _held(out)
    if SUMS in held:
        raise InputError(f"{out.uri} holds a finished export; give another --out folder")
    if held and (BEGUN not in held or out.read_bytes(BEGUN) != request):
        raise InputError(f"{out.uri} is not empty; give a new --out folder")
    out.write_bytes(BEGUN, request)
    put = Writer(out)
    FORMATS[form](samples, put)
    data = list(put.files)
    put("README.md", data_card(samples, title=title, form=form, files=data).encode())
    put("croissant.json", croissant(samples, title=title, form=form, files=data))
    out.delete(BEGUN)
    out.write_bytes(SUMS, put.sums())
    return {"files": len(put.files) + 1, "images": len(samples)}


def _held(out: Store) -> set[str]:
    """Names of the files and folders directly in a folder."""
    if not out.exists():
        return set()
    return {str(name).rstrip("/").rsplit("/", 1)[-1] for name in out.fs.ls(out.path(), detail=False)}
