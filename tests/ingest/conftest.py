"""A few small images, as arrays and as every kind of source."""

import io

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def pixels():
    """(6, 8, 8) uint8, all different."""
    return np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)


@pytest.fixture
def encode():
    """The function (H, W) or (H, W, C) uint8 -> PNG bytes."""

    def encode_png(array, **options):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG", **options)
        return buffer.getvalue()

    return encode_png


@pytest.fixture
def decode_all():
    """The function source -> one dictionary of joined arrays over all units."""
    from rapid_dist.ingest.decode import decode_unit

    def decode(source, **options):
        settings = {"image_size": None, "num_channels": None, "skip_corrupt": False, **options}
        units = [decode_unit(unit, **settings) for unit in source.units]
        return {
            "example_id": np.concatenate([u.example_id for u in units]),
            "image": np.concatenate([u.image for u in units]),
            "label": np.concatenate([u.label for u in units]),
            "corrupt": tuple(name for u in units for name in u.corrupt),
        }

    return decode
