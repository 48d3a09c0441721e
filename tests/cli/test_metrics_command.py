"""`rapid-dist metrics`, and --metrics-port where it can be refused or not needed."""

from __future__ import annotations

import json
import socket

from rapid_dist.metrics.catalog import CATALOG


def test_the_list_names_every_metric_with_its_class(call):
    plain = json.loads(call("metrics", "--json").stdout.splitlines()[-1])
    assert [m["name"] for m in plain["metrics"]] == list(CATALOG)
    text = call("metrics").stdout
    for metric in CATALOG.values():
        assert metric.name in text
        assert metric.text in text


def test_a_taken_port_is_refused_in_one_line(refused, spec_file, tmp_path, no_ray):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refused("run", spec_file(), "--out", tmp_path / "out", "--dry-run", "--metrics-port", port)
    assert f"--metrics-port {port} cannot be opened on 127.0.0.1" in line


def test_a_port_that_is_none_is_refused(call, spec_file, tmp_path):
    result = call("run", spec_file(), "--out", tmp_path / "out", "--metrics-port", 0)
    assert result.exit_code == 2


def test_a_free_port_changes_nothing_that_is_printed(call, spec_file, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ("run", spec_file(), "--out", tmp_path / "out", "--dry-run", "--json")
    assert call(*arguments, "--metrics-port", port).stdout == call(*arguments).stdout
