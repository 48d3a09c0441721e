"""A plan is built for a denoiser only that keeps examples apart, and with an engine that can take it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rapid_dist.errors import SpecError
from rapid_dist.models import denoisers
from rapid_dist.models.denoisers import DENOISERS, ResidualMlp, UNet
from rapid_dist.run import Run
from rapid_dist.specs import load_spec
from rapid_dist.training.plan import build_plan, check_denoiser

UNET = {"kind": "unet", "width": 4, "num_blocks": 2}


class Normalised(UNet):
    """A UNet whose first level has BatchNorm."""

    def __init__(self, spec, **settings):
        super().__init__(spec, **settings)
        self.norm = nn.BatchNorm2d(spec.width)


class LooksAround(ResidualMlp):
    """A network that adds a little of the timesteps of the whole batch, which no layer shows."""

    def forward(self, x_t, timestep, condition):
        return super().forward(x_t, timestep, condition) + 0.1 * timestep.float().mean().cos()


class Draws(ResidualMlp):
    def forward(self, x_t, timestep, condition):
        return super().forward(x_t, timestep, condition) + torch.randn_like(x_t)


@pytest.mark.parametrize(
    ("network", "section", "message"),
    [
        (Normalised, UNET, "BatchNorm .*replace the layer"),
        (LooksAround, {}, "mixes examples: .*GroupNorm or LayerNorm"),
        (Draws, {}, "changes from one forward pass"),
    ],
)
def test_a_network_that_mixes_examples_gets_no_plan(monkeypatch, spec_file, tmp_path, network, section, message):
    kind = section.get("kind", "residual_mlp")
    spec = load_spec(str(spec_file(denoiser=section)))
    build_plan(spec)
    monkeypatch.setitem(denoisers.DENOISERS, kind, network)
    for build in (build_plan, lambda spec: Run(spec, out=tmp_path).plan()):
        with pytest.raises(SpecError, match=rf"denoiser\.kind '{kind}' .*{message}"):
            build(spec)


@pytest.mark.parametrize("kind", DENOISERS)
@pytest.mark.parametrize("num_classes", [0, 1, 4])
def test_every_denoiser_passes_with_and_without_classes(spec_file, kind, num_classes):
    sections = {"data": {"num_classes": num_classes, "num_channels": 3}, "denoiser": {"kind": kind, "width": 8}}
    plain = {"privacy": {"votes_noise_multiplier": None}, "knowledge_base": {"label_map": {}}}
    spec = load_spec(
        str(spec_file(**sections, **plain, training={"class_init": "zero"}, sampling={"starts": "nearest"}))
    )
    check_denoiser(spec)


def test_an_engine_that_cannot_take_the_network_gets_no_plan(spec_file):
    spec = load_spec(str(spec_file(denoiser=UNET, runtime={"clipping_engine": "linear"})))
    with pytest.raises(SpecError, match=r"runtime\.clipping_engine 'linear': .*outside of Linear layers.*auto or vmap"):
        build_plan(spec)
    for engine in ("vmap", "opacus"):
        build_plan(load_spec(str(spec_file(denoiser=UNET, runtime={"clipping_engine": engine}))))


def test_a_unet_that_shrinks_images_to_nothing_is_refused_with_the_plan(spec_file):
    with pytest.raises(SpecError, match=r"denoiser\.num_blocks is 4, which shrinks 8 pixels"):
        build_plan(load_spec(str(spec_file(data={"image_size": 8}, denoiser={**UNET, "num_blocks": 4}))))
    build_plan(load_spec(str(spec_file(denoiser={**UNET, "num_blocks": 6}))))  # 64 pixels may do
