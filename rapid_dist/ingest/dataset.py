"""From a source to a dataset: units decoded one by one into image parts, under a manifest with a stated class.

Nothing about a private record depends on the other records or on the listing: its pixels and label come from itself and
from what was stated, its shape is stated or that of a public dataset, and it alone decides whether it is left out.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rapid_dist.errors import InputError, PrivacyError, RapidDistError, SpecError
from rapid_dist.ingest.decode import DecodedUnit, decode_unit, mixed_shapes_error, shape_of_first
from rapid_dist.ingest.provenance import refuse_source_inside
from rapid_dist.ingest.sources import Source, SourceUnit, discover
from rapid_dist.seeding import content_digests
from rapid_dist.specs.parsing import to_plain
from rapid_dist.specs.reading import ReadingSpec
from rapid_dist.storage.manifest import FileEntry, Manifest, open_artifact
from rapid_dist.storage.stage import FinishedParts, StageFolder
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import INGEST, ImageTable, iterate_images, write_images
from rapid_dist.telemetry import headed, say


def pixel_digests(image: np.ndarray) -> np.ndarray:
    """128-bit BLAKE2b of each image's shape and pixels (RFC 7693).

    image: (N, C, H, W) uint8. Returns (N, 2) uint64.
    """
    if image.dtype != np.uint8 or image.ndim != 4:
        raise TypeError(f"got {image.dtype} of shape {image.shape}; expected (N, C, H, W) uint8")
    return content_digests(image)


def sorted_digests(digests: np.ndarray) -> np.ndarray:
    """The distinct digests in the order that drop_equal searches; sort once, then use for every unit.

    digests: (M, 2) uint64. Returns (K, 2) uint64, K <= M.
    """
    return np.unique(_as_keys(digests)).view(np.uint64).reshape(-1, 2)


def drop_equal(decoded: DecodedUnit, public_digests: np.ndarray) -> tuple[DecodedUnit, int]:
    """The unit without the records whose pixels equal a public image, and how many those were.

    public_digests: (M, 2) uint64 from pixel_digests over the public images, decoded with the same settings;
    already in the order of sorted_digests it is not sorted again.

    Guarantee: only private records are dropped, and whether a record is depends on that record and on
    public data alone. Adding or removing one private record so changes the result by that record at most,
    and neighbouring data sets stay neighbours. The count is private: it must not be logged or published.
    """
    public = _as_keys(public_digests)
    if not np.all(public[:-1] <= public[1:]):
        public = np.sort(public)
    private = _as_keys(pixel_digests(decoded.image))
    place = np.searchsorted(public, private)
    is_public = np.zeros(len(private), bool)
    is_inside = place < len(public)
    is_public[is_inside] = public[place[is_inside]] == private[is_inside]
    kept = dataclasses.replace(
        decoded,
        example_id=decoded.example_id[~is_public],
        image=decoded.image[~is_public],
        label=decoded.label[~is_public],
    )
    return kept, int(is_public.sum())


def _as_keys(digests: np.ndarray) -> np.ndarray:
    """(M, 2) uint64 as (M,) 16-byte strings, which numpy orders and searches whole."""
    return np.ascontiguousarray(digests).view("S16").reshape(-1)


Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class IngestSettings:
    """What is read, as what, and how.

    privacy_class: public or private, never guessed. image_size, num_channels: None keeps what an image is; the shape of
    a private dataset is then that of `like`. num_classes > 0 asks for a label below it on every record.
    like: an ingested public dataset whose image shape private records must have. drop_equal_to: an ingested public
    dataset; private records whose pixels equal one of its are left out, and it stands in for `like`.
    reading: how the files are read where they do not tell.
    """

    source: str
    privacy_class: str
    image_size: int | None = None
    num_channels: int | None = None
    class_names: tuple[str, ...] | None = None
    num_classes: int = 0
    skip_corrupt: bool = False
    like: Store | None = None
    drop_equal_to: Store | None = None
    reading: ReadingSpec = dataclasses.field(default_factory=ReadingSpec)

    def __post_init__(self) -> None:
        if self.privacy_class not in ("public", "private"):
            raise PrivacyError(f"privacy class is {self.privacy_class!r}; give --privacy-class public or private")
        if self.drop_equal_to is not None and not self.is_private:
            raise PrivacyError("only private records may be dropped for equality with public ones, never the other way")

    @property
    def is_private(self) -> bool:
        """Whether nothing about a record may depend on the others."""
        return self.privacy_class == "private"


MapFn = Callable[..., list[dict[str, Any]]]


def ingest_source(settings: IngestSettings, out: Store, map_fn: MapFn) -> Manifest:
    """Writes `parts/part-NNNNN.parquet` and a manifest; skips what is already there.

    map_fn: what calls the part function for every unit and keeps finished ones, such as parts.map_serially.

    Guarantee: a private record is read, labelled, shaped, kept or left out as a function of itself, of what the
    settings state and of public data; public records are never left out for a private one.
    Raises InputError for a source that cannot be read as stated, SpecError when the shape of private images is not
    stated, PrivacyError when a dataset of another class is given.
    """
    inputs, shape = {}, None
    refuse_source_inside(settings.source, out)
    source = discover(
        settings.source, class_names=settings.class_names, is_private=settings.is_private, reading=settings.reading
    )
    if settings.num_classes and not source.is_labelled:
        raise InputError(
            f"{settings.source} has no labels but classes are asked for; use class sub-folders, a label column, "
            "or set data.num_classes to 0" + "".join(f"; {notice}" for notice in source.notices)
        )
    if settings.drop_equal_to is not None:
        inputs["public"] = _open_public(settings.drop_equal_to).digest
    if settings.is_private:
        shape = _stated_shape(settings, source)
    # A source that was refused asks for other settings (skip_corrupt, image_size): they may use the same folder.
    folder = StageFolder(
        out,
        stage=INGEST,
        spec=_plain(settings, shape),
        inputs=inputs,
        disposable=("parts", f"progress-{INGEST}"),
    )
    if folder.finished is not None:
        return folder.finished
    for notice in source.notices:
        say(headed(INGEST, notice))
    results = map_fn(
        _make_unit_reader,
        (out, source.units, settings, shape),
        len(source.units),
        store=out,
        name=INGEST,
        # Only the digests of a public dataset are worth keeping between units.
        keeps_state=settings.drop_equal_to is not None,
    )
    facts = _facts(settings, results, source.class_names, shape)
    if settings.is_private:
        # Manifests of class dp name this one's digest; with a secret in it nobody can check a guess of the records.
        facts["salt"] = secrets.token_hex(16)
    files = [FileEntry(**r["file"]) for r in results if r["file"] is not None]
    manifest = folder.finish(privacy_class=settings.privacy_class, files=files, facts=facts)
    FinishedParts(out, INGEST).clear()
    if facts["num_corrupt"] and not settings.is_private:
        say(headed(INGEST, f"left out {facts['num_corrupt']} corrupt images of {settings.source}"))
    return manifest


def _plain(settings: IngestSettings, shape: Shape | None) -> dict[str, Any]:
    names = ("source", "privacy_class", "image_size", "num_channels", "num_classes", "skip_corrupt")
    plain = {name: getattr(settings, name) for name in names}
    plain["class_names"] = list(settings.class_names) if settings.class_names else None
    plain["reading"] = to_plain(settings.reading)
    return plain if shape is None else {**plain, "image_shape": list(shape)}


def _open_public(store: Store) -> Manifest:
    return open_artifact(store, stage=INGEST, privacy_classes=("public",))


def _stated_shape(settings: IngestSettings, source: Source) -> Shape:
    """The (C, H, W) every private record must have, from settings and public data. Raises SpecError when not known."""
    like = settings.like or settings.drop_equal_to
    public = None if like is None else _open_public(like).facts["image_shape"]
    size, channels = settings.image_size, settings.num_channels
    if public is not None:
        size, channels = size or public[1], channels or public[0]
    if size is None or channels is None:
        missing = [n for n, v in (("data.image_size", size), ("data.num_channels", channels)) if v is None]
        raise SpecError(
            f"{settings.source} is private and {' and '.join(missing)} not stated: a shape read off private images "
            f"would depend on which of them are there; add {_line_to_add(source)}, or --drop-equal-to a public dataset "
            "of that shape"
        )
    return channels, size, size


def _line_to_add(source: Source) -> str:
    """The settings that the first image of a source suggests to its owner; a function of the private data."""
    try:
        shape = shape_of_first(source.units[0], image_size=None, num_channels=None, skip_corrupt=True)
    except RapidDistError:
        shape = None
    if shape is None:
        return "data: {image_size: PIXELS, num_channels: 1 or 3} (--image-size, --num-channels)"
    channels, size, _ = shape
    return (
        f"data: {{image_size: {size}, num_channels: {channels}}} (--image-size {size} --num-channels {channels}), as "
        "of the first image"
    )


def _make_unit_reader(
    out: Store, units: tuple[SourceUnit, ...], settings: IngestSettings, shape: Shape | None
) -> Callable[[int], dict[str, Any]]:
    public = settings.drop_equal_to
    digests = None if public is None else sorted_digests(_public_digests(public))

    def read_unit(index: int) -> dict[str, Any]:
        unit = units[index]
        decoded = decode_unit(
            unit,
            image_size=settings.image_size,
            num_channels=settings.num_channels,
            skip_corrupt=settings.skip_corrupt,
            expected_shape=shape,
        )
        dropped = 0
        if digests is not None and len(decoded.example_id):
            decoded, dropped = drop_equal(decoded, digests)
        if settings.num_classes:
            check_labels(unit.uri, decoded.label, settings.num_classes)
        table = ImageTable(example_id=decoded.example_id, image=decoded.image, label=decoded.label)
        # A part without a single usable image is no file: without images there is no shape to write it with.
        path, privacy_class = f"parts/part-{index:05d}.parquet", settings.privacy_class
        entry = write_images(out, path, table, stage=INGEST, privacy_class=privacy_class) if len(table) else None
        return {
            "file": None if entry is None else asdict(entry),
            "shape": list(decoded.image.shape[1:]) if len(table) else None,
            "name": unit.uri if not unit.files else f"{unit.uri}/{unit.files[0]}",
            "num_corrupt": len(decoded.corrupt),
            "num_dropped": dropped,
            "max_label": int(decoded.label.max()) if len(table) else -1,
        }

    return read_unit


def _public_digests(store: Store) -> np.ndarray:
    return np.concatenate([pixel_digests(t.image) for t in iterate_images(store, _open_public(store).files)])


def check_labels(where: str, label: np.ndarray, num_classes: int) -> None:
    """Raises InputError unless every label is a class: from 0 to num_classes - 1."""
    if (label < 0).any():
        raise InputError(f"{where} has records without a label; every record needs one, or set data.num_classes to 0")
    if (label >= num_classes).any():
        raise InputError(
            f"{where} has labels of {num_classes} or more but data.num_classes is {num_classes}; "
            "labels are 0 to num_classes - 1"
        )


def _facts(
    settings: IngestSettings,
    results: list[dict[str, Any]],
    class_names: tuple[str, ...] | None,
    shape: Shape | None,
) -> dict[str, Any]:
    """What the manifest says of a dataset; of a private one all counts are private, as the manifest itself is."""
    filled = [r for r in results if r["shape"] is not None]
    if not filled:
        raise InputError(f"{settings.source} has no usable image left after corrupt and duplicate ones were taken out")
    first = filled[0]
    for other in filled[1:] if shape is None else ():
        if other["shape"] != first["shape"]:
            raise mixed_shapes_error(first["name"], tuple(first["shape"]), other["name"], tuple(other["shape"]))
    facts = {
        "image_shape": first["shape"] if shape is None else list(shape),
        "class_names": list(class_names) if class_names else None,
        "num_corrupt": sum(r["num_corrupt"] for r in results),
        "num_dropped": sum(r["num_dropped"] for r in results),
    }
    if not settings.is_private:  # the classes of private records are what the spec states, never what occurs
        facts["num_labels"] = max(r["max_label"] for r in filled) + 1
    return facts
