"""The manifests keep the project's promises, and every way of breaking one that is listed here is caught."""

from __future__ import annotations

import re
import shlex

import pytest

from rapid_dist import layout
from rapid_dist.cli import main
from rapid_dist.specs import parse_spec
from tests.k8s.conftest import ROOT
from tests.k8s.network import is_let_in
from tests.k8s.pods import pods
from tests.k8s.policy import violations

STAGES = {"ingest-public", "ingest-private", "pretrain", "build-kb", "train", "sample", "evaluate", "run", "sweep"}


def test_no_manifest_breaks_a_rule(documents):
    assert violations(documents) == []


def worker(job, group=0):
    return job["spec"]["rayClusterSpec"]["workerGroupSpecs"][group]["template"]["spec"]


def head(job):
    return job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]


def mount_private(pod, **more):
    pod["volumes"].append({"name": "data", "persistentVolumeClaim": {"claimName": "private-images"}})
    pod["containers"][0]["volumeMounts"].append({"name": "data", "mountPath": "/data", **more})


def open_port(policy):
    policy["spec"]["ingress"].append({"ports": [{"protocol": "TCP", "port": 6379}]})


# What is changed: (kind, name) of the manifest, how, and a piece of the sentence that must come.
MUTATIONS = {
    "a private volume on a knowledge-base worker": (
        ("RayJob", "build-kb"),
        lambda d: mount_private(worker(d), readOnly=True),
        "build-kb/worker/public mounts data",
    ),
    "a private volume on the head of training": (
        ("RayJob", "train"),
        lambda d: mount_private(head(d), readOnly=True),
        "train/head mounts data",
    ),
    "a private volume in the standing cluster": (
        ("RayCluster", "rapid-dist"),
        lambda d: mount_private(d["spec"]["workerGroupSpecs"][0]["template"]["spec"], readOnly=True),
        "rapid-dist/worker/public mounts data",
    ),
    "a private volume that training can write": (
        ("RayJob", "train"),
        lambda d: worker(d)["containers"][0]["volumeMounts"][3].pop("readOnly"),
        "can write private-images",
    ),
    "another writable folder of the private volume": (
        ("RayJob", "sweep"),
        lambda d: worker(d)["containers"][0]["volumeMounts"][4].update(subPath="images"),
        "can write private-images",
    ),
    "a public group beside the private one": (
        ("RayJob", "train"),
        lambda d: d["spec"]["rayClusterSpec"]["workerGroupSpecs"].append(
            {**d["spec"]["rayClusterSpec"]["workerGroupSpecs"][0], "groupName": "public"}
        ),
        "train has other worker groups than private",
    ),
    "public pods in the private network": (
        ("RayJob", "pretrain"),
        lambda d: d["spec"]["submitterPodTemplate"]["metadata"]["labels"].update({"rapid-dist/data": "private"}),
        "not all of its own network",
    ),
    "the private account for a public job": (
        ("RayJob", "sample"),
        lambda d: worker(d).update(serviceAccountName="private-worker"),
        "uses an account of the other side",
    ),
    "the private account for public workers of a whole run": (
        ("RayJob", "run"),
        lambda d: worker(d, 1).update(serviceAccountName="private-worker"),
        "run/worker/public uses an account of the other side",
    ),
    "a private volume on public workers of a whole run": (
        ("RayJob", "run"),
        lambda d: mount_private(worker(d, 1), readOnly=True),
        "run/worker/public mounts data",
    ),
    "a whole run without workers for public stages": (
        ("RayJob", "run"),
        lambda d: d["spec"]["rayClusterSpec"]["workerGroupSpecs"].pop(),
        "run has other worker groups than private and public",
    ),
    "public workers that declare private data": (
        ("RayJob", "run"),
        lambda d: d["spec"]["rayClusterSpec"]["workerGroupSpecs"][1].update(resources={"private_data": "1"}),
        "run/public tells Ray the wrong side",
    ),
    "private workers without the label that public stages keep off": (
        ("RayJob", "run"),
        lambda d: d["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].pop("labels"),
        "run/private tells Ray the wrong side",
    ),
    "private workers that do not declare private data": (
        ("RayJob", "train"),
        lambda d: d["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].pop("resources"),
        "train/private tells Ray the wrong side",
    ),
    "a stopped job that is killed at once": (
        ("RayJob", "train"),
        lambda d: worker(d)["containers"][0].update(env=[]),
        "train/worker/private kills a stopped job too early",
    ),
    "the driver of training on the head": (
        ("RayJob", "train"),
        lambda d: d["spec"].pop("entrypointResources"),
        "its driver would run on the head",
    ),
    "a root user": (
        ("RayJob", "train"),
        lambda d: worker(d)["securityContext"].update(runAsUser=0),
        "may run as root",
    ),
    "a container of its own user root": (
        ("RayJob", "train"),
        lambda d: worker(d)["containers"][0]["securityContext"].update(runAsUser=0),
        "may run as root",
    ),
    "a submitter without a security context": (
        ("RayJob", "evaluate"),
        lambda d: d["spec"]["submitterPodTemplate"]["spec"].pop("securityContext"),
        "submitter may run as root",
    ),
    "a writable root file system": (
        ("RayCluster", "rapid-dist"),
        lambda d: d["spec"]["autoscalerOptions"]["securityContext"].pop("readOnlyRootFilesystem"),
        "autoscaler can write its root",
    ),
    "no /tmp on a read-only root": (
        ("RayJob", "run"),
        lambda d: worker(d)["containers"][0]["volumeMounts"].pop(0),
        "no /tmp to write to",
    ),
    "a missing limit": (
        ("RayJob", "sweep"),
        lambda d: worker(d)["containers"][0]["resources"]["limits"].pop("ephemeral-storage"),
        "no limits of ephemeral-storage",
    ),
    "a missing request": (
        ("StatefulSet", "rapid-dist-redis"),
        lambda d: d["spec"]["template"]["spec"]["containers"][0]["resources"].pop("requests"),
        "no requests of cpu, ephemeral-storage, memory",
    ),
    "a missing probe": (
        ("RayJob", "build-kb"),
        lambda d: worker(d)["containers"][0].pop("livenessProbe"),
        "has no probes",
    ),
    "an image that moves": (
        ("RayJob", "build-kb"),
        lambda d: worker(d)["containers"][0].update(image="rapid-dist:latest"),
        "no pinned image",
    ),
    "a password in plain text": (
        ("StatefulSet", "rapid-dist-redis"),
        lambda d: d["spec"]["template"]["spec"]["containers"][0]["env"].append(
            {"name": "REDIS_PASSWORD", "value": "x"}
        ),
        "REDIS_PASSWORD in plain text",
    ),
    "no token": (
        ("RayJob", "train"),
        lambda d: d["spec"]["rayClusterSpec"]["authOptions"].update(mode="disabled"),
        "does not ask for a token",
    ),
    "a Redis password in the manifest": (
        ("RayJob", "train"),
        lambda d: d["spec"]["rayClusterSpec"]["gcsFaultToleranceOptions"].update(redisPassword={"value": "x"}),
        "password from a Secret",
    ),
    "training on spot nodes": (
        ("RayJob", "train"),
        lambda d: worker(d)["nodeSelector"].update({"rapid-dist/node": "spot"}),
        "must be on stable nodes",
    ),
    "a head on spot nodes": (
        ("RayJob", "pretrain"),
        lambda d: head(d)["nodeSelector"].update({"rapid-dist/node": "spot"}),
        "must be on stable nodes",
    ),
    "a head that takes work": (
        ("RayJob", "train"),
        lambda d: d["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].pop("num-cpus"),
        "its head takes work",
    ),
    "a head behind a load balancer": (
        ("RayCluster", "rapid-dist"),
        lambda d: d["spec"]["headGroupSpec"].update(serviceType="LoadBalancer"),
        "reachable from outside",
    ),
    "a Service of node ports": (
        ("Service", "rapid-dist-redis"),
        lambda d: d["spec"].update(type="NodePort"),
        "opens a way",
    ),
    "the GCS port open to all": (("NetworkPolicy", "within-public-clusters"), open_port, "lets everybody in"),
    "the dashboard open to a namespace": (
        ("NetworkPolicy", "operator-to-dashboard"),
        lambda d: d["spec"]["ingress"][0]["from"][0].pop("podSelector"),
        "more than named pods",
    ),
    "Prometheus at every port": (
        ("NetworkPolicy", "prometheus-to-metrics"),
        lambda d: d["spec"]["ingress"][0].pop("ports"),
        "lets monitoring in on every port",
    ),
    "an address range let in": (
        ("NetworkPolicy", "within-private-clusters"),
        lambda d: d["spec"]["ingress"][0]["from"].append({"ipBlock": {"cidr": "10.0.0.0/8"}}),
        "more than named pods",
    ),
    "no denial by default": (
        ("NetworkPolicy", "deny-all"),
        lambda d: d["spec"].update(policyTypes=["Egress"]),
        "no policy denies",
    ),
}


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
