"""Small random affine maps of public images, so that a few fonts or hands stand for more."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def random_affine(image: torch.Tensor, generator: torch.Generator, *, strength: float = 1.0) -> torch.Tensor:
    """Rotates up to 15 degrees, shears up to 0.3, scales by 0.85 to 1.15 and shifts up to 6%, each times strength.

    image: (B, C, H, W) float in [0, 1]; the border value is repeated. Public images only.
    """
    size = len(image)

    def draw(limit: float) -> torch.Tensor:
        return (torch.rand(size, generator=generator) * 2 - 1) * limit * strength

    angle, shear = draw(15 * torch.pi / 180), draw(0.3)
    scale_x, scale_y = 1 + draw(0.15), 1 + draw(0.15)
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack(
        [
            torch.stack([cos * scale_x, (shear * cos - sin) * scale_y, draw(0.12)], dim=1),
            torch.stack([sin * scale_x, (shear * sin + cos) * scale_y, draw(0.12)], dim=1),
        ],
        dim=1,
    ).to(image.device)
    grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
