"""The attack matrix: each attack, what must stop it, and proof that it could work.

A test whose name ends in ``works_against_...`` runs the same attack on a deliberately
weakened variant, or on an update that was not masked, and must succeed.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tapestry.errors import (
    PolicyError,
    ProtocolError,
    QuorumError,
    TapestryError,
    VerificationError,
)
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import (
    Ciphertexts,
    HeadList,
    KeyList,
    SurvivorList,
)
from tapestry.secagg import client
from tapestry.secagg.key_schedule import (
    Agreement,
    pair_key,
    public_key,
    self_key,
)
from tapestry.secagg.masks import Mask, add_masks
from tapestry.vectors import RingVector
from tests.support.attackers import (
    node_that_answers_twice,
    node_that_trusts_the_key_list,
    node_that_trusts_the_threshold,
    open_list,
    pair_masks,
    steal,
    uploaded,
    without,
)
from tests.support.plans import recommended_colluding
from tests.support.randomness import (
    CHI_SQUARE_255,
    FixedRandom,
    chi_square,
    correlation,
    looks_uniform,
)
from tests.support.refusals import refused
from tests.support.secagg_cohort import (
    Federation,
    manifest_for,
    members,
    sent_by,
    terms_for,
)

OTHER = "sha256:" + "cd" * 32


# --- two survivor lists, with n_C colluding nodes ------------------------------


def weak_threshold(count: int) -> int:
    """The largest t that two lists can both reach: 2 t <= n + n_C."""
    return (count + recommended_colluding(count)) // 2


def split_lists(federation: Federation, first: int) -> tuple[RingVector | None, int]:
    """Tell some honest nodes that the victim survived, the others that it did not.

    Returns the victim's update if it could be unmasked, and how many lists opened.
    """
    count = recommended_colluding(len(federation.cohort))
    names = federation.names()
    colluders, honest = names[:count], names[count:]
    victim, rest = honest[0], honest[1:]
    full: SurvivorList = federation.message
    told = [victim, *rest[: first - 1]] if first else []
    with_victim = open_list(federation, full, asked=told, colluders=colluders)
    others = [name for name in rest if name not in told]
    lacking = without(full, victim)
    without_victim = open_list(federation, lacking, asked=others, colluders=colluders)
    opened = bool(with_victim) + bool(without_victim)
    try:
        stolen = steal(
            federation,
            victim,
            reveals=[*with_victim, *without_victim],
            colluders=colluders,
        )
    except QuorumError:
        return None, opened
    return stolen, opened


@pytest.mark.parametrize("count", [4, 7, 10])
def test_two_survivor_lists_never_open_both_secrets_of_a_node(count: int) -> None:
    honest = count - recommended_colluding(count)
    for first in range(honest + 1):
        federation = Federation.of(count)
        federation.run("collect_masked_inputs")
        stolen, opened = split_lists(federation, first)
        assert stolen is None
        assert opened <= 1


@pytest.mark.parametrize("count", [4, 7, 10])
def test_two_survivor_lists_works_against_a_low_threshold(count: int) -> None:
    honest = count - recommended_colluding(count)
    threshold = weak_threshold(count)
    won = 0
    for first in range(1, honest + 1):
        federation = Federation.of(count, threshold=threshold, min_cohort=threshold)
        with node_that_trusts_the_threshold():
            federation.run("collect_masked_inputs")
        victim = federation.names()[recommended_colluding(count)]
        stolen, opened = split_lists(federation, first)
        if stolen is not None:
            assert opened == 2
            assert np.array_equal(stolen, federation.vectors[victim])
            won += 1
    assert won


def both_lists_to_all_nodes(federation: Federation) -> RingVector:
    """No colluders: ask the same nodes about two lists, one after the other."""
    victim, *rest = federation.names()
    full = federation.message
    states = {name: federation.member(name).state for name in rest}
    reveals = open_list(federation, full, asked=federation.names(), colluders=[])
    for name, state in states.items():  # an old state of the node, kept or restored
        federation.member(name).state = state
    lacking = without(full, victim)
    reveals += open_list(federation, lacking, asked=rest, colluders=[])
    return steal(federation, victim, reveals=reveals, colluders=[])


def test_a_node_answers_one_survivor_list_even_from_an_old_state() -> None:
    federation = Federation.of(5)
    federation.run("collect_masked_inputs")
    with refused(ProtocolError, "step-out-of-order", match="is none"):
        both_lists_to_all_nodes(federation)


def test_both_lists_works_against_nodes_that_answer_twice() -> None:
    federation = Federation.of(5)
    federation.run("collect_masked_inputs")
    with node_that_answers_twice():
        stolen = both_lists_to_all_nodes(federation)
    assert np.array_equal(stolen, federation.vectors[federation.names()[0]])


def test_a_list_that_calls_an_active_node_dropped_opens_one_secret_only() -> None:
    federation = Federation.of(5)
    federation.run("collect_masked_inputs")
    victim, *rest = federation.names()
    lacking = without(federation.message, victim)
    with refused(ProtocolError, "own-entry-differs", match=victim):
        client.check_consistency(federation.member(victim).state, lacking)
    reveals = open_list(federation, lacking, asked=rest, colluders=[])
    assert len(reveals) == 4
    with refused(QuorumError, "shares-too-few"):
        steal(federation, victim, reveals=reveals, colluders=[])


# --- key substitution ----------------------------------------------------------


def put_in_the_middle(federation: Federation, victim: str) -> dict[str, bytes]:
    """Replace the keys that one node sees of all others by the coordinator's own."""
    drawn = {}
    entries = []
    for entry in federation.keys.advertisements:
        if entry.node == victim:
            entries.append(entry)
            continue
        secret = FixedRandom(entry.node)(32)
        channel = FixedRandom(entry.node + " channel")(32)
        drawn[entry.node] = secret
        update = {
            "mask_key": public_key(secret).hex(),
            "channel_key": public_key(channel).hex(),
        }
        entries.append(entry.model_copy(update=update))
    federation.message = KeyList(advertisements=tuple(entries))
    return drawn


def test_substituted_keys_are_refused_before_anything_is_shared() -> None:
    federation = Federation.of(5)
    federation.run("advertise_keys")
    victim = federation.names()[0]
    put_in_the_middle(federation, victim)
    with refused(VerificationError, "signature-invalid", match="n0002"):
        client.share_keys(federation.member(victim).state, federation.message)


def test_key_substitution_works_against_nodes_that_trust_the_key_list() -> None:
    federation = Federation.of(5)
    federation.run("advertise_keys")
    victim = federation.names()[0]
    drawn = put_in_the_middle(federation, victim)
    member = federation.member(victim)
    with node_that_trusts_the_key_list():
        state, _ = client.share_keys(member.state, federation.message)
    mine = bytes.fromhex(member.state.advertisement.mask_key)
    for name, secret in drawn.items():
        assert Agreement(secret).with_peer(mine) == state.agreed[name].mask


# --- the cohort ----------------------------------------------------------------


def test_sybils_small_cohorts_and_low_numbers_are_refused_at_the_start() -> None:
    cohort = members(7)
    sybils = members(9)
    roster = {m.name: str(m.identity.verify_key) for m in cohort}
    me = cohort[0].identity
    few, weak = {"min_cohort": 5}, {"min_colluding": 2}
    cases: list[tuple[RoundManifest, dict[str, Any], type[TapestryError], str]] = [
        (
            manifest_for(sybils),
            {"roster": roster},
            ProtocolError,
            "participant-not-in-roster",
        ),
        (manifest_for(cohort[:3]), few, PolicyError, "cohort-too-small"),
        (
            manifest_for(cohort, threshold=4),
            {},
            ProtocolError,
            "threshold-out-of-range",
        ),
        (
            manifest_for(cohort, max_colluding=1),
            weak,
            PolicyError,
            "max-colluding-too-small",
        ),
    ]
    for manifest, changes, error, code in cases:
        with refused(error, code):
            client.advertise_keys(manifest, me, terms=terms_for(manifest, **changes))


def test_different_key_lists_are_noticed_in_the_views() -> None:
    federation = Federation.of(7)
    federation.run("advertise_keys")
    full = federation.keys
    fewer = KeyList(advertisements=full.advertisements[:6])
    first, *others = federation.cohort[:6]
    first.state, split = client.share_keys(first.state, fewer)
    with refused(ProtocolError, "key-list-differs", match=first.name):
        federation.stage.accept(first.name, split)
    heads, sealed = [split.head], b""
    for member in others:
        member.state, message = client.share_keys(member.state, full)
        heads.append(message.head)
        sealed += sent_by(member.state, message)[first.name]
    forced = Ciphertexts(heads=HeadList(heads=tuple(heads)), messages=sealed)
    with refused(VerificationError, "key-list-differs", match=others[0].name):
        client.receive_shares(first.state, forced)


def test_a_split_set_of_sharers_is_refused_and_if_forced_gives_noise() -> None:
    federation = Federation.of(7, length=20_000, threshold=5)
    federation.random = FixedRandom("split")
    federation.run("share_keys")
    names = federation.names()
    halves = {name: names[:6] if name < names[3] else names[1:] for name in names}
    seeds = {m.name: m.state.secrets.seed for m in federation.cohort}
    total = np.zeros(20_000, dtype=np.uint32)
    zero = np.zeros(20_000, dtype=np.uint32)
    for member in federation.cohort[:6]:
        sent = federation.message[member.name]
        kept = [h for h in sent.heads.heads if h.node in halves[member.name]]
        if member.name not in halves[member.name]:
            continue
        boxes = federation.boxes(member.name)
        sealed = b"".join(boxes[h.node] for h in kept if h.node != member.name)
        changed = Ciphertexts(heads=HeadList(heads=tuple(kept)), messages=sealed)
        member.state = client.receive_shares(member.state, changed)
        federation.mask_input(member.name, zero)
        total += uploaded(federation, member.name)
        key = self_key(
            seeds[member.name], member.state.round.cohort.context, node=member.name
        )
        add_masks(total, [Mask(key, negative=True)])
    assert looks_uniform(total)
    rows = []
    for name in names[1:6]:
        head = federation.uploads[name].head
        rows.append({"node": name, "root": head.root})
    view = federation.uploads[names[1]].head.view
    forced = SurvivorList.model_validate({"view": view, "survivors": tuple(rows)})
    with refused(ProtocolError, "share-list-differs", match=view):
        client.check_consistency(federation.member(names[5]).state, forced)


# --- one story for all ---------------------------------------------------------


def test_another_model_or_manifest_is_refused_and_its_signatures_fail() -> None:
    federation = Federation.of(5)
    federation.run("advertise_keys")
    other = Federation.of(5, model_digest=OTHER)
    terms = terms_for(federation.manifest)
    me = federation.cohort[0].identity
    with refused(ProtocolError, "base-differs", match=OTHER):
        client.advertise_keys(other.manifest, me, terms=terms)
    other.run("advertise_keys")
    mixed = (federation.keys.advertisements[0], *other.keys.advertisements[1:])
    with refused(VerificationError, "signature-invalid", match="n0002"):
        client.share_keys(federation.cohort[0].state, KeyList(advertisements=mixed))


def test_unequal_views_give_unequal_pair_masks() -> None:
    shared, context = bytes(32), bytes(32)
    keys = {
        pair_key(
            shared, context, names=("a", "b"), view=bytes([view]) * 32, contributed=b""
        )
        for view in range(16)
    }
    assert len(keys) == 16


# --- replay, retry, late uploads -----------------------------------------------


def test_a_retry_of_a_round_that_a_node_uploaded_for_is_refused() -> None:
    federation = Federation.of(5)
    federation.run("collect_masked_inputs")
    member = federation.cohort[0]
    again = manifest_for(federation.cohort[:4], attempt=2)
    highest = member.marks.highest(again.run_id)
    with refused(ProtocolError, "round-already-uploaded", match="round 1"):
        client.advertise_keys(
            again, member.identity, terms=terms_for(again, highest_round=highest)
        )


def test_an_aborted_round_may_be_retried_by_nodes_that_did_not_upload() -> None:
    federation = Federation.of(5)
    federation.run("receive_shares")
    member = federation.cohort[0]
    again = manifest_for(federation.cohort[:4], attempt=2)
    highest = member.marks.highest(again.run_id)
    client.advertise_keys(
        again, member.identity, terms=terms_for(again, highest_round=highest)
    )


def test_a_late_upload_stays_hidden_when_the_mask_key_is_known() -> None:
    federation = Federation.of(5, length=20_000)
    federation.random = FixedRandom("late")
    federation.run("receive_shares")
    late, *rest = federation.names()
    ready = federation.member(late).state
    federation.collect_masked_inputs(rest)
    federation.check_consistency()
    unmasked = federation.unmask()
    assert np.array_equal(unmasked.values, federation.expected(rest))
    federation.member(late).state = ready
    federation.mask_input(late, np.zeros(20_000, dtype=np.uint32))
    residual = uploaded(federation, late)
    key = bytes.fromhex(unmasked.transcript.roots[late])
    add_masks(residual, pair_masks(federation, late, key))
    assert looks_uniform(residual)
    own = ready.masks[0].key
    add_masks(residual, [Mask(own, negative=True)])
    assert not residual.any()  # with the self mask gone, too, it is laid bare


# --- inversion -----------------------------------------------------------------

VOCABULARY, WIDTH, BATCH = 400, 16, 12


def embedding_update(seed: int) -> tuple[np.ndarray, set[int]]:
    """The update of an embedding after one step: rows of the tokens that occurred."""
    rng = np.random.default_rng(seed)
    tokens = rng.choice(VOCABULARY, BATCH, replace=False)
    update = np.zeros((VOCABULARY, WIDTH))
    update[tokens] = rng.normal(size=(BATCH, WIDTH))
    update *= 0.5 / np.linalg.norm(update)
    return update, set(tokens.tolist())


def grid(update: np.ndarray) -> RingVector:
    values: RingVector = (
        np.rint(update.reshape(-1) * 2**16).astype(np.int32).view(np.uint32)
    )
    return values


def guess_tokens(values: RingVector) -> set[int]:
    """Read off the rows that moved most."""
    rows = values.view(np.int32).astype(np.float64).reshape(VOCABULARY, WIDTH)
    return set(np.argsort(-np.abs(rows).sum(axis=1))[:BATCH].tolist())


def inverted_round() -> tuple[Federation, dict[str, set[int]], RingVector]:
    federation = Federation.of(10, length=VOCABULARY * WIDTH)
    federation.random = FixedRandom("inversion")
    drawn = {n: embedding_update(i) for i, n in enumerate(federation.names())}
    federation.run("receive_shares")
    federation.collect_masked_inputs(vector=lambda name: grid(drawn[name][0]))
    federation.check_consistency()
    unmasked = federation.unmask()
    return federation, {n: tokens for n, (_, tokens) in drawn.items()}, unmasked.values


def test_inversion_works_against_an_update_that_is_not_masked() -> None:
    federation, tokens, _ = inverted_round()
    for name, vector in federation.vectors.items():
        assert guess_tokens(vector) == tokens[name]


def masked_round() -> tuple[list[RingVector], list[RingVector], list[set[int]]]:
    """Ten updates: as they leave their nodes, as they are, and their tokens."""
    federation, tokens, _ = inverted_round()
    masked = [uploaded(federation, name) for name in federation.vectors]
    return masked, list(federation.vectors.values()), [*tokens.values()]


MOST_HITS = 17  # of ten updates; 3.6 are expected, more than 17 with 5e-8 (Poisson)
DEVIATIONS = 6.5  # more by chance, of ten coefficients: 8e-10


def hidden(
    sent: list[RingVector], plain: list[RingVector], tokens: list[set[int]]
) -> dict[str, bool]:
    """Say of ten vectors whether each statistic takes them for masked ones.

    All three together take truly masked ones for something else once in 10**7 draws.
    """
    far = DEVIATIONS / np.sqrt(VOCABULARY * WIDTH)
    pairs = list(zip(sent, plain, strict=True))
    hits = [guess_tokens(v) & t for v, t in zip(sent, tokens, strict=True)]
    return {
        "uniform": looks_uniform(np.concatenate(sent)),
        "uncorrelated": all(abs(correlation(v, own)) < far for v, own in pairs),
        "at chance": sum(map(len, hits)) <= MOST_HITS,
    }


def test_inversion_of_a_masked_update_is_at_chance() -> None:
    masked, plain, tokens = masked_round()
    assert all(hidden(masked, plain, tokens).values())


LOW, ODD = np.uint32(0x0000FFFF), np.arange(VOCABULARY * WIDTH) % 2 == 1
HALVES: dict[str, Callable[[int, RingVector, RingVector], RingVector]] = {
    "no mask": lambda _, __, own: own,
    "one update in ten without": lambda i, sent, own: own if i == 0 else sent,
    "every other coordinate without": lambda _, sent, own: np.where(ODD, own, sent),
    "the low half without": lambda _, sent, own: own + ((sent - own) & ~LOW),
    "the high half without": lambda _, sent, own: own + ((sent - own) & LOW),
    "one byte in a hundred zero": lambda _, sent, __: np.where(
        np.arange(sent.size) % 25 == 0, sent & ~np.uint32(0xFF), sent
    ),
}


@pytest.mark.parametrize("half", HALVES.values(), ids=list(HALVES))
def test_a_mask_over_half_an_update_is_noticed(half: Any) -> None:
    masked, plain, tokens = masked_round()
    pairs = enumerate(zip(masked, plain, strict=True))
    sent = [half(i, one, own) for i, (one, own) in pairs]
    assert not hidden(sent, plain, tokens)["uniform"]


def test_inversion_statistics_notice_an_update_that_is_not_masked() -> None:
    _, plain, tokens = masked_round()
    assert not any(hidden(plain, plain, tokens).values())


def test_uniform_vectors_pass_with_the_margin_that_the_limit_states() -> None:
    """Mean and spread of the statistic are those of chi-square, and so is its tail."""
    rng = np.random.default_rng(7)
    drawn = [
        chi_square(rng.integers(0, 2**32, 20_000, dtype=np.uint32)) for _ in range(1000)
    ]
    assert np.mean(drawn) == pytest.approx(255, abs=6 * np.sqrt(510 / 1000))
    assert np.var(drawn) == pytest.approx(510, rel=6 * np.sqrt(2 / 1000))
    # Wilson and Hilferty (1931): the cube root of chi-square over k is about normal.
    root, spread = (CHI_SQUARE_255 / 255) ** (1 / 3), 2 / (9 * 255)
    beyond = 0.5 * math.erfc((root - (1 - spread)) / math.sqrt(2 * spread))
    assert 5e-9 < beyond < 2e-8


def test_inversion_works_against_the_sum_unless_there_is_noise() -> None:
    _, tokens, total = inverted_round()
    union = set.union(*tokens.values())
    rows = total.view(np.int32).reshape(VOCABULARY, WIDTH)
    moved = set(np.flatnonzero(np.abs(rows).sum(axis=1)).tolist())
    assert moved == union  # secure aggregation alone: the sum leaks what it is
    # Noise of 3.73 x 0.5 for one update of norm 0.5 is epsilon 1 at delta 1e-5 (Balle
    # and Wang 2018), so the best test of one update has an area of Phi(1 / 3.73 /
    # sqrt 2) = 0.58 under its curve (Dong et al. 2022); 0.1 is for the sample.
    rng = np.random.default_rng(1)
    noise = rng.normal(scale=3.73 * 0.5 * 2**16, size=rows.shape)
    scores = np.abs(rows + noise).sum(axis=1)
    inside = [scores[t] for t in sorted(union)]
    outside = [scores[t] for t in range(VOCABULARY) if t not in union]
    pairs = itertools.product(inside, outside)
    area = np.mean([a > b for a, b in pairs])
    assert area < 0.58 + 0.1


# --- poisoning -----------------------------------------------------------------

TARGET = np.linspace(-0.4, 0.4, 40)


def held_out_loss(model: np.ndarray) -> float:
    """Distance from the optimum: what a public held-out text stands for."""
    return float(((model - TARGET) ** 2).sum())


def poisoned_mean(nodes: int, *, poisoners: int) -> np.ndarray:
    """The mean update when some nodes send a scaled sign-flip, within the range."""
    rng = np.random.default_rng(nodes + poisoners)
    federation = Federation.of(nodes, length=40, clip_norm="4", clip_value="0.5")
    bad = set(federation.names()[:poisoners])

    def vector(name: str) -> RingVector:
        honest = 0.1 * TARGET + rng.normal(scale=0.005, size=40)
        update = np.clip(-40 * honest, -0.5, 0.5) if name in bad else honest
        return grid(update)

    federation.run("receive_shares")
    federation.collect_masked_inputs(vector=vector)
    federation.check_consistency()
    return federation.unmask().mean().astype(np.float64)


def test_a_coordinate_out_of_range_leaves_the_model_alone() -> None:
    federation = Federation.of(10)
    federation.run("receive_shares")
    poisoner = federation.names()[3]

    def vector(name: str) -> RingVector:
        values = federation.draw(name)
        if name == poisoner:
            values[0] = 2**31
        return values

    federation.collect_masked_inputs(vector=vector)
    federation.check_consistency()
    unmasked = federation.unmask()
    with refused(ProtocolError, "sum-out-of-range", match="10 survivors"):
        unmasked.mean()  # the only way to a model goes through here


def test_poison_within_the_range_is_left_to_the_gate_on_held_out_text() -> None:
    model = np.zeros(40)
    before = held_out_loss(model)
    assert held_out_loss(model + poisoned_mean(10, poisoners=0)) < before
    after = held_out_loss(model + poisoned_mean(10, poisoners=1))
    assert after > before  # not found by the sum's range: the gate rolls it back


def test_in_large_cohorts_the_median_of_group_sums_resists_one_poisoner() -> None:
    model = np.zeros(40)
    means = [poisoned_mean(5, poisoners=int(group == 2)) for group in range(6)]
    assert held_out_loss(model + np.median(means, axis=0)) < held_out_loss(model)
    assert held_out_loss(model + means[2]) > held_out_loss(model)
