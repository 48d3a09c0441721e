"""Every rendered manifest fits its schema, and a wrong field does not."""

from __future__ import annotations

import subprocess

import pytest
import yaml

from rapid_dist.specs import parse_spec
from tests.k8s.conftest import ROOT
from tests.tools import find_debian_tool

KUBERAY = ("RayCluster", "RayJob")


def kuberay_faults(document, schemas):
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft7Validator(schemas[document["kind"]])
    return [f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in validator.iter_errors(document)]


def core_faults(document):
    validate = pytest.importorskip("kubernetes_validate", reason="the extra k8s brings the schemas of core kinds")
    try:
        validate.validate(document, "1.32", strict=True)
    except validate.ValidationError as error:
        return [error.message]
    return []


def test_kuberay_kinds_fit_their_strict_schemas(documents, kuberay_schemas):
    ours = [d for d in documents if d["kind"] in KUBERAY]
    assert len(ours) == 10
    assert {d["metadata"]["name"]: f for d in ours if (f := kuberay_faults(d, kuberay_schemas))} == {}


def test_core_kinds_fit_their_strict_schemas(documents):
    core = [d for d in documents if d["kind"] not in KUBERAY]
    assert {d["kind"] for d in core} >= {"Namespace", "NetworkPolicy", "ServiceAccount", "StatefulSet", "ConfigMap"}
    assert {d["metadata"]["name"]: f for d in core if (f := core_faults(d))} == {}


def _misspell(document):
    document["spec"]["rayClusterSpec"]["enableInTreeAutoscalling"] = True


def _number_for_text(document):
    document["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def _no_group_name(document):
    del document["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["groupName"]


def _probe_of_no_kind(document):
    pod = document["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    pod["containers"][0]["livenessProbe"]["http"] = {"port": 1}


@pytest.mark.parametrize("mutate", [_misspell, _number_for_text, _no_group_name, _probe_of_no_kind])
def test_a_wrong_field_of_a_ray_job_is_caught(named, kuberay_schemas, mutate):
    job = named("RayJob", "train")
    mutate(job)
    assert kuberay_faults(job, kuberay_schemas)


@pytest.mark.parametrize(
    ("kind", "name", "field", "value"),
    [
        ("NetworkPolicy", "deny-all", "podSelectors", {}),
        ("StatefulSet", "rapid-dist-redis", "replicas", "one"),
        ("PersistentVolumeClaim", "private-images", "accessMode", ["ReadOnlyMany"]),
        ("Service", "rapid-dist-redis", "ports", [{"name": "redis"}]),
    ],
)
def test_a_wrong_field_of_a_core_kind_is_caught(named, kind, name, field, value):
    document = named(kind, name)
    document["spec"][field] = value
    assert core_faults(document)


def test_the_mounted_spec_is_one_that_the_stages_accept(named):
    text = named("ConfigMap", "rapid-dist-spec")["data"]["spec.yaml"]
    spec = parse_spec(text)
    workers = named("RayJob", "train")["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    assert spec.runtime.num_workers == workers["minReplicas"]
    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert spec.runtime.device == ("cuda" if "nvidia.com/gpu" in limits else "cpu")
    mounts = workers["template"]["spec"]["containers"][0]["volumeMounts"]
    assert any(spec.data.private.startswith(m["mountPath"] + "/") for m in mounts if m["name"] == "private-images")
    assert yaml.safe_load(text)["data"]["public"].startswith("s3://")


def test_the_readmes_scrape_job_keeps_what_the_other_configuration_keeps(tmp_path):
    text = (ROOT / "k8s" / "README.md").read_text().split("<!-- scrape -->\n```yaml\n")[1].split("```")[0]
    (job,) = yaml.safe_load(text)
    (elsewhere,) = [
        other
        for other in yaml.safe_load((ROOT / "cluster/prometheus/prometheus.yml").read_text())["scrape_configs"]
        if other["job_name"] == "ray"
    ]
    assert job["metric_relabel_configs"] == elsewhere["metric_relabel_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod", "namespaces": {"names": ["rapid-dist"]}}]
    promtool = find_debian_tool("promtool", package="prometheus")
    # Debian's build does not know kubernetes_sd_configs; the rest is checked.
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [job]}))
    answer = subprocess.run([promtool, "check", "config", "prometheus.yml"], cwd=tmp_path, capture_output=True)
    assert answer.returncode == 0, answer.stderr
