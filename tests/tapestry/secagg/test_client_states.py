"""Tests of client_states: what a manifest gives, and secrets that do not stay."""

from tapestry.errors import ProtocolError
from tapestry.secagg import client
from tapestry.secagg.client_states import Cohort
from tests.support.refusals import refused
from tests.support.secagg_cohort import Federation, manifest_for, members


def test_a_cohort_has_the_places_and_keys_of_its_manifest() -> None:
    people = members(5)
    manifest = manifest_for(people, length=70)
    cohort = Cohort.of(manifest)
    assert cohort.context == manifest.context
    assert list(cohort.places.items()) == [(m.name, n) for n, m in enumerate(people, 1)]
    assert cohort.roster == {m.name: m.identity.verify_key for m in people}
    assert cohort.encoding.length == 70


def test_a_participant_with_a_malformed_key_makes_no_cohort() -> None:
    manifest = manifest_for(members(4))
    first, *rest = manifest.participants
    broken = first.model_copy(update={"key": first.key[:-4]})
    with refused(ProtocolError, "key-malformed"):
        Cohort.of(manifest.model_copy(update={"participants": (broken, *rest)}))


def test_a_cohort_whose_sum_may_overflow_is_refused() -> None:
    with refused(ProtocolError, "sum-may-overflow", match="4 nodes"):
        Cohort.of(manifest_for(members(4), clip_value="10000"))


def test_states_do_not_print_their_secrets() -> None:
    federation = Federation.of(4)
    federation.run("advertise_keys")
    state = federation.cohort[0].state
    drawn = state.secrets
    for secret in (drawn.seed, drawn.root, drawn.channel):
        assert repr(secret) not in repr(state)
        assert secret.hex() not in repr(drawn)
    federation.share_keys()
    federation.receive_shares()
    state = federation.cohort[0].state
    assert all(repr(mask.key) not in repr(state) for mask in state.masks)


def test_secrets_are_gone_with_the_stage_that_needs_them() -> None:
    federation = Federation.of(4)
    federation.run("check_consistency")
    state = federation.cohort[0].state
    assert not hasattr(state, "secrets")
    assert not hasattr(state, "masks")
    done, _ = client.unmask(state, federation.message)
    assert not hasattr(done, "held")
