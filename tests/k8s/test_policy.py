"""The manifests keep the project's promises, and every way of breaking one that is listed here is caught."""

from __future__ import annotations

import re
import shlex

import pytest

from rapid_dist import layout
from rapid_dist.cli import main
from rapid_dist.specs import parse_spec
from tests.k8s.conftest import ROOT
from tests.k8s.mutations import MUTATIONS, worker
from tests.k8s.network import is_let_in
from tests.k8s.pods import pods
from tests.k8s.policy import violations

STAGES = {"ingest-public", "ingest-private", "pretrain", "build-kb", "train", "sample", "evaluate", "run", "sweep"}


def test_no_manifest_breaks_a_rule(documents):
    assert violations(documents) == []


@pytest.mark.parametrize(("which", "mutate", "sentence"), MUTATIONS.values(), ids=MUTATIONS)
def test_a_broken_promise_is_caught(documents, named, which, mutate, sentence):
    mutate(named(*which))
    assert any(sentence in fault for fault in violations(documents)), violations(documents)


@pytest.mark.parametrize(("job", "group"), [("build-kb", 0), ("run", 1)])
def test_keys_of_the_private_side_are_not_given_to_public_pods(documents, named, job, group):
    worker(named("RayJob", job), group)["containers"][0]["envFrom"] = [{"secretRef": {"name": "s3-private"}}]
    assert any("worker/public holds keys of the other side" in fault for fault in violations(documents))


def test_the_ledger_of_the_mounted_data_set_can_be_written(named):
    spec = parse_spec(named("ConfigMap", "rapid-dist-spec")["data"]["spec.yaml"])
    ledger = f"{spec.data.private}/{layout.LEDGER}"
    for job in ("train", "sweep"):
        mounts = {m["mountPath"]: m for m in worker(named("RayJob", job))["containers"][0]["volumeMounts"]}
        assert not mounts[ledger].get("readOnly")
        assert f"/private/{mounts[ledger]['subPath']}" == ledger


def test_there_is_one_job_a_stage_and_each_runs_an_entry_point(documents):
    jobs = {d["metadata"]["name"]: d for d in documents if d["kind"] == "RayJob"}
    assert set(jobs) == STAGES
    words = {name: shlex.split(job["spec"]["entrypoint"]) for name, job in jobs.items()}
    for name in ("ingest-public", "ingest-private"):
        arguments = words.pop(name)
        assert arguments[:2] == ["rapid-dist", "ingest"]
        # Parsed as the command itself would, without running it.
        parsed = main.commands["ingest"].make_context("ingest", arguments[2:]).params
        assert parsed["privacy_class"] == name.removeprefix("ingest-")
    for name, (python, script, *arguments) in words.items():
        assert (python, script) == ("python", f"/opt/rapid_dist/jobs/{name.replace('-', '_')}.py")
        assert arguments[:4] == ["--spec", "/etc/rapid-dist/spec.yaml", "--out", "s3://rapid-dist/runs/first"]
    entries = {f"{name.replace('-', '_')}.py" for name in words}
    assert entries <= {p.name for p in (ROOT / "jobs").glob("*.py")}


def test_every_manifest_can_be_applied_by_the_label_the_readme_names(documents):
    stages = {(d["kind"], d["metadata"]["name"]): d["metadata"]["labels"]["rapid-dist/stage"] for d in documents}
    for (kind, name), stage in stages.items():
        assert stage == {"RayJob": name, "RayCluster": "cluster"}.get(kind, "platform")
    readme = (ROOT / "k8s" / "README.md").read_text()
    applied = set(re.findall(r"-l rapid-dist/stage=([a-z-]+)", readme))
    assert applied == set(stages.values()) - {"run", "sweep"}


PORTS = {"GCS": 6379, "dashboard": 8265, "client": 10001, "agent": 52365, "metrics": 8080}


@pytest.mark.parametrize("port", PORTS.values(), ids=PORTS)
def test_who_reaches_the_ports_of_ray(documents, port):
    policies = [d for d in documents if d["kind"] == "NetworkPolicy"]
    ray = [p for p in pods(documents) if p.role in ("head", "worker")]

    def reached_by(target, source, namespace="rapid-dist"):
        return is_let_in(policies, to=target.labels, port=port, source=source, namespace=namespace)

    for target in ray:
        for other in pods(documents):
            same_side = other.labels.get("rapid-dist/data") == target.labels["rapid-dist/data"]
            assert reached_by(target, other.labels) == same_side, (target.name, other.name)
        stranger = {"app": "stranger"}
        assert not reached_by(target, stranger)
        assert not reached_by(target, target.labels, namespace="elsewhere")
        operator = {"app.kubernetes.io/name": "kuberay-operator"}
        assert reached_by(target, operator, "kuberay-system") == (port == 8265 and target.role == "head")
        prometheus = {"app.kubernetes.io/name": "prometheus"}
        assert reached_by(target, prometheus, "monitoring") == (port == 8080)
        assert not reached_by(target, {}, "kuberay-system")


def test_only_heads_reach_redis(documents):
    policies = [d for d in documents if d["kind"] == "NetworkPolicy"]
    (redis,) = [p for p in pods(documents) if p.role == "server"]
    reaching = {
        p.role
        for p in pods(documents)
        if is_let_in(policies, to=redis.labels, port=6379, source=p.labels, namespace="rapid-dist")
    }
    assert reaching == {"head"}
