"""Ways of breaking the manifests, and a piece of the sentence that each must bring."""

from __future__ import annotations


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
