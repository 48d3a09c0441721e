"""Whom network policies let through: a small reading of the Kubernetes rules, for pods of one namespace and guests."""

from __future__ import annotations

from typing import Any


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector selects. Operators used here: In."""
    if any(labels.get(k) != v for k, v in (selector.get("matchLabels") or {}).items()):
        return False
    expressions = selector.get("matchExpressions") or []
    assert all(e["operator"] == "In" for e in expressions), "teach this function the operator"
    return all(labels.get(e["key"]) in e["values"] for e in expressions)


def is_let_in(
    policies: list[dict[str, Any]], *, to: dict[str, str], port: int, source: dict[str, str], namespace: str
) -> bool:
    """Whether a pod of namespace with labels source may open port of a pod with labels to, by its ingress rules."""
    mine = [p for p in policies if "Ingress" in p["spec"]["policyTypes"] and selects(p["spec"]["podSelector"], to)]
    return not mine or any(
        (not rule.get("ports") or port in {p["port"] for p in rule["ports"]})
        and (not rule.get("from") or any(_is_peer(peer, source, namespace) for peer in rule["from"]))
        for policy in mine
        for rule in policy["spec"].get("ingress", [])
    )


def _is_peer(peer: dict[str, Any], labels: dict[str, str], namespace: str) -> bool:
    if "ipBlock" in peer:
        return True
    names = {"kubernetes.io/metadata.name": namespace}
    in_space = selects(peer["namespaceSelector"], names) if "namespaceSelector" in peer else namespace == "rapid-dist"
    return in_space and selects(peer.get("podSelector") or {}, labels)
