"""The pods that rendered manifests ask for, whoever makes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PRIVATE_VOLUME = "private-images"


@dataclass(frozen=True, kw_only=True)
class Pod:
    """One pod template. role: head, worker, submitter or server; group: of workers."""

    owner: str
    role: str
    template: dict[str, Any]
    group: str = ""

    @property
    def name(self) -> str:
        return "/".join(part for part in (self.owner, self.role, self.group) if part)

    @property
    def spec(self) -> dict[str, Any]:
        return self.template["spec"]

    @property
    def labels(self) -> dict[str, str]:
        """Labels as a network policy sees them, those that KubeRay adds included."""
        own = dict(self.template.get("metadata", {}).get("labels", {}))
        if self.role in ("head", "worker"):
            own |= {"ray.io/is-ray-node": "yes", "ray.io/node-type": self.role}
        return own

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec["containers"], *self.spec.get("initContainers", [])]

    @property
    def private_mounts(self) -> list[dict[str, Any]]:
        """Mounts of any claim but Redis's own: a private volume under whatever name."""
        claims = {v["name"] for v in self.spec.get("volumes", []) if "persistentVolumeClaim" in v}
        return [m for c in self.containers for m in c.get("volumeMounts", []) if m["name"] in claims]


def ray_clusters(documents: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(RayCluster or RayJob, the cluster's spec)"""
    for document in documents:
        if document["kind"] in ("RayCluster", "RayJob"):
            yield document, document["spec"].get("rayClusterSpec", document["spec"])


def pods(documents: list[dict[str, Any]]) -> Iterator[Pod]:
    for document, cluster in ray_clusters(documents):
        owner = f"{document['kind']}/{document['metadata']['name']}"
        yield Pod(owner=owner, role="head", template=cluster["headGroupSpec"]["template"])
        for group in cluster["workerGroupSpecs"]:
            yield Pod(owner=owner, role="worker", group=group["groupName"], template=group["template"])
        if document["kind"] == "RayJob":
            yield Pod(owner=owner, role="submitter", template=document["spec"]["submitterPodTemplate"])
    for document in documents:
        if document["kind"] in ("StatefulSet", "Deployment", "DaemonSet", "Job"):
            owner = f"{document['kind']}/{document['metadata']['name']}"
            yield Pod(owner=owner, role="server", template=document["spec"]["template"])
