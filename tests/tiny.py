"""The smallest run that still does everything: 8x8 images of four classes, a narrow network, tens of steps."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

CLASS_COUNTS = (61, 43, 29, 18)  # private records of each class; numbers that occur nowhere else in a run
NUM_PRIVATE = sum(CLASS_COUNTS)
NUM_DUPLICATES = 6  # further private records whose pixels equal a public image
NUM_PUBLIC = 160
NUM_TEST = 60

SETTINGS: dict[str, Any] = {
    "name": "tiny",
    "data": {"num_classes": 4},
    "denoiser": {"width": 32, "num_blocks": 1, "embedding_dim": 16},
    "schedule": {"num_train_timesteps": 100, "split_step": 70, "query_step": 80},
    "pretrain": {"steps": 30, "batch_size": 32},
    "extractor": {"width": 16, "feature_dim": 8, "steps": 10, "batch_size": 32},
    "knowledge_base": {"num_shards": 2, "num_prototypes": 8, "label_map": {0: 0, 1: 1, 2: 2, 3: 3}},
    "privacy": {
        "target_epsilon": 8,
        "target_delta": 1e-3,
        "sample_rate": 0.25,
        "nominal_size": 128,
        "spare_steps": 4,
        "votes_noise_multiplier": 4,
    },
    "training": {
        "steps": 12,
        "objective": "surrogate",
        "class_init": "votes",
        "noise_multiplicity": 2,
        "checkpoint_every": 4,
    },
    "sampling": {"num_samples": 40, "num_steps": 10, "batch_size": 20, "starts": "votes"},
    "evaluation": {"classifier_epochs": 1, "classifier_batch_size": 16},
    "runtime": {"num_workers": 2, "num_cpus": 2},
}


@dataclass(frozen=True, kw_only=True)
class TinySources:
    """Paths of the three .npz files of a tiny run."""

    private: str
    public: str
    test: str


def draw_images(labels: np.ndarray, seed: int, brightness: int) -> np.ndarray:
    """(n, 8, 8) uint8: noise, and a bright quarter that tells the class."""
    images = np.random.default_rng(seed).integers(0, 60, (len(labels), 8, 8))
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += brightness
    return images.astype(np.uint8)


def write_tiny_sources(folder: Path) -> TinySources:
    """Private, public and test images as .npz files; some private ones are copies of public ones."""
    folder.mkdir(parents=True, exist_ok=True)
    private_labels = np.repeat(np.arange(4), CLASS_COUNTS)
    public_labels, test_labels = np.arange(NUM_PUBLIC) % 4, np.arange(NUM_TEST) % 4
    public = draw_images(public_labels, 2, 120)
    private = np.concatenate([draw_images(private_labels, 1, 180), public[:NUM_DUPLICATES]])
    private_labels = np.concatenate([private_labels, public_labels[:NUM_DUPLICATES]])
    test = draw_images(test_labels, 3, 180)
    for name, images, labels in (
        ("private", private, private_labels),
        ("public", public, public_labels),
        ("test", test, test_labels),
    ):
        np.savez(folder / f"{name}.npz", images=images, labels=labels.astype(np.int32))
    return TinySources(**{name: str(folder / f"{name}.npz") for name in ("private", "public", "test")})


def tiny_settings(sources: TinySources, **sections: dict[str, Any]) -> dict[str, Any]:
    """The settings of a tiny run as plain values, with some of a section's values replaced."""
    settings = copy.deepcopy(SETTINGS)
    settings["data"] |= vars(sources)
    for name, values in sections.items():
        settings[name] |= values
    return settings


def write_spec(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path
