"""A federation is founded by files: the road, and each way to be led off it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tapestry.encoding import encode_base64
from tapestry.encrypted_keys import load_key
from tapestry.errors import RuleError
from tapestry.keys import SigningKey
from tapestry.protocol.messages import (
    CosignReply,
    CosignRequest,
    decode_body,
    encode_message,
)
from tapestry.tlog.checkpoint import read_claim
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry.workloads.workload_registry import open_workload
from tapestry_governance.founding import CharterTerms, accept_charter, fingerprint
from tapestry_governance.founding_files import (
    CharterFile,
    Invitation,
    OpenedCharter,
    RequestFile,
    bind_charter,
    open_charter,
)
from tapestry_governance.log.writer import Log
from tapestry_governance.rules.replay import apply_all
from tapestry_node.node import Node
from tests.support.commands import tapestry
from tests.support.founders import NOW, Founders, asks, member_keys
from tests.support.founding_place import (
    NAMES,
    PASSPHRASE,
    Place,
    ok,
    refuses,
)
from tests.support.refusals import refused

pytestmark = pytest.mark.slow

FILES = dict[str, tuple[bytes, int]]


def _charter(place: Place) -> OpenedCharter:
    return open_charter(CharterFile.decode(place.charter.read_bytes()))


def _root(place: Place, name: str) -> SigningKey:
    return load_key(place.node(name) / "keys" / "root.key", passphrase=PASSPHRASE)


def _keys(place: Place, name: str) -> dict[str, SigningKey]:
    keys = place.node(name) / "keys"
    own = {
        purpose: SigningKey.load(keys / f"{purpose}.key")
        for purpose in ("node", "witness", "community")
    }
    return own | {"root": _root(place, name)}


# The road


def test_nodes_cosign_the_log_that_they_founded(founded: Place) -> None:
    key = SigningKey.load(founded.coordinator / "keys" / "log.key")
    with Log.open(founded.coordinator / "log", key=key) as log:
        entries = log.entries(0, log.size)
        state = apply_all(None, entries)
        assert state is not None
        assert state.is_founded
        assert set(state.members) == set(NAMES)
        trust = TrustPolicy.parse(
            (founded.coordinator / "trust-policy.txt").read_bytes()
        )
        signed = log.sign_checkpoint()
        request = CosignRequest(start=0, checkpoint=signed.decode(), cosigned=())
        workload = open_workload("language", "tiny")
        for name in NAMES:
            node = Node(founded.node(name), workload=workload)
            reply = node.handle(encode_message(request, entries))
            node.close()
            cosigned = decode_body(reply)
            assert isinstance(cosigned, CosignReply), reply
            (line,) = cosigned.lines
            log.add_cosignature(log.size, line.encode(), trust=trust)
        public = log.publish(trust=trust)
    assert read_claim(public) == read_claim(signed)
    for name in NAMES:
        public_key = (founded.node(name) / "keys" / "transport.pub").read_bytes()
        enrolled = founded.coordinator / "enrolled" / f"{name}.pub"
        assert enrolled.read_bytes() == public_key


def test_keys_are_closed_to_others_and_no_secret_travels(founded: Place) -> None:
    files = founded.files()
    folders = [founded.coordinator, *map(founded.node, NAMES)]
    seeds = [
        load_key(path, passphrase=PASSPHRASE).seed
        for folder in folders
        for path in (folder / "keys").glob("*.key")
    ]
    assert len(seeds) == 3 + 4 * len(NAMES)
    for folder in folders:
        assert (folder / "keys").stat().st_mode & 0o777 == 0o700
    secret = {
        name for name in files if "/keys/" in name and not name.endswith(".pub")
    } | {"rivers/tls/superlink.key", "pass/phrase"}
    assert {files[name][1] for name in secret} == {0o600}
    patterns = [PASSPHRASE.encode(), b"PRIVATE"]
    patterns += [form for seed in seeds for form in (seed, seed.hex().encode())]
    patterns += [encode_base64(seed).rstrip("=")[:-1].encode() for seed in seeds]
    for name in files.keys() - secret:
        assert not any(each in files[name][0] for each in patterns), name
    locked = [name for name in secret if name.endswith(("root.key", "authority.key"))]
    assert len(locked) == 4
    for name in locked:
        assert not any(each in files[name][0] for each in patterns), name


def _said(place: Place, name: str) -> list[str]:
    return ok(place.accept(name)).stdout.splitlines()


def test_accept_says_in_which_rules_the_node_differs(chartered: Place) -> None:
    path = chartered.node("sueden") / "node.toml"
    assert "policy differs from node.toml in: nothing" in _said(chartered, "sueden")
    text = path.read_text("utf-8")
    for mine, other in (
        ("min_cohort = 3", "min_cohort = 4"),
        ("epsilon_limit = 8", "epsilon_limit = 2.5"),
    ):
        assert text.count(f"\n{mine}\n") == 1
        text = text.replace(f"\n{mine}\n", f"\n{other}\n")
    path.write_text(text, "utf-8")
    said = _said(chartered, "sueden")
    at = said.index("policy differs from node.toml in:")
    assert said[at + 1 : at + 3] == [
        "  min_cohort 4, the charter's min_cohort 3",
        "  epsilon_limit 2.5, the charter's epsilon_cap 8",
    ]


# The root key on a machine of its own


@pytest.fixture
def offline(with_requests: Place, tmp_path: Path) -> Place:
    """A place where sueden's root key was made in ``vault``; the charter is there."""
    place = with_requests.copy(tmp_path / "place")
    shutil.rmtree(place.node("sueden"))
    vault = place.root / "vault"
    vault.mkdir()
    phrase = ("--passphrase-file", place.passphrase)
    ok(tapestry("governance", "key", vault / "root.key", "--name", "sueden", *phrase))
    ok(place.node_init("sueden", "--root", vault / "root.pub"))
    ok(place.write_charter())
    return place


def _accept_offline(place: Place, request: Path, *more: object) -> list[object]:
    return [
        *("governance", "accept", place.charter, "--request", request),
        *("--key", place.root / "vault" / "root.key"),
        *("--fingerprint", place.fingerprint(), "--heard", "nordland"),
        *("--heard", "ostrava", "--passphrase-file", place.passphrase, *more),
    ]


def test_a_root_key_may_stay_offline(offline: Place) -> None:
    keys = offline.node("sueden") / "keys"
    accepted = offline.acceptance("sueden")
    request = offline.request("sueden")
    said = refuses(offline.accept("sueden"), 3, "key-missing")
    assert "node join" in said
    ok(tapestry(*_accept_offline(offline, request, "--output", accepted)))
    typed = ("--fingerprint", offline.fingerprint())
    ok(tapestry("node", "join", offline.node("sueden"), offline.charter, *typed))
    for name in ("nordland", "ostrava"):
        ok(offline.accept(name))
    ok(offline.open())
    assert not (keys / "root.key").exists()
    joined = (offline.node("sueden") / "node.toml").read_text("utf-8")
    assert joined.startswith(f'genesis = "{_charter(offline).genesis}"\n')
    ok(offline.node_init("sueden", "--root", offline.root / "vault" / "root.pub"))
    assert not (keys / "root.key").exists()


def test_init_makes_no_second_root_key(offline: Place) -> None:
    before = offline.files()
    refuses(offline.node_init("sueden"), 3, "key-missing")
    public = offline.root / "other.pub"
    public.write_text(f"{member_keys('nordland')['root'].verify_key}\n", "ascii")
    said = refuses(
        offline.node_init("nordland", "--root", public), 64, "setting-differs"
    )
    assert "one root key" in said
    public.unlink()
    assert offline.files() == before


def test_a_root_key_is_of_the_institution_that_names_it(requested: Place) -> None:
    shutil.rmtree(requested.node("sueden"))
    public = requested.root / "other.pub"
    keys = member_keys("ostrava")
    for text in (
        str(keys["root"].verify_key),
        str(member_keys("sueden")["witness"].verify_key),
        "no key",
        "ü",
        "",
    ):
        public.write_text(text, "utf-8")
        refuses(requested.node_init("sueden", "--root", public), 64, "key-file-invalid")
    assert not requested.node("sueden").exists()


def test_an_offline_root_key_signs_for_no_swapped_keys(offline: Place) -> None:
    request = offline.root / "vault" / "sueden.request"
    shutil.copy(offline.request("sueden"), request)
    root = load_key(offline.root / "vault" / "root.key", passphrase=PASSPHRASE)
    _swap(offline, "sueden", member_keys("sueden") | {"root": root})
    result = tapestry(*_accept_offline(offline, request))
    refuses(result, 2, "accepted-request-differs")
    assert not list(offline.root.rglob("*.acceptance"))
    words = [str(each) for each in _accept_offline(offline, request)]
    at = words.index("--request")
    refuses(tapestry(*words[:at], *words[at + 2 :]), 64, "usage")


# The fingerprint and its readers


def test_another_fingerprint_is_refused_and_the_right_one_not_told(
    chartered: Place,
) -> None:
    before, right = chartered.files(), chartered.fingerprint()
    flipped = "A" if right[-1] != "A" else "B"
    other = fingerprint("sha256:" + "0" * 64)
    for typed in (right[:-1] + flipped, right[:-1], right + "A", other, "ü", "-"):
        node = chartered.node("sueden")
        joined = tapestry(
            *("node", "join", node, chartered.charter, "--fingerprint", typed)
        )
        for result in (chartered.accept("sueden", typed=typed), joined):
            refuses(result, 2, "fingerprint-differs")
            said = (result.stdout + result.stderr).replace("-", "")
            assert right.replace("-", "") not in said
            assert right[:4] not in result.stderr
    refuses(
        tapestry("node", "join", chartered.node("sueden"), chartered.charter),
        *(64, "fingerprint-missing"),
    )
    assert chartered.files() == before


def test_case_and_dashes_of_a_fingerprint_do_not_matter(chartered: Place) -> None:
    typed = chartered.fingerprint().lower().replace("-", " ")
    ok(chartered.accept("sueden", typed=typed))


@pytest.mark.parametrize(
    ("heard", "code"),
    [
        (["nordland"], "readers-too-few"),
        (["nordland", "nordland"], "readers-too-few"),
        (["nordland", "frankreich"], "reader-unknown"),
        (["nordland", "sueden"], "reader-unknown"),  # oneself
        (["nordland", "No Name"], "reader-unknown"),
        (["nordland", "coordinator"], "reader-unknown"),
    ],
    ids=str,
)
def test_readers_are_two_other_founders(
    chartered: Place, heard: list[str], code: str
) -> None:
    before = chartered.files()
    refuses(chartered.accept("sueden", heard=heard), 2, code)
    assert chartered.files() == before


# Requests


def _send(place: Place, file: RequestFile) -> Path:
    path = place.root / f"{len(list(place.root.iterdir()))}.request"
    path.write_bytes(file.encode())
    return path


def _forged(place: Place, what: str) -> list[RequestFile]:
    """Requests in which one is not as its institution could have made it."""
    sent = {n: RequestFile.decode(place.request(n).read_bytes()) for n in NAMES}
    good, own = [sent["nordland"], sent["ostrava"]], sent["sueden"]
    stranger = member_keys("sueden")
    if what.startswith("key "):
        purpose = what.removeprefix("key ")
        stranger[purpose] = _keys(place, "nordland")[purpose]
        return [*good, asks("sueden", stranger)]
    if what.startswith("proof "):
        purpose = what.removeprefix("proof ")
        other = getattr(sent["ostrava"].possession, purpose)
        possession = own.possession.model_copy(update={purpose: other})
        return [*good, own.model_copy(update={"possession": possession})]
    made: dict[str, Callable[[], RequestFile]] = {
        "another federation": lambda: asks("sueden", stranger, federation="lakes"),
        "one name": lambda: asks("ostrava", stranger),
        "transport proof": lambda: own.model_copy(
            update={"transport_proof": sent["ostrava"].transport_proof}
        ),
        "the coordinator's name": lambda: asks("coordinator", stranger),
    }
    return [*good, made[what]()]


@pytest.mark.parametrize(
    ("what", "status", "code"),
    [
        *(
            (f"key {p}", 2, "key-taken")
            for p in ("root", "node", "witness", "community")
        ),
        *(
            (f"proof {p}", 1, "possession-not-proven")
            for p in ("node", "witness", "community")
        ),
        ("transport proof", 1, "possession-not-proven"),
        ("another federation", 2, "federation-differs"),
        ("one name", 2, "key-taken"),
        ("the coordinator's name", 2, "key-taken"),
    ],
)
def test_a_forged_request_is_in_no_charter(
    requested: Place, what: str, status: int, code: str
) -> None:
    paths = [_send(requested, each) for each in _forged(requested, what)]
    said = refuses(requested.write_charter(paths), status, code)
    if code == "key-taken":
        kind = what.removeprefix("key ")
        assert f"the {'name' if 'name' in kind else kind + ' key'} of '" in said
        named = [path for path in paths if f"in {path}" in said]
        assert len(named) == (1 if "coordinator" in what else 2), said
    assert not requested.charter.exists()


def test_too_few_institutions_found_nothing(requested: Place) -> None:
    few = [requested.request(name) for name in NAMES[:2]]
    refuses(requested.write_charter(few), 2, "founders-too-few")
    words = ("coordinator", "charter", requested.coordinator)
    refuses(tapestry(*words), 64, "usage")
    assert not requested.charter.exists()


# The charter that a coordinator sends


def _swap(place: Place, name: str, keys: dict[str, SigningKey]) -> None:
    """Put a request with other keys into the charter, signed by each of them."""
    known = _charter(place)
    sent = {**known.requests, name: asks(name, keys)}
    founders = Founders(
        keys={},
        log=SigningKey.load(place.coordinator / "keys" / "log.key"),
        author=SigningKey.load(place.coordinator / "keys" / "author.key"),
    )
    ordered = [sent[each] for each in sorted(sent)]
    entry = founders.entry(ordered, terms=CharterTerms.of(known))
    place.charter.write_bytes(bind_charter(entry, ordered).encode())


def _refuse_both(place: Place, status: int, code: str) -> str:
    """Accept and join for sueden, which both refuse and write nothing."""
    before = place.files()
    words = ("node", "join", place.node("sueden"), place.charter)
    said = refuses(tapestry(*words, "--fingerprint", place.fingerprint()), status, code)
    assert refuses(place.accept("sueden"), status, code) == said
    assert place.files() == before
    return said


def test_swapped_keys_are_refused_by_their_institution(chartered: Place) -> None:
    _swap(chartered, "sueden", member_keys("sueden"))
    assert "'sueden'" in _refuse_both(chartered, 2, "accepted-request-differs")


def test_a_charter_without_the_institution_is_refused(chartered: Place) -> None:
    known = _charter(chartered)
    founders = Founders.of(["alpha", "beta", "gamma"])
    other = founders.requests()
    entry = founders.entry(other, terms=CharterTerms.of(known))
    chartered.charter.write_bytes(bind_charter(entry, other).encode())
    said = refuses(chartered.accept("sueden"), 2, "founder-missing")
    assert "alpha, beta, gamma" in said
    words = ("node", "join", chartered.node("sueden"), chartered.charter)
    joined = tapestry(*words, "--fingerprint", chartered.fingerprint())
    refuses(joined, 2, "invitation-differs")  # it could be a later member of this one


@pytest.mark.parametrize(
    "what", ["address", "authority", "log key", "coordinator", "federation"]
)
def test_terms_other_than_the_invitations_are_refused_by_name(
    chartered: Place, what: str
) -> None:
    path = chartered.node("sueden") / "sueden.invite"
    known = Invitation.decode(path.read_bytes())
    changes = {
        "address": {"address": "other.example:443"},
        "authority": {"authority": known.terms.authority + "\n"},
        "log key": {"log": str(SigningKey.generate("rivers.example/log").verify_key)},
        "coordinator": {
            "coordinator": str(SigningKey.generate("coordinator/author").verify_key)
        },
        "federation": {"federation": "lakes"},
    }
    terms = known.terms.model_copy(update=changes[what])
    path.write_bytes(known.model_copy(update={"terms": terms}).encode())
    said = _refuse_both(chartered, 2, "invitation-differs")
    assert f"another {what} than the invitation" in said


@pytest.mark.parametrize("purpose", ["node", "witness", "community", "transport"])
def test_a_folder_with_other_keys_than_it_sent_accepts_nothing(
    chartered: Place, purpose: str
) -> None:
    keys = (chartered.node("sueden") / "keys", chartered.node("ostrava") / "keys")
    file = "transport" if purpose == "transport" else f"{purpose}.key"
    shutil.copy(keys[1] / file, keys[0] / file)
    assert f"the {purpose} key" in _refuse_both(chartered, 2, "own-key-differs")


# Acceptances


def test_an_acceptance_of_another_charter_opens_nothing(chartered: Place) -> None:
    for name in NAMES:
        ok(chartered.accept(name))
    policy = chartered.coordinator / "policy.toml"
    changed = policy.read_text("utf-8").replace("epsilon_cap = 8", "epsilon_cap = 9")
    policy.write_text(changed, "utf-8")
    before = chartered.fingerprint()
    assert "no longer count" in ok(chartered.write_charter()).stdout
    assert chartered.fingerprint() != before
    assert "replaced" not in ok(chartered.write_charter()).stdout
    refuses(chartered.open(), 2, "accepted-charter-differs")
    assert not (chartered.coordinator / "log").exists()
    for name in NAMES:
        said = ok(chartered.accept(name)).stdout
        differs = "from the invitation in:\n  epsilon_cap 8, the charter's 9\naccept"
        assert differs in said
    ok(chartered.open())


def test_each_missing_acceptance_is_named(chartered: Place) -> None:
    ok(chartered.accept("ostrava"))
    before = chartered.files()
    said = refuses(
        chartered.open([chartered.acceptance("ostrava")]), 3, "acceptance-missing"
    )
    assert "nordland, sueden" in said
    assert chartered.files() == before


def test_an_acceptance_is_signed_by_the_root_key_and_counts_once(
    chartered: Place,
) -> None:
    charter = _charter(chartered)
    for name in NAMES:
        ok(chartered.accept(name))
    good = [chartered.acceptance(name) for name in NAMES]
    others = set(NAMES) - {"sueden"}
    by_another, again = chartered.root / "a", chartered.root / "b"
    for path, key in (
        (by_another, _keys(chartered, "sueden")["node"]),
        (again, _root(chartered, "sueden")),
    ):
        entry = accept_charter(
            charter.entry,
            charter.requests["sueden"],
            root=key,
            readers=others,
            now=NOW,
        )
        path.write_bytes(entry)
    refuses(chartered.open([*good[:2], by_another]), 2, "signature-missing")
    refuses(chartered.open([*good, again]), 2, "charter-accepted-twice")
    assert not (chartered.coordinator / "log").exists()
    ok(chartered.open([*good, good[0]]))


def test_groups_that_nobody_joins_open_nothing() -> None:
    names = [*("a", "b", "c"), *("x", "y", "z")]
    founders = Founders.of(names)
    charter = founders.charter(founders.requests())
    entries = [
        founders.accept(charter, name, [n for n in group if n != name])
        for group in (names[:3], names[3:])
        for name in group
    ]
    with refused(RuleError, "readers-not-connected"):
        apply_all(None, [charter.entry, *entries])
