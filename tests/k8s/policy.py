"""What rendered manifests must hold beyond their schemas; each rule returns sentences, one a fault."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from rapid_dist import layout
from rapid_dist.runtime.session import DATA_LABEL, PRIVATE, PRIVATE_DATA
from tests.k8s.pods import PRIVATE_VOLUME, Pod, pods, ray_clusters

Documents = list[dict[str, Any]]
RESOURCES = ("cpu", "memory", "ephemeral-storage")
# Jobs whose workers may mount private images. Whoever builds or asks the knowledge base is not among them.
PRIVATE_JOBS = {"ingest-private", "train", "evaluate", "sweep"}
LEDGER = f"images/{layout.LEDGER}"  # inside the data set; all that training may write there
SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|CREDENTIAL")
WAYS_OUT = ("Ingress", "Role", "ClusterRole", "ClusterRoleBinding", "HorizontalPodAutoscaler")


def violations(documents: Documents) -> list[str]:
    """All faults found by all rules."""
    return [fault for rule in RULES for fault in rule(documents)]


def pods_are_locked(documents: Documents) -> Iterator[str]:
    for pod in pods(documents):
        context = pod.spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
            yield f"{pod.name} may run as root"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{pod.name} has no seccomp profile"
        if any(pod.spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{pod.name} shares a namespace with its host"
        for volume in pod.spec.get("volumes", []):
            if "hostPath" in volume:
                yield f"{pod.name} mounts {volume['name']} of its host"
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{pod.name} has no size limit on {volume['name']}"
        if pod.spec.get("automountServiceAccountToken") is not (pod.role == "head"):
            yield f"{pod.name}: only heads, for the autoscaler, hold an account token"
        yield from _containers_are_locked(pod)
    for document, cluster in ray_clusters(documents):
        sidecar = {**cluster.get("autoscalerOptions", {}), "name": "autoscaler"}
        yield from _container_is_locked(f"{document['kind']}/{document['metadata']['name']}", sidecar)


def _containers_are_locked(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        yield from _container_is_locked(pod.name, container)
        context = container.get("securityContext", {})
        if context.get("runAsNonRoot") is False or context.get("runAsUser") == 0:
            yield f"{pod.name}/{container['name']} may run as root"
        if not re.fullmatch(r"[\w./-]+:(?!latest)[\w.-]+(@sha256:[0-9a-f]{64})?", container.get("image", "")):
            yield f"{pod.name}/{container['name']} has no pinned image"
        if pod.role != "submitter" and not {"livenessProbe", "readinessProbe"} <= set(container):
            yield f"{pod.name}/{container['name']} has no probes"


def _container_is_locked(where: str, container: dict[str, Any]) -> Iterator[str]:
    name, context = f"{where}/{container['name']}", container.get("securityContext", {})
    if context.get("readOnlyRootFilesystem") is not True:
        yield f"{name} can write its root file system"
    if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
        yield f"{name} may gain privileges"
    if context.get("capabilities", {}).get("drop") != ["ALL"] or context.get("capabilities", {}).get("add"):
        yield f"{name} has capabilities"
    if "/tmp" not in [mount["mountPath"] for mount in container.get("volumeMounts", [])]:
        yield f"{name} has no /tmp to write to"
    for kind in ("requests", "limits"):
        missing = set(RESOURCES) - set(container.get("resources", {}).get(kind, {}))
        if missing:
            yield f"{name} has no {kind} of {', '.join(sorted(missing))}"
    for variable in container.get("env", []):
        if SECRET_NAME.search(variable["name"]) and "valueFrom" not in variable:
            yield f"{name} has {variable['name']} in plain text"


def clusters_are_closed_and_recover(documents: Documents) -> Iterator[str]:
    for document, cluster in ray_clusters(documents):
        name = f"{document['kind']}/{document['metadata']['name']}"
        if cluster.get("authOptions", {}).get("mode") != "token":
            yield f"{name} does not ask for a token"
        if not cluster.get("enableInTreeAutoscaling") or cluster.get("autoscalerOptions", {}).get("version") != "v2":
            yield f"{name} does not scale its workers"
        password = cluster.get("gcsFaultToleranceOptions", {}).get("redisPassword", {})
        if "secretKeyRef" not in password.get("valueFrom", {}):
            yield f"{name} has no fault-tolerant GCS with a password from a Secret"
        head = cluster["headGroupSpec"]
        if head["rayStartParams"].get("num-cpus") != "0":
            yield f"{name}: its head takes work"
        if head.get("serviceType", "ClusterIP") != "ClusterIP" or head.get("enableIngress"):
            yield f"{name}: its head is reachable from outside"
        for group in cluster["workerGroupSpecs"]:
            if not 0 <= group["minReplicas"] <= group.get("replicas", 0) <= group["maxReplicas"]:
                yield f"{name}/{group['groupName']} has no range to scale in"
    for document in documents:
        outside = document["kind"] == "Service" and document["spec"].get("type", "ClusterIP") != "ClusterIP"
        if document["kind"] in WAYS_OUT or outside:
            yield f"{document['kind']}/{document['metadata']['name']} opens a way that this project does not need"


def nodes_fit_what_is_lost_with_them(documents: Documents) -> Iterator[str]:
    """Heads, Redis, submitters and whoever writes the ledger are on stable nodes; public workers on spot ones."""
    for pod in pods(documents):
        is_spot = pod.role == "worker" and pod.group == "public"
        expected = "spot" if is_spot else "stable"
        if pod.spec.get("nodeSelector", {}).get("rapid-dist/node") != expected:
            yield f"{pod.name} must be on {expected} nodes"


def private_data_stay_with_training_workers(documents: Documents) -> Iterator[str]:
    for pod in pods(documents):
        kind, name = pod.owner.split("/")
        for mount in pod.private_mounts:
            if kind != "RayJob" or name not in PRIVATE_JOBS or pod.role != "worker":
                yield f"{pod.name} mounts {mount['name']}"
            elif pod.group != "private" or pod.labels.get("rapid-dist/data") != "private":
                yield f"{pod.name} mounts {mount['name']} outside the private group"
            elif not _may_write(name, mount) and mount.get("readOnly") is not True:
                yield f"{pod.name} can write {mount['name']}"
    for document, cluster in ray_clusters(documents):
        name, of_private = document["metadata"]["name"], document["metadata"]["labels"]["rapid-dist/data"] == "private"
        mine = list(pods([document]))
        if {p.labels.get("rapid-dist/data") for p in mine} != {"private" if of_private else "public"}:
            yield f"{name}: its pods are not all of its own network"
        for pod in mine:
            side = "private" if of_private and pod.group != "public" else "public"
            if pod.role != "submitter" and pod.spec.get("serviceAccountName", "").split("-")[0] != side:
                yield f"{pod.name} uses an account of the other side"
            if not {s["secretRef"]["name"] for c in pod.containers for s in c.get("envFrom", [])} <= {f"s3-{side}"}:
                yield f"{pod.name} holds keys of the other side"
        if of_private and "private_data" not in document["spec"].get("entrypointResources", ""):
            yield f"{name}: its driver would run on the head"
        if name in PRIVATE_JOBS and not any(p.private_mounts for p in mine):
            yield f"{name} has no {PRIVATE_VOLUME}"
        groups = {group["groupName"] for group in cluster["workerGroupSpecs"]}
        expected = {"run": {"private", "public"}}.get(name, {"private" if of_private else "public"})
        if groups != expected or len(cluster["workerGroupSpecs"]) != len(expected):
            yield f"{name} has other worker groups than {' and '.join(sorted(expected))}"
        for group in cluster["workerGroupSpecs"]:
            yield from _group_says_its_side(f"{name}/{group['groupName']}", group)


def _group_says_its_side(where: str, group: dict[str, Any]) -> Iterator[str]:
    """Ray is told by a resource and a label, both or neither, which nodes can read private data."""
    said = (PRIVATE_DATA in group.get("resources", {}), group.get("labels", {}).get(DATA_LABEL) == PRIVATE)
    if said != (group["groupName"] == "private",) * 2:
        yield f"{where} tells Ray the wrong side: resource and label {said}"


def stopped_jobs_end_by_themselves(documents: Documents) -> Iterator[str]:
    """A job's supervisor runs on its driver's node, head or worker, and kills what has not ended after this time."""
    for pod in pods(documents):
        if pod.role in ("head", "worker"):
            variables = {v["name"]: v.get("value") for v in pod.spec["containers"][0].get("env", [])}
            if float(variables.get("RAY_JOB_STOP_WAIT_TIME_S") or 3) < 20:
                yield f"{pod.name} kills a stopped job too early"


def _may_write(job: str, mount: dict[str, Any]) -> bool:
    return job == "ingest-private" or (job in ("train", "sweep") and mount.get("subPath") == LEDGER)


def networks_are_closed(documents: Documents) -> Iterator[str]:
    policies = [d for d in documents if d["kind"] == "NetworkPolicy"]
    if not any(_denies_all(p["spec"]) for p in policies):
        yield "no policy denies what no other allows"
    for policy in policies:
        for rule in policy["spec"].get("ingress", []):
            yield from _sources_are_named(policy["metadata"]["name"], rule)


def _denies_all(spec: dict[str, Any]) -> bool:
    """Whether a policy selects every pod, both ways, and lets nothing through."""
    return spec == {"podSelector": {}, "policyTypes": spec["policyTypes"]} and len(spec["policyTypes"]) == 2


# From another namespace only these pods, on only these ports.
GUESTS = {"kuberay-system": {8265}, "monitoring": {8080}}


def _sources_are_named(name: str, rule: dict[str, Any]) -> Iterator[str]:
    ports = {port.get("port") for port in rule.get("ports", [])}
    if not rule.get("from"):
        yield f"{name} lets everybody in"
    for peer in rule.get("from", []):
        selector = peer.get("podSelector") or {}
        if "ipBlock" in peer or not (selector.get("matchLabels") or selector.get("matchExpressions")):
            yield f"{name} lets in more than named pods"
        elif "namespaceSelector" in peer:
            space = (peer["namespaceSelector"].get("matchLabels") or {}).get("kubernetes.io/metadata.name")
            if not ports or not ports <= GUESTS.get(space, set()):
                yield f"{name} lets {space or 'every namespace'} in on {sorted(map(str, ports)) or 'every port'}"


RULES: tuple[Callable[[Documents], Iterator[str]], ...] = (
    pods_are_locked,
    clusters_are_closed_and_recover,
    nodes_fit_what_is_lost_with_them,
    private_data_stay_with_training_workers,
    stopped_jobs_end_by_themselves,
    networks_are_closed,
)
