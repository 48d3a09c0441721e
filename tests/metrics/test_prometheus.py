"""The endpoint of a local run: what it serves, to whom, and what it leaves out."""

import re
import socket
import threading
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rapid_dist.errors import SpecError
from rapid_dist.metrics import catalog
from rapid_dist.metrics.catalog import CATALOG
from rapid_dist.metrics.prometheus import PrometheusSink, metrics_endpoint
from rapid_dist.metrics.recorder import Recorder, current_recorder


def page(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()


def samples(text):
    families = text_string_to_metric_families(text)
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def test_the_page_shows_what_was_recorded_in_the_scope():
    with metrics_endpoint(0) as port:
        recorder = current_recorder().labelled(run="tiny")
        recorder.set(catalog.SPENT_EPSILON, 9.61)
        recorder.add(catalog.STEPS, 2, loop="denoiser")
        recorder.add(catalog.STEPS, 3, loop="denoiser")
        recorder.observe(catalog.QUERY_SECONDS, 0.02, source="sample")
        shown = samples(page(port))
    assert shown["rapid_dist_spent_epsilon", ("run", "tiny")] == 9.61
    assert shown["rapid_dist_steps_total", ("loop", "denoiser"), ("run", "tiny")] == 5
    buckets = {dict(k[1:])["le"]: v for k, v in shown.items() if k[0].endswith("_bucket")}
    assert buckets == {le: float(float(le) >= 0.02) for le in buckets}
    assert len(buckets) == len(catalog.QUERY_SECONDS.buckets) + 1
    assert not current_recorder().is_on


def test_the_page_holds_nothing_but_the_catalog():
    with metrics_endpoint(0) as port:
        for metric in CATALOG.values():
            labels = dict.fromkeys(metric.labels, "x")
            verb = {"counter": "add", "gauge": "set", "histogram": "observe"}[metric.kind]
            getattr(current_recorder(), verb)(metric, 1, **labels)
        text = page(port)
    named = set(re.findall(r"^([a-z_]+)[ {]", text, re.MULTILINE))
    suffixes = ("_bucket", "_sum", "_count")
    allowed = set(CATALOG) | {m.name + s for m in CATALOG.values() if m.kind == "histogram" for s in suffixes}
    assert named <= allowed
    assert all(metric.text in text for metric in CATALOG.values())


def test_only_loopback_is_listened_on():
    # A listener on all addresses would answer at 127.0.0.2 too.
    with metrics_endpoint(0) as port, socket.socket() as same, socket.socket() as other:
        assert same.connect_ex(("127.0.0.1", port)) == 0
        assert other.connect_ex(("127.0.0.2", port)) != 0


def test_a_port_that_is_taken_is_refused_in_one_sentence():
    message = "cannot be opened on 127.0.0.1"
    with metrics_endpoint(0) as port, pytest.raises(SpecError, match=message), metrics_endpoint(port):
        pass


def test_the_port_is_free_again_after_the_scope():
    with metrics_endpoint(0) as port:
        pass
    with metrics_endpoint(port) as again:
        assert again == port


def test_two_sinks_do_not_share_values():
    first, second = PrometheusSink(), PrometheusSink()
    Recorder(first, {"run": "a"}).set(catalog.SPENT_EPSILON, 1)
    assert second.registry.get_sample_value("rapid_dist_spent_epsilon", {"run": "a"}) is None


def test_threads_that_record_at_the_same_time_lose_nothing():
    sink, start = PrometheusSink(), threading.Barrier(4)

    def work():
        start.wait()
        for _ in range(500):
            Recorder(sink, {"run": "a"}).add(catalog.STEPS, loop="denoiser")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sink.registry.get_sample_value("rapid_dist_steps_total", {"run": "a", "loop": "denoiser"}) == 2000
