from dataclasses import replace

import numpy as np
import pytest
import torch

from rapid_dist.sampling.draw import evaluations_per_image, sample_private, sample_public_only
from rapid_dist.sampling.starts import VotedPrototypes
from tests.sampling.helpers import (
    LABEL_MAP,
    NUM_CLASSES,
    NUM_PROTOTYPES,
    NUM_PUBLIC,
    SHAPE,
    Counted,
    make_models,
    make_private_denoiser,
    make_search,
    spec_with,
)

INDEX = np.arange(12, dtype=np.int64) + 100
LABEL = INDEX % NUM_CLASSES
NO_RETRIEVAL = {"split_step": 50}


def make_voted() -> VotedPrototypes:
    rng = np.random.default_rng(1)
    shares = rng.dirichlet(np.ones(NUM_PROTOTYPES), NUM_CLASSES)
    return VotedPrototypes(shares=shares, labels=rng.dirichlet(np.ones(NUM_PUBLIC), NUM_PROTOTYPES))


def draw(spec, index=INDEX, label=LABEL, *, voted=None, models=None, denoiser=None):
    search = make_search() if spec.uses_retrieval else None
    return sample_private(
        spec,
        models or make_models(),
        denoiser or make_private_denoiser(),
        search,
        voted,
        index,
        label,
        device="cpu",
    )


def nearly_equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal up to the rounding of a pixel: matrix products of other sizes add in another order."""
    return a.shape == b.shape and np.abs(a.astype(int) - b.astype(int)).max() <= 1


SPECS = {
    "nearest": spec_with(),
    "nearest with a label map": spec_with(label_map=LABEL_MAP),
    "stochastic": spec_with(eta=1.0),
    "guided": spec_with(guidance=1.5),
    "no retrieval": spec_with(schedule=NO_RETRIEVAL, eta=0.5),
    "votes": spec_with(eta=0.5, guidance=0.5),
}


@pytest.mark.parametrize("name", SPECS)
def test_an_image_depends_on_its_index_and_label_alone(name):
    spec, voted = SPECS[name], make_voted() if name == "votes" else None
    whole = draw(spec, voted=voted)
    assert whole.shape == (12, *SHAPE)
    assert whole.dtype == np.uint8
    for size in (1, 5):
        parts = [draw(spec, INDEX[i : i + size], LABEL[i : i + size], voted=voted) for i in range(0, 12, size)]
        assert nearly_equal(np.concatenate(parts), whole)
    turned = np.random.default_rng(0).permutation(12)
    assert nearly_equal(draw(spec, INDEX[turned], LABEL[turned], voted=voted), whole[turned])


@pytest.mark.parametrize("name", SPECS)
def test_index_label_and_seed_each_change_the_image(name):
    spec, voted = SPECS[name], make_voted() if name == "votes" else None
    whole = draw(spec, voted=voted)
    others = {
        "index": draw(spec, INDEX + 1000, voted=voted),
        "label": draw(spec, label=(LABEL + 1) % NUM_CLASSES, voted=voted),
        "seed": draw(replace(spec, sampling=replace(spec.sampling, seed=1)), voted=voted),
    }
    for changed, other in others.items():
        assert not nearly_equal(whole, other), changed
    # Without step noise two samples of one class that find one trajectory are one image.
    assert len({image.tobytes() for image in whole}) == 12 or spec.sampling.eta == 0


def test_public_only_images_depend_on_their_index_and_label_alone():
    spec, models = spec_with(eta=0.5), make_models()
    whole = sample_public_only(spec, models, INDEX, LABEL, device="cpu")
    parts = [sample_public_only(spec, models, INDEX[i : i + 5], LABEL[i : i + 5], device="cpu") for i in (0, 5, 10)]
    assert nearly_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("num_steps", [1, 3, 20, 50])
@pytest.mark.parametrize("guidance", [0.0, 2.0])
@pytest.mark.parametrize("schedule", [{}, NO_RETRIEVAL], ids=["retrieval", "no retrieval"])
@pytest.mark.parametrize("has_votes", [False, True])
def test_the_claimed_number_of_evaluations_is_the_number_made(num_steps, guidance, schedule, has_votes):
    spec = spec_with(num_steps=num_steps, guidance=guidance, eta=1.0, schedule=schedule)
    models = make_models()
    public, private = Counted(models.denoiser), Counted(make_private_denoiser())
    draw(spec, models=replace(models, denoiser=public), denoiser=private, voted=make_voted() if has_votes else None)
    claimed = evaluations_per_image(spec)
    assert public.evaluations == claimed["public"] * len(INDEX)
    assert private.evaluations == claimed["private"] * len(INDEX)
    assert claimed["per_image"] == claimed["public"] + claimed["private"]


def test_the_public_run_stops_at_the_query_step_and_the_private_one_starts_below_the_split():
    models = make_models()
    public, private = Counted(models.denoiser), Counted(make_private_denoiser())
    draw(spec_with(), models=replace(models, denoiser=public), denoiser=private)
    assert (max(public.timesteps), min(public.timesteps)) == (49, 40)
    assert (max(private.timesteps), min(private.timesteps)) == (29, 0)


def test_retrieval_saves_the_steps_between_query_and_split():
    spec = spec_with(num_steps=50)
    assert evaluations_per_image(spec) == {"public": 10, "private": 30, "per_image": 40, "full_run": 50}
    assert evaluations_per_image(spec_with(num_steps=50, guidance=1.0)) == {
        "public": 10, "private": 60, "per_image": 70, "full_run": 100,
    }  # fmt: skip
    assert evaluations_per_image(spec_with(num_steps=50, schedule=NO_RETRIEVAL))["public"] == 0


def asked_conditions(spec, label):
    """Public classes that a public-only run asked the public model for, one a sample."""
    models, asked = make_models(), []

    class Noting(torch.nn.Module):
        def forward(self, x_t, timestep, condition):
            asked.append(torch.where(condition.sum(1) > 0, condition.argmax(1), -1))
            return models.denoiser(x_t, timestep, condition)

    index = np.arange(len(label), dtype=np.int64)
    sample_public_only(spec, replace(models, denoiser=Noting()), index, label, device="cpu")
    assert all(torch.equal(a, asked[0]) for a in asked)
    return asked[0].numpy()


def test_public_only_samples_follow_the_label_map():
    label = np.arange(60) % NUM_CLASSES
    asked = asked_conditions(spec_with(num_steps=2, label_map=LABEL_MAP), label)
    assert all(LABEL_MAP[a] == y for a, y in zip(asked, label, strict=True))
    assert set(asked[label == 2]) == {2, 3}


def test_public_only_samples_without_a_map_take_the_class_of_the_same_number():
    label = np.arange(6) - 1
    assert asked_conditions(spec_with(num_steps=2), label).tolist() == [-1, 0, 1, 2, 3, 0]
