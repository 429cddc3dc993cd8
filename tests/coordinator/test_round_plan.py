"""What no round of a run can do is found before the log hears of one."""

from typing import Any

import pytest

from tapestry.errors import ConfigError
from tapestry_governance.events.round_events import RoundOpened
from tests.coordinator.conftest import Found
from tests.support.federation import RECORDS


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"training": {"options": {"sequence_length": 2048}}},
            "2048 is above the 1024 positions",
        ),
        ({"training": {"targets": ("c_attn",)}}, "'c_attn' .*targets may be down_proj"),
        ({"training": {"workload": "other"}}, "the plan is for workload 'other'"),
        ({"training": {"rank": 200}}, "rank 200 is above the 96"),
        ({"training": {"learning_rate": "0"}}, "learning rate 0 is not positive"),
        ({"privacy": {"noise_multiplier": "0.1"}}, "0.1 gives no finite epsilon"),
        ({"privacy": {"clip_norm": "0"}}, "clip norm 0 and noise .* be positive"),
        ({"secagg": {"scale_bits": 28}}, "4 nodes times .* grid steps.* do not fit 31"),
        ({"secagg": {"clip_value": "0"}}, "clip bounds must be positive"),
        (
            {"secagg": {"min_cohort": 5}},
            "takes 5 nodes .* the federation has 4 members",
        ),
        ({"secagg": {"max_colluding": 4}}, "takes 5 nodes .* the federation has 4 mem"),
        ({"outer": {"max_norm": "0"}}, "outer.max_norm 0 is not positive"),
    ],
)
def test_a_run_that_cannot_be_asks_nobody(
    found: Found, settings: dict[str, Any], said: str
) -> None:
    federation = found(coordinator=settings)
    with pytest.raises(ConfigError, match=said):
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
            f"fi: delta 0.05 is not below 1/{RECORDS}",
        ),
    ],
    ids=["batch", "cap", "delta"],
)
def test_declared_records_that_allow_no_round_end_the_run_before_it(
    found: Found, settings: dict[str, Any], policy: dict[str, Any], said: str
) -> None:
    """Members declare how many they have as soon as there is a log."""
    federation = found(coordinator=settings, policy=policy)
    with pytest.raises(ConfigError, match=said):
        federation.run()
    assert federation.said(RoundOpened) == []
    assert all(not node.ledger.rows() for node in federation.nodes.values())


def test_targets_that_settings_leave_open_are_named_in_the_log(found: Found) -> None:
    federation = found(coordinator={"training": {"targets": ()}})
    federation.run()
    (opened,) = federation.said(RoundOpened)
    assert opened.manifest.training.targets == ("q_proj", "v_proj")
    assert [closed.outcome for closed in federation.closed()] == ["applied"]
