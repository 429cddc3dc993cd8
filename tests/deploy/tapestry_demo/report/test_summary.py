"""What the demo's numbers say is read from its log and its wire, not asserted."""

from typing import Any

import numpy as np
import pytest

from tapestry.protocol.messages import Kind, Message
from tapestry_demo.report.summary import promise_in_words, view
from tapestry_demo.wire_tap import WireTap
from tapestry_governance.audit.privacy_statement import DEFINITION
from tapestry_governance.events.types import DpAccounted


def account(**changes: Any) -> DpAccounted:
    values: dict[str, Any] = {
        "run_id": "run-1",
        "round_number": 1,
        "attempt": 1,
        "adapter": None,
        "version": None,
        "steps": 20,
    }
    loss = {
        "mechanism": "poisson-subsampled-gaussian",
        "unit": "record",
        "adjacency": "add-remove",
        "trust_model": "local",
        "clip_norm": "1",
        "noise_multiplier": "1",
        "own_multiplier": "1",
        "shares": 1,
        "coordinates": 0,
        "bound": "0",
        "sampling_rate": "0.05",
        "target_delta": "0.00001",
        "epsilon_run": "2.5",
        "epsilon_fallback": None,
        "accountant": "dp-accounting/pld",
        "accountant_version": "0.6.0",
    }
    if changes.get("mechanism") == "none":
        loss = {}
    return DpAccounted.model_validate({**values, "loss": loss | changes})


def test_the_promise_defines_epsilon_and_delta_and_names_no_chance_of_failure() -> None:
    told = promise_in_words([account()])
    assert told.startswith(DEFINITION)
    assert "chance" not in told


@pytest.mark.parametrize(
    ("second", "told", "not_told"),
    [
        ({}, "adds all of the noise itself", "share the noise"),
        (
            {
                "trust_model": "shared",
                "own_multiplier": "0.5",
                "shares": 4,
                "epsilon_fallback": "9",
            },
            "The nodes share the noise",
            "even if the secure aggregation failed",
        ),
    ],
    ids=["local", "shared"],
)
def test_the_promise_trusts_whom_the_log_says(
    second: dict[str, Any], told: str, not_told: str
) -> None:
    words = promise_in_words([account(), account(**second)])
    assert told in words
    assert not_told not in words


def test_without_noise_nothing_is_promised() -> None:
    assert promise_in_words([account(), account(mechanism="none")]) == ""
    assert promise_in_words([]) == ""


def seen(tap: WireTap) -> dict[str, bool | None]:
    return {row["item"]: row["seen"] for row in view(tap, is_private=True)}


def test_uploads_that_are_not_random_leave_open_whether_an_update_was_seen() -> None:
    update = "the update of any one institution"
    even, uneven = np.full(256, 1000), np.full(256, 1000)
    uneven[0] = 3000
    assert seen(WireTap(counts=even, uploads=4))[update] is False
    assert seen(WireTap(counts=uneven, uploads=4))[update] is None
    assert update not in seen(WireTap())


def test_what_a_publication_carries_is_told() -> None:
    (row,) = (r for r in view(WireTap(), is_private=True) if "record" in r["item"][:20])
    assert "carries text" not in row["detail"]
    assert "public held-out text and what the models answered" in row["detail"]


def test_a_sum_without_noise_is_not_called_private() -> None:
    for is_private in (True, False):
        details = " ".join(
            row["detail"] for row in view(WireTap(), is_private=is_private)
        )
        assert ("differential privacy" in details) == is_private


CARRIED = Message(kind=Kind.PUBLICATION, attachments=[b"a card: der geheime Satz, so"])


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Message(kind=Kind.PUBLICATION, attachments=[b"a card"]), "found not once"),
        (CARRIED, "found 1 times"),
        (Message(kind=Kind.RECEIPT, body=b'{"x":"der geheime Satz"}'), "found 1 times"),
    ],
    ids=["clean", "attachment", "body"],
)
def test_private_text_is_looked_for_in_all_that_was_sent(
    reply: Message, told: str
) -> None:
    tap = WireTap(wanted=(b"der geheime Satz", b"un altro segreto"))
    tap.take(reply)
    tap = WireTap.restore(tap.state())  # the texts themselves are not kept
    assert not tap.wanted
    (row,) = (r for r in view(tap, is_private=True) if r["item"].endswith("record"))
    assert "2 pieces of private text were looked for in all that was" in row["detail"]
    assert told in row["detail"]
    assert row["seen"] is (told != "found not once")
