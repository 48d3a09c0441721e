"""The demo's data as ordinary files, so that a demo enters by the same road as anybody's data."""

from __future__ import annotations

import dataclasses
import io
import os

import numpy as np

from rapid_dist.artifacts.storage import Store
from rapid_dist.errors import InputError
from rapid_dist.ingest.glyphs import render_glyphs
from rapid_dist.ingest.sources import discover

CLASS_NAMES = tuple("0123456789")
NUM_TEST = 500
_SPLIT_SEED = 0
_GLYPH_SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddedSources:
    """URIs of three .npz files with `images` (N, 8, 8) uint8 and `labels` (N,) int32 in 0..9.

    private: 1,297 of the handwritten digits that ship with scikit-learn. test: the other 500.
    public: rendered glyphs of the same ten characters.
    """

    private: str
    public: str
    test: str


def write_embedded_sources(folder: str | os.PathLike[str], *, num_glyphs_per_class: int = 600) -> EmbeddedSources:
    """Writes the three files that are absent, each whole or not at all; same call, same bytes.

    Raises InputError when public.npz is there with another number of glyphs.
    """
    store = Store(folder)
    if not (store.exists("private.npz") and store.exists("test.npz")):
        private, test = _split_digits()
        store.create_exclusive("private.npz", _npz_bytes(*private))
        store.create_exclusive("test.npz", _npz_bytes(*test))
    if not store.exists("public.npz"):
        images, labels = render_glyphs(
            "".join(CLASS_NAMES), num_per_class=num_glyphs_per_class, image_size=8, seed=_GLYPH_SEED
        )
        store.create_exclusive("public.npz", _npz_bytes(images[:, 0], labels))
    sources = EmbeddedSources(
        private=f"{store.uri}/private.npz", public=f"{store.uri}/public.npz", test=f"{store.uri}/test.npz"
    )
    num_glyphs, expected = discover(sources.public).num_examples, num_glyphs_per_class * len(CLASS_NAMES)
    if num_glyphs != expected:
        raise InputError(f"{sources.public} has {num_glyphs} glyphs; expected {expected}; use another folder")
    return sources


def _split_digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A fixed stratified split of scikit-learn's digits into (images, labels) to train on and to test on.

    Their grey levels 0..16 become 0..255.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int32)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=NUM_TEST, stratify=labels, random_state=_SPLIT_SEED
    )
    train, test = np.sort(train), np.sort(test)
    return (images[train], labels[train]), (images[test], labels[test])


def _npz_bytes(images: np.ndarray, labels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images, labels=labels)
    return buffer.getvalue()
