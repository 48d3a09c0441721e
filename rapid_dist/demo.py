"""The demo's spec: the embedded recipe with its data written beside the run."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files

from rapid_dist.artifacts.storage import Store
from rapid_dist.specs import RunSpec, parse_spec


def demo_spec(out: Store, overrides: Iterable[str] = ()) -> RunSpec:
    """Writes the embedded sources under `out` unless they are there, and returns the spec that uses them."""
    from rapid_dist.ingest.embedded import write_embedded_sources

    sources = write_embedded_sources(out.child("sources").uri)
    text = files("rapid_dist.recipes").joinpath("demo.yaml").read_text()
    paths = [f"data.{name}={getattr(sources, name)}" for name in ("private", "public", "test")]
    return parse_spec(text, overrides=[*paths, *overrides], source="the demo recipe")
