"""A spec that lies on S3, as a study's best.yaml does."""

import pytest

from rapid_dist.errors import InputError
from rapid_dist.specs import load_spec
from rapid_dist.storage.store import Store
from tests.tiny import tiny_settings, write_spec


def test_a_spec_on_s3_is_the_same_as_on_disk(s3, tiny_sources, tmp_path):
    path = write_spec(tmp_path / "spec.yaml", tiny_settings(tiny_sources))
    Store(f"{s3}/study").write_bytes("best.yaml", path.read_bytes())
    assert load_spec(f"{s3}/study/best.yaml") == load_spec(str(path))


def test_an_absent_one_is_named(s3):
    with pytest.raises(InputError, match=r"s3://bucket/study/none\.yaml does not exist"):
        load_spec(f"{s3}/study/none.yaml")
