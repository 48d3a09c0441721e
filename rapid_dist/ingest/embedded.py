"""The demo's data as ordinary files, so that a demo enters by the same road as anybody's data.

recipes/glyphs.npz holds 600 glyphs of each digit, drawn once from the text fonts inside matplotlib 3.11.2 by
rapid_dist/ingest/glyphs.py of commit 6a1cb0e with seed 0: random fonts, slants, widths, strokes and distortions, whose
ranges are common sense about handwriting and fitted to no private image. Keep it so: ranges tuned on private images
would make these images private.
"""

from __future__ import annotations

import dataclasses
import io
import os
from importlib.resources import files

import numpy as np

from rapid_dist.storage.store import Store

NUM_TEST = 500
_SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddedSources:
    """URIs of three .npz files with `images` (N, 8, 8) uint8 and `labels` (N,) int32 in 0..9.

    private: 1,297 of the handwritten digits that ship with scikit-learn. test: the other 500.
    public: 6,000 rendered glyphs of the same ten characters.
    """

    private: str
    public: str
    test: str


def write_embedded_sources(folder: str | os.PathLike[str]) -> EmbeddedSources:
    """Writes the three files that are absent, each whole or not at all; same call, same bytes."""
    store = Store(folder)
    if not (store.exists("private.npz") and store.exists("test.npz")):
        private, test = _split_digits()
        store.create_exclusive("private.npz", _npz_bytes(*private))
        store.create_exclusive("test.npz", _npz_bytes(*test))
    if not store.exists("public.npz"):
        store.create_exclusive("public.npz", files("rapid_dist.recipes").joinpath("glyphs.npz").read_bytes())
    return EmbeddedSources(
        private=f"{store.uri}/private.npz", public=f"{store.uri}/public.npz", test=f"{store.uri}/test.npz"
    )


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
