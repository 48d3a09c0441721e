"""The ledger's store fails in mid-training: the run refuses with the reason, and the same line completes it."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from rapid_dist import layout
from rapid_dist.storage.manifest import read_manifest
from rapid_dist.storage.store import Store
from tests.s3.proxy import LOSE_ANSWER, LOSE_REQUEST, FaultyEndpoint

pytestmark = pytest.mark.faults


@pytest.fixture
def small_disk(tmp_path):
    """The function that mounts a disk of so many bytes on a folder, or makes it larger; skips where one may not."""
    mounted = []

    def mount(folder, size):
        folder.mkdir(exist_ok=True)
        options = f"{'remount,' if folder in mounted else ''}size={size}"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"mounting a small disk is not allowed here: {done.stderr.strip()}")
        if folder not in mounted:
            mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_under_the_ledger_stops_training_before_the_noise(faulty_run, small_disk):
    run = faulty_run()
    folder = run.out / layout.PRIVATE_IMAGES / layout.LEDGER
    small_disk(folder, 6 * 4096)  # a page a file: the ledger is full after a few entries
    run.start()
    code, said = run.finish()
    assert code == 2, said
    assert said.strip().splitlines()[-1].startswith("rapid-dist: no space left at ")
    assert "Traceback" not in said
    spent = run.spent()
    assert spent > 0
    small_disk(folder, 2**20)
    run.start()
    code, said = run.finish()
    assert code == 0, said
    assert run.check_finished(at_least=spent).facts["attempts"] == 2


@pytest.fixture
def endpoint(s3_server):
    endpoint = FaultyEndpoint(s3_server)
    yield endpoint
    endpoint.close()


def test_a_failing_s3_under_the_ledger_is_waited_for_or_named_and_never_undercounts(
    faulty_run, finished_run, tmp_path, s3, endpoint
):
    dataset = Store(f"{s3}/{tmp_path.name}/dataset")
    source = finished_run.private
    for path in ["manifest.json", *(f.path for f in read_manifest(source).files)]:
        dataset.write_bytes(path, source.read_bytes(path))
    run = faulty_run(data={"private": dataset.uri})
    shutil.rmtree(run.out / layout.PRIVATE_IMAGES)
    run.images = dataset
    run.environment = {"AWS_ENDPOINT_URL": endpoint.url}
    # Answers and requests that are lost now and then are asked again; the same entry counts once.
    endpoint.fail("PUT", "ledger", *[LOSE_ANSWER, LOSE_REQUEST, (503, "SlowDown")])
    run.start()
    run.wait_for_charges(4)
    endpoint.fail("PUT", "ledger", *[(503, "SlowDown")] * 200)
    code, said = run.finish()
    assert code == 2, said
    last = said.strip().splitlines()[-1]
    assert last.startswith("rapid-dist: s3://bucket/")
    assert "secret" not in said
    assert "Traceback" not in said
    spent = run.spent()
    endpoint.faults.clear()
    run.start()
    code, said = run.finish()
    assert code == 0, said
    assert run.check_finished(at_least=spent).facts["attempts"] == 2
