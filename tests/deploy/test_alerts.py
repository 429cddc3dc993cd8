"""The rules for Prometheus name metrics that exist, and what the design asks for."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tapestry.metrics_page import render
from tapestry_coordinator.coordinator_metrics import CoordinatorMetrics
from tapestry_node.node_metrics import NodeMetrics
from tests.support.federation_fixtures import Found, base, found
from tests.support.node_folders import TRANSPORT, change

__all__ = ["base", "found"]
PAGE = Path(__file__).resolve().parents[2] / "deploy" / "alerts.yaml"
RULES = [
    rule
    for group in yaml.safe_load(PAGE.read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
_METRIC = re.compile(r"\btapestry_[a-z_]+")


def test_each_rule_has_a_name_an_expression_and_a_summary() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names) > 10
    for rule in RULES:
        assert set(rule) <= {"alert", "expr", "for", "annotations"}
        assert rule["annotations"]["summary"].endswith((".", "renew."))
        assert _METRIC.search(rule["expr"]) or rule["expr"].startswith("up{job=")
        assert re.fullmatch(r"[0-9]+[mh]", rule.get("for", "1m"))


def test_every_metric_of_a_rule_is_served(found: Found) -> None:
    federation = found()
    federation.run()
    folder = federation.nodes["fr"].directory
    authority = federation.coordinator / "tls" / "authority.pem"
    shutil.copy(authority, folder / "authority.pem")
    change(folder, {"transport": TRANSPORT})
    pages = render(CoordinatorMetrics(federation.coordinator).read())
    pages += render(NodeMetrics(federation.restart("fr")).read())
    served = set(re.findall(r"^# TYPE (\w+)", pages, re.MULTILINE))
    asked = {name for rule in RULES for name in _METRIC.findall(rule["expr"])}
    assert asked - served == set()
    # Each has a sample in it, so that a rule can hold at all.
    assert {name for name in asked if not re.search(f"^{name}", pages, re.M)} == set()


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed here"
)
def test_promtool_takes_the_rules() -> None:
    subprocess.run(["promtool", "check", "rules", PAGE], check=True)
