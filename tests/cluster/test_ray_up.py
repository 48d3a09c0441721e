"""The `ray up` file is one that this Ray accepts, and leaves no door open."""

from __future__ import annotations

import copy

import pytest
import yaml

from rapid_dist.runtime.session import DATA_LABEL, PRIVATE_DATA
from tests.cluster.files import ROOT


@pytest.fixture
def config():
    return yaml.safe_load((ROOT / "cluster" / "ray-up.yaml").read_text())


def test_ray_accepts_it_with_its_defaults_filled_in(config):
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    whole = fillout_defaults(copy.deepcopy(config))
    validate_config(whole)
    assert whole["head_node_type"] in whole["available_node_types"]


def test_a_wrong_field_is_refused(config):
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    config["available_node_types"]["head"]["max_worker"] = 1
    with pytest.raises(ValidationError, match="'max_worker' was unexpected"):
        validate_config(fillout_defaults(config))


def test_nodes_ask_for_a_token_and_let_in_ssh_from_one_address_only(config):
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    mounted = set(config["file_mounts"])
    assert {f"--env RAY_AUTH_TOKEN_PATH={path}" for path in mounted} <= set(config["docker"]["run_options"])
    (opened,) = config["provider"]["security_group"]["IpPermissions"]
    assert (opened["FromPort"], opened["ToPort"]) == (22, 22)
    assert all(r["CidrIp"].endswith("/32") for r in opened["IpRanges"])
    assert any("--dashboard-host=127.0.0.1" in line for line in config["head_start_ray_commands"])


def test_training_alone_declares_private_data_and_a_stopped_job_may_end_by_itself(config):
    types = config["available_node_types"].items()
    assert {name for name, t in types if PRIVATE_DATA in t["resources"]} == {"training"}
    assert {name for name, t in types if t.get("labels") == {DATA_LABEL: "private"}} == {"training"}
    assert "--env RAY_JOB_STOP_WAIT_TIME_S=20" in config["docker"]["run_options"]


def test_the_head_and_training_are_not_on_spot_machines(config):
    spot = {n for n, t in config["available_node_types"].items() if "InstanceMarketOptions" in t["node_config"]}
    assert spot == {"spot"}
    assert any("--num-cpus=0" in line for line in config["head_start_ray_commands"])
    disks = [
        d["Ebs"]["Encrypted"]
        for t in config["available_node_types"].values()
        for d in t["node_config"]["BlockDeviceMappings"]
    ]
    assert disks == [True, True, True]
