"""The files of a founding: signed by the keys that they name, bounded, read once."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tapestry.errors import (
    ConfigError,
    ProtocolError,
    RuleError,
    TapestryError,
    VerificationError,
)
from tapestry.keys import Algorithm, SigningKey
from tapestry_governance.events.federation_events import Coordinator, OutsideWitness
from tapestry_governance.founding_files import (
    MAX_BYTES,
    MAX_CHARTER_BYTES,
    CharterFile,
    Invitation,
    InvitationTerms,
    RequestFile,
    bind_charter,
    check_distinct,
    check_invitation,
    check_request,
    invite,
    open_charter,
    read_acceptance,
    read_document,
    sign_request,
)
from tapestry_governance.rules.replay import apply_all
from tests.support.founders import Founders, asks, member_keys
from tests.support.log_world import World
from tests.support.refusals import refused

NAMES = ("nordland", "ostrava", "sueden")
LEADER = Coordinator(
    name="coordinator", key=str(SigningKey.generate("coordinator/author").verify_key)
)
LOG = str(SigningKey.generate("rivers.example/log").verify_key)


def test_a_request_is_to_one_federation() -> None:
    sent = asks("sueden", member_keys("sueden"))
    check_request(sent, federation="rivers")
    with refused(RuleError, "federation-differs", match="'rivers', this is 'lakes'"):
        check_request(sent, federation="lakes")
    other = sent.model_copy(update={"federation": "lakes"})  # relabelled by a stranger
    with refused(VerificationError, "possession-not-proven"):
        check_request(other, federation="lakes")


@pytest.mark.parametrize("purpose", ["node", "witness", "community"])
def test_each_key_of_a_request_signs_for_itself(purpose: str) -> None:
    sent = asks("sueden", member_keys("sueden"))
    other = asks("ostrava", member_keys("ostrava"))
    stolen = getattr(other.possession, purpose)
    possession = sent.possession.model_copy(update={purpose: stolen})
    with refused(VerificationError, "possession-not-proven", match=purpose):
        check_request(
            sent.model_copy(update={"possession": possession}), federation="rivers"
        )


def test_the_transport_key_signs_too() -> None:
    sent = asks("sueden", member_keys("sueden"))
    other = asks("ostrava", member_keys("ostrava"))
    keys, stranger = member_keys("sueden"), ec.generate_private_key(ec.SECP384R1())
    mine = sign_request(sent.request, keys, transport=stranger, federation="rivers")
    for changes in (
        {k: getattr(mine, k) for k in ("transport_key", "transport_proof")},
        {"transport_proof": other.transport_proof},
        {"transport_key": other.transport_key},
        {k: getattr(other, k) for k in ("transport_key", "transport_proof")},
        {"transport_proof": "00" * 8},
    ):
        with refused(VerificationError, "possession-not-proven"):
            check_request(sent.model_copy(update=changes), federation="rivers")


def test_no_two_parties_have_one_name_or_one_key() -> None:
    mine, theirs = member_keys("sueden"), member_keys("ostrava")
    sent = asks("sueden", mine)
    check_distinct([sent, asks("ostrava", theirs)], LOG, LEADER)
    as_log = SigningKey.generate("sueden/root")
    as_leader = SigningKey.generate("sueden/root")
    for requests, log, leader in (
        ([sent, asks("sueden", theirs)], LOG, LEADER),
        *(
            ([sent, asks("ostrava", theirs | {each: mine[each]})], LOG, LEADER)
            for each in mine
        ),
        ([asks("coordinator", theirs)], LOG, LEADER),
        (
            [asks("sueden", mine | {"root": as_log})],
            str(as_log.verify_key),
            LEADER,
        ),
        (
            [asks("sueden", mine | {"root": as_leader})],
            LOG,
            LEADER.model_copy(update={"key": str(as_leader.verify_key)}),
        ),
    ):
        with refused(RuleError, "key-taken"):
            check_distinct(requests, log, leader)
    again = asks("ostrava", theirs)
    copied = again.request.model_copy(update={"transport": sent.request.transport})
    with refused(RuleError, "key-taken"):
        check_distinct(
            [sent, again.model_copy(update={"request": copied})], LOG, LEADER
        )


def test_an_outside_witness_has_the_key_and_name_of_no_other_party() -> None:
    sent = asks("sueden", mine := member_keys("sueden"))
    seeds = {name: key.seed for name, key in mine.items()}
    own = SigningKey.generate("archive/witness", algorithm=Algorithm.COSIGNATURE)
    namesake = SigningKey.generate("sueden/witness", algorithm=Algorithm.COSIGNATURE)

    def named(name: str, key: SigningKey) -> OutsideWitness:
        text = str(key.verify_key)
        return OutsideWitness(name=name, key=text, url="https://archive.example")

    def twin(seed: bytes) -> OutsideWitness:
        algorithm = Algorithm.COSIGNATURE
        key = SigningKey(name="archive/witness", algorithm=algorithm, seed=seed)
        return named("archive", key)

    log, author = SigningKey.generate("log"), SigningKey.generate("author")
    leader = LEADER.model_copy(update={"key": str(author.verify_key)})
    check_distinct([sent], str(log.verify_key), leader, [named("archive", own)])
    for outside in (
        *(twin(seed) for seed in (log.seed, author.seed, *seeds.values())),
        named("coordinator", own),
        named("sueden", own),
        named("archive", namesake),
    ):
        with refused(RuleError, "key-taken"):
            check_distinct([sent], str(log.verify_key), leader, [outside])


def test_a_charter_comes_with_the_requests_that_it_names() -> None:
    founders = Founders.of(NAMES)
    sent = founders.requests()
    entry = founders.entry(sent)
    opened = open_charter(bind_charter(entry, reversed(sent)))
    assert list(opened.requests) == sorted(NAMES)
    assert opened.federation == "rivers"
    other = asks("sueden", member_keys("sueden"))
    for requests in ([*sent[:2], other], sent[:2], [*sent, other], [*sent, sent[0]]):
        with refused(RuleError, "accepted-request-differs"):
            open_charter(bind_charter(entry, requests))
    forged = sent[2].model_copy(update={"transport_proof": sent[0].transport_proof})
    with refused(VerificationError, "possession-not-proven"):
        open_charter(bind_charter(entry, [*sent[:2], forged]))


def test_a_charter_in_which_two_founders_have_one_key_is_refused_by_each() -> None:
    founders = Founders.of(NAMES)
    keys = dict(founders.keys["ostrava"]) | {"root": founders.keys["sueden"]["root"]}
    sent = [*founders.requests()[::2], asks("ostrava", keys)]
    with refused(RuleError, "key-taken", match="sueden"):
        founders.charter(sent)


def test_a_changed_charter_does_not_open() -> None:
    founders = Founders.of(NAMES)
    sent = founders.requests()
    for entry in (
        founders.entry(sent).replace(b'"sig":"', b'"sig":"A', 1),
        founders.accept(founders.charter(sent), "sueden"),
        b"{}",
    ):
        with pytest.raises(TapestryError):
            open_charter(bind_charter(entry, sent))


@pytest.mark.parametrize("number", [2, 16, 128])
def test_each_of_up_to_128_members_can_accept(number: int) -> None:
    founders = Founders.of(
        [f"{'institution':_<48}{n:03}".replace("_", "-") for n in range(number)]
    )
    document = bind_charter(founders.entry(sent := founders.requests()), sent).encode()
    assert len(document) < MAX_CHARTER_BYTES
    charter = open_charter(CharterFile.decode(document, limit=MAX_CHARTER_BYTES))
    accepted = [founders.accept(charter, name) for name in founders.keys]
    assert max(map(len, [charter.entry, *accepted])) < MAX_BYTES
    state = apply_all(None, [charter.entry, *accepted])
    assert state is not None
    assert state.is_founded
    assert len(state.members) == number


def _terms(authority: str) -> InvitationTerms:
    return InvitationTerms(
        federation="rivers",
        log=LOG,
        coordinator=LEADER.key,
        address="rivers.example:443",
        authority=authority,
        workload="language",
        base="tiny",
        policy=World().policy(),
    )


def test_an_invitation_is_signed_by_the_keys_that_it_names(authority: str) -> None:
    log, author = (
        SigningKey.generate(name) for name in ("x/log", "coordinator/author")
    )
    keys = {"log": str(log.verify_key), "coordinator": str(author.verify_key)}
    terms = _terms(authority).model_copy(update=keys)
    made = invite(terms, log=log, author=author)
    check_invitation(Invitation.decode(made.encode()))
    for changes in (
        {"terms": terms.model_copy(update={"address": "elsewhere.example:443"})},
        {"log": made.coordinator},
        {"coordinator": made.log},
        {"log": made.coordinator, "coordinator": made.log},
    ):
        with refused(VerificationError, "signature-invalid"):
            check_invitation(made.model_copy(update=changes))


@pytest.mark.parametrize("text", ["", "no certificate", "ü"])
def test_an_invitation_holds_a_certificate(text: str) -> None:
    log, author = (
        SigningKey.generate(name) for name in ("x/log", "coordinator/author")
    )
    keys = {"log": str(log.verify_key), "coordinator": str(author.verify_key)}
    terms = _terms(text).model_copy(update=keys)
    with refused(VerificationError, "authority-invalid"):
        check_invitation(invite(terms, log=log, author=author))


@pytest.fixture(scope="module")
def authority() -> str:
    from tapestry_coordinator.superlink.tls import make_authority

    return make_authority(SigningKey.generate("rivers/authority")).decode("ascii")


def _written(folder: Path, what: str) -> Path:
    path = folder / "file"
    good = asks("sueden", member_keys("sueden")).encode()
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what != "missing":
        contents = {
            "empty": b"",
            "garbage": bytes(range(256)),
            "truncated": good[:-20],
            "spaced": good.replace(b":", b": ", 1),
            "another kind": good.replace(b"request/1", b"charter/1", 1),
            "a later version": good.replace(b"request/1", b"request/2", 1),
            "too large": b"[" + b"1," * MAX_CHARTER_BYTES + b"1]",
        }
        path.write_bytes(contents[what])
    return path


@pytest.mark.parametrize(
    "what",
    [
        *("missing", "fifo", "folder", "empty", "garbage", "truncated", "spaced"),
        *("another kind", "a later version", "too large"),
    ],
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path, what: str) -> None:
    path = _written(tmp_path, what)
    kind = ConfigError if what == "missing" else VerificationError
    for model in (Invitation, RequestFile, CharterFile):
        with pytest.raises(kind, match="file") as caught:
            read_document(path, model)
        assert "\n" not in str(caught.value)
    with pytest.raises(kind, match="file"):
        read_acceptance(path)


def test_an_acceptance_is_no_other_entry(tmp_path: Path) -> None:
    founders = Founders.of(NAMES)
    charter = founders.charter(founders.requests())
    path = tmp_path / "x.acceptance"
    path.write_bytes(founders.accept(charter, "sueden"))
    assert read_acceptance(path).event.actor == "sueden"
    path.write_bytes(charter.entry)
    with refused(VerificationError, "acceptance-malformed", match="charter.adopted"):
        read_acceptance(path)


def test_a_charter_file_holds_its_entry_in_base64() -> None:
    founders = Founders.of(NAMES)
    sent = founders.requests()
    data = bind_charter(founders.entry(sent), sent).encode()
    with pytest.raises(ProtocolError):
        CharterFile.decode(data.replace(b'"entry":"eyJ', b'"entry":"%%%'))
