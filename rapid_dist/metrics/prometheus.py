"""An endpoint of this process for Prometheus, on loopback, that shows the catalog's metrics and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from rapid_dist.errors import SpecError
from rapid_dist.metrics.catalog import CATALOG, KINDS, Metric
from rapid_dist.metrics.recorder import Recorder, recording

LOOPBACK = "127.0.0.1"


class PrometheusSink:
    """Keeps values in a registry of its own: the client's default one also tells memory and CPU of the process,
    which grow with private batches."""

    def __init__(self) -> None:
        import prometheus_client as client

        client.disable_created_metrics()
        self.registry = client.CollectorRegistry(auto_describe=True)
        # All at once: threads of a run record at the same time, and an instrument must not be made twice.
        self._instruments = {name: self._make(metric) for name, metric in CATALOG.items()}

    def record(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        child = self._instruments[metric.name].labels(**labels)
        getattr(child, KINDS[metric.kind])(value)

    def flush(self) -> None:
        """Nothing is held back."""

    def _make(self, metric: Metric) -> Any:
        import prometheus_client as client

        arguments = {"labelnames": metric.label_names, "registry": self.registry}
        if metric.kind == "histogram":
            arguments["buckets"] = metric.buckets
        return getattr(client, metric.kind.capitalize())(metric.name, metric.text, **arguments)


@contextlib.contextmanager
def metrics_endpoint(port: int) -> Iterator[int]:
    """Serves http://127.0.0.1:port/metrics while it is open and records into it; gives the port, chosen if 0.

    Raises SpecError when the port is taken.
    """
    from prometheus_client import start_http_server

    sink = PrometheusSink()
    try:
        server, thread = start_http_server(port, addr=LOOPBACK, registry=sink.registry)
    except OSError as error:
        raise SpecError(f"--metrics-port {port} cannot be opened on {LOOPBACK} ({error}); use another port") from None
    try:
        with recording(Recorder(sink)):
            yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
