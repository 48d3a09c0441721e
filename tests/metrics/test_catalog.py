"""What may be exported, and how it is named."""

import dataclasses

import pytest

from rapid_dist.errors import PrivacyError
from rapid_dist.metrics import catalog
from rapid_dist.metrics.catalog import CATALOG, EXPORTED_CLASSES, KINDS, Metric, require_exportable


@pytest.mark.parametrize("metric", CATALOG.values(), ids=CATALOG)
def test_names_follow_prometheus_and_say_the_unit(metric):
    assert metric.name.startswith("rapid_dist_")
    assert metric.kind in KINDS
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert ("_seconds" in metric.name) == (metric.unit == "seconds")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert metric.help.endswith(".")
    assert metric.privacy_class in EXPORTED_CLASSES


def test_every_declared_metric_is_in_the_catalog():
    declared = [value for value in vars(catalog).values() if isinstance(value, Metric)]
    assert declared == list(CATALOG.values())


def test_nothing_tells_of_clipping_losses_or_batches_as_drawn():
    forbidden = ("clip", "loss", "grad_norm", "batch_size", "included", "lot")
    assert not [name for name in CATALOG if any(word in name for word in forbidden)]


def test_wall_time_of_private_steps_carries_its_caveat():
    assert "outside the guarantee" in catalog.PRIVATE_PHASE_SECONDS.text


def test_a_private_metric_is_refused_even_when_declared(monkeypatch):
    drawn = dataclasses.replace(catalog.STEP, name="rapid_dist_examples_drawn", privacy_class="private")
    with pytest.raises(PrivacyError, match="not declared"):
        require_exportable(drawn)
    monkeypatch.setitem(CATALOG, drawn.name, drawn)
    with pytest.raises(PrivacyError, match="class 'private'"):
        require_exportable(drawn)


def test_a_metric_that_borrows_a_declared_name_is_refused():
    with pytest.raises(PrivacyError, match="not declared"):
        require_exportable(dataclasses.replace(catalog.STEP, help="Examples drawn."))
