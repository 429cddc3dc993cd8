"""One step a round, and noise that adds up inside the masked sum."""

import math
from typing import Any

import numpy as np
import pytest

from tapestry.encoding import decode_decimal
from tapestry.privacy.clipping import bound_sum
from tapestry.privacy.noise_shares import NoiseShare
from tapestry.protocol.messages import Kind
from tapestry.secagg.quantization import Encoding, mean
from tapestry_coordinator.journal import Journal
from tapestry_governance.audit.privacy_statement import state_privacy, to_markdown
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.events.round_events import RoundOpened
from tests.scenarios.conftest import Found
from tests.support.federation import NAMES, Federation, lost

SHARED: dict[str, Any] = {
    "coordinator": {
        "rounds": 2,
        "release_every": 2,
        "privacy": {"noise": "shared", "min_share": "0"},
        "secagg": {"scale_bits": 26},
        "outer": {
            "optimizer": "adam",
            "learning_rate": "0.01",
            "momentum": None,
        },
    },
    "policy": {"noise": ("local", "shared")},
    "institution": {"policy": {"noise": ["local", "shared"]}},
}


def noise_in_sum(federation: Federation, number_: int, names: tuple[str, ...]) -> Any:
    """What the sum has that the nodes' steps have not, in units of its deviation."""
    opened = federation.said(RoundOpened)[number_ - 1].manifest
    share = NoiseShare.of(opened)
    assert share is not None
    encoding = Encoding.of(opened)
    journal = Journal(federation.run_folder)
    total = journal.load_sum(number_)
    journal.close()
    found = mean(total, encoding=encoding, survivors=len(names)) * len(names)
    grid = 2**opened.scale_bits
    steps = [
        bound_sum(
            federation.updates[n, number_],
            clip_norm=int(encoding.clip_norm * grid),
            clip_value=encoding.bound,
        )
        for n in names
    ]
    scale = share.deviation * math.sqrt(len(names))
    return (found.astype(np.float64) * grid - np.sum(steps, axis=0)) / scale


@pytest.mark.slow
def test_the_sum_has_the_noise_of_all_shares_and_every_node_accounts_for_it(
    found: Found,
) -> None:
    federation = found(train=True, **SHARED)
    federation.run()
    assert [closed.outcome for closed in federation.closed()] == ["applied"] * 2
    noise = noise_in_sum(federation, 1, NAMES)
    assert np.std(noise) == pytest.approx(1, abs=5 / math.sqrt(2 * noise.size))
    assert abs(np.mean(noise)) < 5 / math.sqrt(noise.size)

    accounts = [body.loss for body in federation.said(DpAccounted)]
    assert {a.mechanism for a in accounts} == {"poisson-subsampled-skellam"}
    assert {(a.trust_model, a.shares) for a in accounts} == {("shared", 2)}
    for account in accounts:
        epsilon, fallback = account.epsilon, account.epsilon_fallback
        assert epsilon is not None
        assert fallback is not None
        assert 1.2 * decode_decimal(epsilon) < decode_decimal(fallback)
    federation.bundle()
    audit = federation.audit()
    assert audit.verdict is AuditVerdict.HOLDS
    assert all(a.fallback_recomputed and not a.is_understated for a in audit.accounts)
    page = to_markdown(state_privacy(audit.state, "base-1"))
    assert "fallback epsilon" in page
    assert "from the shares of 2 nodes" in page


def test_a_dropout_removes_a_noise_share_and_the_promise_holds(found: Found) -> None:
    federation = found(**SHARED)
    federation.wire.on("id", Kind.COLLECT_MASKED_INPUTS, lost)
    federation.run()
    rest = tuple(name for name in NAMES if name != "id")
    assert federation.closed()[0].included == rest
    noise = noise_in_sum(federation, 1, rest)
    assert np.std(noise) == pytest.approx(1, abs=5 / math.sqrt(2 * noise.size))
    opened = federation.said(RoundOpened)[0].manifest
    share = NoiseShare.of(opened)
    assert share is not None
    honest = len(rest) - opened.max_colluding  # of the worst sum that is opened
    assert honest * share.own_multiplier**2 >= share.noise_multiplier**2 * (1 - 1e-9)


@pytest.mark.parametrize(
    ("institution", "reason"),
    [
        ({"noise": ["local"]}, "local_policy"),
        ({"epsilon_limit": "1", "fallback_epsilon_limit": "1"}, "budget_exhausted"),
    ],
)
def test_a_node_whose_policy_lacks_shared_noise_refuses(
    found: Found, institution: dict[str, Any], reason: str
) -> None:
    changes = {**SHARED, "institutions": {"fr": {"policy": institution}}}
    federation = found(**changes)
    federation.run()
    assert federation.refusals() == {"fr": reason}
    assert all("fr" not in closed.included for closed in federation.closed())
    assert not federation.nodes["fr"].ledger.rows()


@pytest.mark.slow
def test_the_fallback_has_a_limit_of_its_own(found: Found) -> None:
    probe = found(**SHARED)
    probe.run()
    balance = probe.nodes["fr"].ledger.balance()
    limits = {
        "epsilon_limit": str(round(balance.spent, 2) + 0.5),
        "fallback_epsilon_limit": str(round(balance.fallback, 2) - 0.25),
    }
    federation = found(**{**SHARED, "institutions": {"fr": {"policy": limits}}})
    federation.run()
    first, second = federation.closed()
    assert "fr" in first.included
    assert "fr" not in second.included
    assert federation.refusals() == {"fr": "budget_exhausted"}
