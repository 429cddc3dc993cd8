"""Plans: an impossible round is found before it is logged."""

from typing import Any

import pytest

from tapestry.errors import ConfigError
from tapestry_governance.events.round_events import RoundOpened
from tests.coordinator.conftest import Found
from tests.support.federation import DECLARED, RECORDS
from tests.support.refusals import refused


@pytest.mark.parametrize(
    ("settings", "code", "value"),
    [
        (
            {"training": {"options": {"sequence_length": 2048}}},
            *("sequence-too-long", "2048 .* 1024"),
        ),
        ({"training": {"targets": ("c_attn",)}}, "target-module-unknown", "'c_attn'"),
        ({"training": {"workload": "other"}}, "workload-differs", "'other'"),
        ({"training": {"rank": 200}}, "rank-too-high", "200 .* 96"),
        ({"training": {"learning_rate": "0"}}, "setting-out-of-range", "rate 0 "),
        ({"privacy": {"noise_multiplier": "0.1"}}, "noise-too-small", "0.1"),
        ({"privacy": {"clip_norm": "0"}}, "noise-not-positive", "norm 0 and .* 1 "),
        ({"secagg": {"scale_bits": 28}}, "sum-may-overflow", "4 nodes .* 31 bits"),
        ({"secagg": {"clip_value": "0"}}, "setting-invalid", "clip bounds"),
        (
            {"secagg": {"min_cohort": 5}},
            *(
                "members-too-few",
                "5 nodes .* 4 members; .*propose admit.*propose policy",
            ),
        ),
        ({"secagg": {"max_colluding": 4}}, "members-too-few", "5 nodes .* 4 members"),
        ({"outer": {"max_norm": "0"}}, "setting-out-of-range", "max_norm 0 "),
    ],
)
def test_settings_that_allow_no_round_end_the_run_before_any_request(
    found: Found, settings: dict[str, Any], code: str, value: str
) -> None:
    federation = found(coordinator=settings)
    with refused(ConfigError, code, match=value):
        federation.run()
    assert federation.wire.log == []
    assert federation.said(RoundOpened) == []


@pytest.mark.parametrize(
    ("settings", "policy", "said"),
    [
        (
            {"training": {"batch_size": RECORDS + 1}},
            {},
            "4 of 4 members cannot take part, a round takes 3: fi: batch size .* not",
        ),
        ({"training": {"steps": 10}}, {"epsilon_cap": "1"}, "fi: one round costs eps"),
        (
            {"privacy": {"target_delta": "0.05"}},
            {"max_delta": "0.05"},
            f"fi: delta 0.05 is not below 1/{DECLARED}",
        ),
    ],
    ids=["batch", "cap", "delta"],
)
def test_declared_records_that_allow_no_round_end_the_run_before_it(
    found: Found, settings: dict[str, Any], policy: dict[str, Any], said: str
) -> None:
    """Members declare their numbers of records as soon as there is a log."""
    federation = found(coordinator=settings, policy=policy)
    with refused(ConfigError, "members-too-few", match=said):
        federation.run()
    assert federation.said(RoundOpened) == []
    assert all(not node.ledger.rows() for node in federation.nodes.values())


def test_targets_that_settings_leave_open_are_named_in_the_log(found: Found) -> None:
    federation = found(coordinator={"training": {"targets": ()}})
    federation.run()
    (opened,) = federation.said(RoundOpened)
    assert opened.manifest.training.targets == ("q_proj", "v_proj")
    assert [closed.outcome for closed in federation.closed()] == ["applied"]
