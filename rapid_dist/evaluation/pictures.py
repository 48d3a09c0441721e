"""Contact sheets of images: labelled rows, enlarged by whole numbers."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rapid_dist.errors import InputError
from rapid_dist.evaluation.classifier import check_images

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


def _fill(mode: str, value: int) -> int | tuple[int, int, int]:
    return value if mode == "L" else (value, value, value)


def _to_pil(image: np.ndarray, mode: str) -> Image.Image:
    array = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(array)).convert(mode)
