"""Contact sheets of samples: labelled rows, whole-number scaling, images drawn by seed and not picked."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rapid_dist.errors import InputError
from rapid_dist.evaluation.inputs import check_images, check_labels

_GAP = 2
_MARGIN = 8
_FONT_SIZE = 15
_WHITE, _BLACK = 255, 0


def image_grid(rows: Sequence[tuple[str, np.ndarray]], *, scale: int) -> bytes:
    """Returns a PNG with one row per (label, images), label at the left, images enlarged `scale` times.

    Pixels are repeated, never smoothed. Grey rows give a grey PNG; with any RGB row it is RGB.
    images: (n, C, H, W) uint8, one H and W for all rows; n may differ and may be 0.
    Raises InputError when there is no image at all or sizes differ.
    """
    shown = [images for _, images in rows if len(images)]
    if not shown or scale < 1:
        raise InputError(f"got {len(rows)} rows without any image, or scale {scale}; expected images and scale >= 1")
    for images in shown:
        check_images(images, "grid images")
    sizes = {images.shape[2:] for images in shown}
    if len(sizes) > 1:
        raise InputError(f"grid images have sizes {sorted(sizes)}; expected one size")
    height, width = (side * scale for side in sizes.pop())
    mode = "RGB" if any(images.shape[1] == 3 for images in shown) else "L"
    font = ImageFont.load_default(size=_FONT_SIZE)
    label_width = max(int(np.ceil(font.getlength(label))) for label, _ in rows)
    left = _MARGIN + (label_width + _MARGIN if label_width else 0)
    row_height = max(height, _FONT_SIZE + _GAP) + _GAP
    num_columns = max(len(images) for images in shown)
    sheet = Image.new(
        mode,
        (left + num_columns * (width + _GAP) - _GAP + _MARGIN, 2 * _MARGIN + len(rows) * row_height - _GAP),
        _fill(mode, _WHITE),
    )
    draw = ImageDraw.Draw(sheet)
    for index, (label, images) in enumerate(rows):
        top = _MARGIN + index * row_height
        middle = top + (row_height - _GAP) / 2
        draw.text((_MARGIN, middle), label, font=font, fill=_fill(mode, _BLACK), anchor="lm")
        for column, image in enumerate(images):
            tile = _to_pil(image, mode).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(tile, (left + column * (width + _GAP), int(middle - height / 2)))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def class_rows(
    images: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    num_per_class: int,
    seed: int,
    class_names: Sequence[str] | None = None,
) -> list[tuple[str, np.ndarray]]:
    """Returns one row per class with num_per_class images drawn at random without replacement.

    Fewer are returned where a class has fewer. The draw of a class depends on seed and class alone.
    images: (N, C, H, W) uint8; labels: (N,) integers in [0, num_classes). Names default to the class numbers.
    """
    check_images(images, "images")
    labels = check_labels(labels, len(images), num_classes, "labels")
    names = [str(k) for k in range(num_classes)] if class_names is None else list(class_names)
    if len(names) != num_classes:
        raise InputError(f"got {len(names)} class names; expected {num_classes}")
    rows = []
    for k, name in enumerate(names):
        members = np.flatnonzero(labels == k)
        rng = np.random.default_rng([seed, k])
        chosen = rng.choice(members, min(num_per_class, len(members)), replace=False)
        rows.append((name, images[chosen]))
    return rows


def _fill(mode: str, value: int) -> int | tuple[int, int, int]:
    return value if mode == "L" else (value, value, value)


def _to_pil(image: np.ndarray, mode: str) -> Image.Image:
    array = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(array)).convert(mode)
