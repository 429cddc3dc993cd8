"""A key proves that its member holds it, for one purpose, name and federation."""

from typing import Any

import pytest

from tapestry.errors import TapestryError, VerificationError
from tapestry.tlog import note
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.possession import (
    PURPOSES,
    check_possession,
    possession_statement,
    prove_possession,
)
from tests.support.log_world import World
from tests.support.refusals import refused

WORLD = World()
REQUEST = WORLD.request("fr")
KEYS = {purpose: WORLD.keys["fr", purpose] for purpose in PURPOSES}


def test_a_proof_holds_for_its_request_and_federation_alone() -> None:
    proof = prove_possession(REQUEST, KEYS, federation="rivers")
    check_possession(REQUEST, proof, federation="rivers")
    with refused(VerificationError, "possession-not-proven", match="node key"):
        check_possession(REQUEST, proof, federation="hills")
    for changes in ({"name": "gb"}, {"records": 10}, {"transport": "0" * 64}):
        other = REQUEST.model_copy(update=changes)
        with refused(VerificationError, "possession-not-proven"):
            check_possession(other, proof, federation="rivers")


@pytest.mark.parametrize("purpose", PURPOSES)
def test_another_key_proves_nothing(purpose: str) -> None:
    keys = {**KEYS, purpose: WORLD.keys["es", purpose]}
    proof = prove_possession(REQUEST, keys, federation="rivers")
    with refused(VerificationError, "possession-not-proven", match=f"its {purpose}"):
        check_possession(REQUEST, proof, federation="rivers")


@pytest.mark.parametrize("purpose", PURPOSES)
def test_what_is_signed_is_nothing_else(purpose: str) -> None:
    data = possession_statement(REQUEST, purpose=purpose, federation="rivers")
    readers: list[Any] = [note.parse, open_entry]
    for read in readers:
        with pytest.raises(TapestryError):
            read(data)
