"""What tests of one file leave in the Ray that all share is gone before the next file."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(autouse=True, scope="module")
def no_actors_left_behind():
    """Frames of an error from within Ray Data hold its actors, and their CPUs, until they are collected.

    A group of workers that needs all CPUs would wait for ever.
    """
    yield
    gc.collect()
