"""What can be known before the first stage is refused before it, and nothing is charged or written."""

import numpy as np
import pytest

from rapid_dist import layout
from rapid_dist.errors import BudgetExceededError, InputError, SpecError
from rapid_dist.ingest.dataset import IngestSettings, ingest_source
from rapid_dist.models import denoisers
from rapid_dist.models.denoisers import ResidualMlp
from rapid_dist.privacy.charges import Charge
from rapid_dist.privacy.ledger import open_ledger
from rapid_dist.run import Run
from rapid_dist.specs import load_spec
from rapid_dist.stages.pipeline import ingest_datasets
from rapid_dist.storage.stage import map_serially
from rapid_dist.storage.store import Store
from tests.tiny import draw_images


@pytest.fixture
def tiny_run(spec_file, tmp_path, monkeypatch):
    """The function of changed sections -> a tiny run that has not begun. Ray must not be asked."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def make(**sections):
        return Run(load_spec(str(spec_file(**sections))), Store(tmp_path / "out"))

    return make


def images_of(run):
    return run.out.list_files() + run.private.list_files()


@pytest.fixture
def saved(tmp_path):
    """The function (name, **arrays) -> path of a .npz file."""

    def save(name, **arrays):
        np.savez(tmp_path / name, **arrays)
        return str(tmp_path / name)

    return save


def test_a_run_that_can_begin_is_let_through_and_nothing_is_written(tiny_run):
    run = tiny_run()
    run.check()
    assert images_of(run) == []


class Centred(ResidualMlp):
    """A network that subtracts the mean of its batch."""

    def forward(self, x_t, timestep, condition):
        return super().forward(x_t - x_t.mean(0), timestep, condition)


def test_a_network_that_mixes_examples_is_refused(tiny_run, monkeypatch):
    monkeypatch.setitem(denoisers.DENOISERS, "residual_mlp", Centred)
    run = tiny_run()
    with pytest.raises(SpecError, match=r"denoiser\.kind 'residual_mlp' .*mixes examples"):
        run.check()
    assert images_of(run) == []


def test_a_source_that_is_not_there_is_refused(tiny_run):
    for role in ("private", "public", "test"):
        with pytest.raises(InputError, match="does not exist"):
            tiny_run(data={role: "nowhere.npz"}).check()


def test_sources_of_different_shapes_are_refused(tiny_run, saved):
    colour = np.stack([draw_images(np.arange(8) % 4, 1, 100)] * 3, axis=-1)
    path = saved("colour.npz", images=colour, labels=np.arange(8) % 4)
    for role in ("private", "test"):
        with pytest.raises(InputError, match=rf"data\.{role}.*num_channels"):
            tiny_run(data={role: path}).check()
    tiny_run(data={"private": path, "num_channels": 1}).check()


def test_private_and_held_out_images_without_labels_are_refused_where_classes_are_asked_for(tiny_run, saved):
    path = saved("unlabelled.npz", images=draw_images(np.arange(8) % 4, 1, 100))
    for role in ("private", "test"):
        with pytest.raises(InputError, match=rf"data\.{role} .* has no labels"):
            tiny_run(data={role: path}).check()
    tiny_run(data={"public": path}).check()


def ingested(path, out, **settings):
    source = IngestSettings(source=path, privacy_class="private", image_size=8, num_channels=1, **settings)
    ingest_source(source, Store(out), map_serially)
    return str(out)


@pytest.mark.parametrize(
    ("labels", "words"), [(np.full(8, -1), "without a label"), (np.arange(8), "labels of 4 or more")]
)
def test_a_dataset_whose_labels_are_no_classes_is_refused_before_it_is_charged(
    tiny_run, saved, tmp_path, labels, words
):
    path = saved("other.npz", images=draw_images(np.arange(8) % 4, 1, 100), labels=labels)
    run = tiny_run(data={"private": ingested(path, tmp_path / "dataset")})
    with pytest.raises(InputError, match=words):
        run.check()
    with pytest.raises(InputError, match=words):
        run.train()
    assert not run.ledger.list_files()


def test_a_dataset_whose_classes_have_other_names_is_refused(tiny_run, saved, tmp_path):
    path = saved("named.npz", images=draw_images(np.arange(8) % 4, 1, 100), labels=np.arange(8) % 4)
    place = ingested(path, tmp_path / "dataset", class_names=("a", "b", "c", "d"))
    tiny_run(data={"private": place, "class_names": ["a", "b", "c", "d"]}).check()
    with pytest.raises(InputError, match="state the same names"):
        tiny_run(data={"private": place, "class_names": ["b", "a", "c", "d"]}).check()


def test_a_spent_dataset_is_refused_before_the_public_models_are_trained(tiny_run):
    run = tiny_run()
    plan = run.plan()
    ledger = open_ledger(run.ledger, target_epsilon=plan.target_epsilon, target_delta=plan.delta)
    attempt = ledger.begin_attempt(job="before", plan={"target_epsilon": 8, "target_delta": 1e-3})
    spent = Charge(
        mechanism="gaussian", noise_multiplier=0.6, sample_rate=1.0, num_steps=1, purpose="an earlier release"
    )
    ledger.charge(spent, attempt=attempt)
    with pytest.raises(BudgetExceededError):
        run.check()
    run.check(trains=False)


def test_what_this_machine_can_never_run_is_refused(tiny_run):
    with pytest.raises(SpecError, match="would wait for ever"):
        tiny_run(runtime={"num_workers": 3, "num_cpus": 2}).check()
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(SpecError, match="finds no GPU"):
            tiny_run(runtime={"device": "cuda"}).check()


def test_a_cluster_is_not_asked_since_nodes_may_join_it(tiny_run, monkeypatch):
    run = tiny_run(runtime={"num_workers": 3, "num_cpus": 2})
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    run.check()


def test_the_whole_run_looks_first(tiny_run):
    run = tiny_run(data={"test": "nowhere.npz"})
    with pytest.raises(InputError, match="does not exist"):
        run()
    assert not run.store(layout.PUBLIC_IMAGES).list_files()


def test_a_dataset_in_two_roles_is_refused_as_a_raw_source_is(tiny_run, saved, tmp_path):
    path = saved("one.npz", images=draw_images(np.arange(8) % 4, 1, 100), labels=np.arange(8) % 4)
    place = ingested(path, tmp_path / "dataset")
    run = tiny_run(data={"private": place, "test": place})
    with pytest.raises(InputError, match=r"data\.private and data\.test are both"):
        run.check()
    # A study and single stages ingest without the look at the complete run, and are refused as well.
    with pytest.raises(InputError, match=r"data\.private and data\.test are both"):
        ingest_datasets(run, ("public", "private"))
    assert not run.store(layout.PUBLIC_IMAGES).list_files()
