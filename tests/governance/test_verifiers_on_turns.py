"""Three verifiers follow a log from its founding, over each turn, and agree."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tapestry.keys import Algorithm, SigningKey
from tapestry.tlog import note
from tapestry.tlog.trust_policy import TrustPolicy, witness_quorum
from tapestry_governance.audit.bundle import write_manifest
from tapestry_governance.audit.verify import AuditVerdict, verify
from tapestry_governance.events.federation_events import OutsideWitness
from tapestry_governance.events.member_events import Removal
from tests.governance.audit.test_turn_audit import NEW
from tests.support.audit_bundles import bundle_of
from tests.support.cosigning import signing_key
from tests.support.log_world import NAMES, World
from tests.support.other_verifiers import SOURCES, refusal
from tests.support.proposals import new_coordinator, new_key

PAGE = SOURCES / "README.md"
RENEWED, ADMITTED, LED, REMOVED, LED_AGAIN, OUTSIDE, INSIDE = range(7)  # the turns


class Steps:
    """A log whose witnesses and coordinator changed, and what an auditor has of it.

    The turns: another key of a witness; a member comes; another coordinator; a member
    goes; another coordinator and key of a witness; a witness comes that is no member,
    and goes.
    """

    def __init__(self) -> None:
        self.world = world = World().adopt()
        self.own = world.trust.encode()  # the bundle's
        self.policies = [self.own]  # the auditor's
        self.log_keys = [world.log_key]
        self.sizes: list[int] = []
        self.turns: dict[int, bytes] = {}
        world.add(world.declaration("de"), "de", "node")
        world.rotate("id", "witness")
        world.keys["id", "witness"] = world.keys["id", "witness'"]
        self._turn("de", "es", "fr")
        world.decide(world.invent(NEW))
        self._turn("de", "es", "fr", NEW)
        self._replace_coordinator("rivers")
        self._turn("de", "es", "fr", "id")
        world.decide(Removal(kind="remove", member="de"), "es", "fr", "id", NEW)
        self._turn("es", "fr", "id", NEW)
        self._replace_coordinator("lakes")
        world.rotate("fr", "witness")
        world.keys["fr again", "witness"] = world.keys["fr", "witness'"]
        self._turn("es", "fr again", "id", NEW)
        key = self.add_witness("archive").verify_key
        url = "https://archive.example/w"
        outside = OutsideWitness(name="archive", key=str(key), url=url)
        world.change_policy(witnesses=(outside,), outside_quorum=1)
        self._turn("es", "id", NEW, "archive")
        world.change_policy()
        self._turn("es", "fr again", NEW, "archive")
        world.add(world.declaration(NEW), NEW, "node")
        self.newest = self.note("es", "fr again", NEW)

    def note(
        self, *names: str, at: int | None = None, size: int | None = None, by: int = -1
    ) -> bytes:
        """Sign the log at a turn, of a size or as it is, by one of its coordinators."""
        self.world.log_key = self.log_keys[by]
        size = size if at is None else self.sizes[at]
        return self.world.note(self.world.entries[:size], witnesses=names)

    def put(self, at: int, *names: str, by: int) -> None:
        """Put other lines under the checkpoint of a turn."""
        self.turns[self.sizes[at]] = self.note(*names, at=at, by=by)

    def add_witness(self, name: str) -> SigningKey:
        key = signing_key(f"{name}.example/w", Algorithm.COSIGNATURE)
        self.world.keys[name, "witness"] = key
        return key

    def write(self, folder: Path) -> Path:
        """Write the bundle and, beside it, the policies."""
        bundle = bundle_of(self.world, folder, note=self.newest).folder
        (bundle / "trust-policy.txt").write_bytes(self.own)
        for size, turn in self.turns.items():
            (bundle / "turns").mkdir(exist_ok=True)
            (bundle / "turns" / str(size)).write_bytes(turn)
        write_manifest(bundle)
        for number, policy in enumerate(self.policies):
            (folder / f"{number}.txt").write_bytes(policy)
        return bundle

    def _turn(self, *names: str) -> None:
        by = ("es", "id")[len(self.sizes) % 2]
        self.world.add(self.world.declaration(by), by, "node")
        self.sizes.append(len(self.world.entries))
        self.policies.append(self.world.folded.trust.encode())
        self.put(-1, *names, by=-1)

    def _replace_coordinator(self, name: str) -> None:
        origin = self.world.log_key.name
        seed = hashlib.sha256(f"{name}/log".encode()).digest()
        key = SigningKey(name=origin, algorithm=Algorithm.SIGNATURE, seed=seed)
        author, log = str(new_key(name).verify_key), str(key.verify_key)
        self.world.decide(new_coordinator(self.world, name=name, key=author, log=log))
        self.log_keys.append(key)


Refusals = tuple[str | None, str | None, str | None]
Ask = Callable[[Steps], Refusals]
Change = Callable[[Steps], None]


@pytest.fixture
def ask(go_verifier: Path, node: str, tmp_path: Path) -> Ask:
    """Return why Python, Go and JavaScript refuse a bundle; None where all holds.

    Python is asked with each of the policies, as auditors who trust one of them.
    """

    def ask(steps: Steps) -> Refusals:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        bundle = steps.write(folder)
        files = [str(folder / f"{n}.txt") for n in range(len(steps.policies))]
        flags = [word for file in files for word in ("-trust", file)]
        audits = (verify(bundle, trust=policy) for policy in steps.policies)
        failed = (a for a in audits if a.verdict is not AuditVerdict.HOLDS)
        return (
            next((audit.steps[-1].code for audit in failed), None),
            refusal([str(go_verifier), "-dir", str(bundle), *flags]),
            refusal([node, str(SOURCES / "verify.mjs"), str(bundle), "trust", *files]),
        )

    return ask


def as_it_is(_: Steps) -> None:
    """Seven turns, and entries after them."""


def a_turn_less_where_both_ends_can_do_without(steps: Steps) -> None:
    del steps.turns[steps.sizes[LED]], steps.policies[LED + 1]


def the_newest_is_the_last_turn(steps: Steps) -> None:
    steps.newest = steps.turns[steps.sizes[INSIDE]]
    del steps.world.entries[steps.sizes[INSIDE] :]


def the_newest_is_a_turn_without_a_file(steps: Steps) -> None:
    steps.newest = steps.turns.pop(steps.sizes[INSIDE])
    del steps.world.entries[steps.sizes[INSIDE] :]


def a_turn_with_the_line_of_who_left(steps: Steps) -> None:
    steps.put(REMOVED, "es", "fr", "id", NEW, "de", by=1)


def no_turn_yet(steps: Steps) -> None:
    steps.world = World().found()
    steps.turns, steps.newest = {}, steps.world.note()
    del steps.policies[1:]


HOLDING = [
    as_it_is,
    a_turn_less_where_both_ends_can_do_without,
    the_newest_is_the_last_turn,
    the_newest_is_a_turn_without_a_file,
    a_turn_with_the_line_of_who_left,
    no_turn_yet,
]


@pytest.mark.slow
@pytest.mark.parametrize("change", HOLDING)
def test_all_follow_a_log_over_its_turns(ask: Ask, change: Change) -> None:
    steps = Steps()
    change(steps)
    assert ask(steps) == (None, None, None)


def a_log_key_without_the_old_quorum(steps: Steps) -> None:
    steps.put(LED_AGAIN, "es", "fr again", "id", by=2)


def a_log_key_with_the_old_quorum_alone(steps: Steps) -> None:
    steps.put(LED_AGAIN, "es", "id", "fr", by=2)


def a_turn_without_the_outside_witness(steps: Steps) -> None:
    steps.put(OUTSIDE, "es", "fr again", "id", NEW, by=2)


def a_turn_without_the_former_outside_witness(steps: Steps) -> None:
    steps.put(INSIDE, "es", "fr again", "id", NEW, by=2)


def a_turn_without_a_cosignature(steps: Steps) -> None:
    steps.put(LED, by=1)


def a_turn_with_a_line_twice(steps: Steps) -> None:
    steps.put(REMOVED, "es", "fr", "id", NEW, "de", "de", by=1)


def a_turn_with_the_former_first(steps: Steps) -> None:
    steps.put(REMOVED, "de", "es", "fr", "id", NEW, by=1)


def a_turn_by_the_former_coordinator(steps: Steps) -> None:
    steps.put(LED, "de", "es", "fr", "id", by=0)


def a_turn_by_both_coordinators(steps: Steps) -> None:
    own, former = (steps.note(at=LED, by=by) for by in (1, 0))
    cosigned = steps.turns[steps.sizes[LED]].removeprefix(own)
    steps.turns[steps.sizes[LED]] = own + former.splitlines(True)[-1] + cosigned


def a_later_checkpoint_by_a_former_coordinator(steps: Steps) -> None:
    steps.newest = steps.note("es", "fr again", NEW, by=1)


def a_later_checkpoint_by_a_former_quorum(steps: Steps) -> None:
    steps.newest = steps.note("es", "fr", "id")


def a_later_checkpoint_by_all_of_before(steps: Steps) -> None:
    steps.newest = steps.note("de", "es", "fr", "id", by=1)


def a_turn_skipped(steps: Steps) -> None:
    del steps.turns[steps.sizes[REMOVED]]


def a_turn_skipped_with_its_policy(steps: Steps) -> None:
    del steps.turns[steps.sizes[REMOVED]], steps.policies[REMOVED + 1]


def two_turns_in_each_others_place(steps: Steps) -> None:
    a, b = steps.sizes[REMOVED], steps.sizes[LED_AGAIN]
    steps.turns |= {a: steps.turns[b], b: steps.turns[a]}


def an_older_policy_put_back(steps: Steps) -> None:
    steps.own = steps.policies[1]


def the_newest_policy_as_that_of_the_founding(steps: Steps) -> None:
    steps.own = steps.policies[-1]


def a_turn_under_another_size(steps: Steps) -> None:
    size = steps.sizes[REMOVED]
    steps.turns[size + 1] = steps.turns.pop(size)


def a_turn_of_another_history(steps: Steps) -> None:
    place, entries = steps.sizes[REMOVED] - 1, steps.world.entries
    kept, entries[place] = entries[place], entries[place + 1]
    steps.put(REMOVED, "es", "fr", "id", NEW, by=1)
    entries[place] = kept


def a_file_that_is_no_turn(steps: Steps) -> None:
    size = steps.sizes[REMOVED] + 1
    steps.turns[size] = steps.note("es", "fr", "id", NEW, size=size, by=1)


def a_log_of_another_name(steps: Steps) -> None:
    """By a key that stands in the log, as those of all members do."""
    steps.log_keys.append(steps.world.keys["fr", "root"])
    own, other = (str(key.verify_key).encode() for key in steps.log_keys[-2:])
    steps.policies[-1] = steps.policies[-1].replace(own, other)
    steps.put(INSIDE, "es", "fr again", NEW, "archive", by=-1)
    steps.newest = steps.note("es", "fr again", NEW)


def a_policy_that_the_log_never_named(steps: Steps) -> None:
    """Who writes a bundle can add own lines under a checkpoint that others cosigned."""
    names = ("aa", "bb", "cc", "dd")
    own = [steps.add_witness(name).verify_key for name in names]
    thief = SigningKey.generate(steps.log_keys[0].name)
    steps.log_keys.append(thief)
    steps.policies.append(TrustPolicy.of_members(thief.verify_key, own).encode())
    steps.newest = steps.note(*names, "es", "fr again", NEW)
    steps.turns[len(steps.world.entries)] = steps.newest


QUORUM = r"turns/\d+: under \d of \d cosignatures|quorum with \d cosignatures"
LINES = "is not in its place|that are of none of these keys|place of the line of"
OWN = "the bundle's trust-policy.txt"
REFUSED: list[tuple[Change, str, str]] = [
    (a_log_key_without_the_old_quorum, "quorum-not-reached", QUORUM),
    (a_log_key_with_the_old_quorum_alone, "quorum-not-reached", QUORUM),
    (a_turn_without_the_outside_witness, "quorum-not-reached", QUORUM),
    (a_turn_without_the_former_outside_witness, "quorum-not-reached", QUORUM),
    (a_turn_without_a_cosignature, "quorum-not-reached", QUORUM),
    (a_turn_with_a_line_twice, "signature-duplicated", LINES),
    (a_turn_with_the_former_first, "checkpoint-respelled", LINES),
    (a_turn_by_the_former_coordinator, "log-signature-missing", LINES),
    (a_turn_by_both_coordinators, "checkpoint-respelled", LINES),
    (a_later_checkpoint_by_a_former_coordinator, "log-signature-missing", LINES),
    (a_later_checkpoint_by_a_former_quorum, "quorum-not-reached", LINES),
    (a_later_checkpoint_by_all_of_before, "log-signature-missing", LINES),
    (a_turn_skipped, "quorum-not-reached", LINES),
    (a_turn_skipped_with_its_policy, "quorum-not-reached", QUORUM),
    (two_turns_in_each_others_place, "turn-misplaced", LINES),
    (a_turn_under_another_size, "turn-misplaced", "is a checkpoint of size|size of"),
    (an_older_policy_put_back, "trust-policy-differs", OWN),
    (the_newest_policy_as_that_of_the_founding, "charter-log-untrusted", OWN),
    (a_turn_of_another_history, "log-forked", "under the root of size|root over"),
    (a_file_that_is_no_turn, "turn-misplaced", "8 policies with 8 turns"),
    (a_log_of_another_name, "log-signature-missing", "of another log|one name of"),
    (
        a_policy_that_the_log_never_named,
        "turn-misplaced",
        r"of the first \d+ (that )?na",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("change", "code", "reason"), REFUSED)
def test_all_refuse_a_log_whose_turns_do_not_lead_there(
    ask: Ask, change: Change, code: str, reason: str
) -> None:
    steps = Steps()
    change(steps)
    ours, *others = ask(steps)
    assert ours == code
    for each in others:
        assert re.search(reason, each or "nothing"), each


@pytest.mark.slow
@pytest.mark.parametrize("turn", [0, 6])
def test_all_refuse_a_policy_in_which_one_byte_is_another(ask: Ask, turn: int) -> None:
    """Not a byte of an address: Python alone reads in the log who lives where."""
    steps = Steps()
    policy = steps.policies[turn]
    ends = [at for at, byte in enumerate(policy) if byte == ord("\n")]
    starts = [0, *(at + 1 for at in ends[:-1])]
    places = {at + 18 for at in starts if at + 18 < len(policy)}  # in a key or name
    places |= {*ends, policy.index(b"members ") + len("members ")}
    for at in sorted(places):
        changed = bytearray(policy)
        changed[at] ^= 1
        steps.policies[turn] = bytes(changed)
        assert None not in ask(steps), (at, changed)
    steps.policies[turn] = policy
    assert ask(steps) == (None, None, None)


KEYS_OF_FOUNDERS: list[tuple[str, SigningKey | None, SigningKey | None]] = [
    ("none", None, None),
    (
        "a key under two names",
        None,
        SigningKey(
            name="other.example/w",
            algorithm=Algorithm.COSIGNATURE,
            seed=hashlib.sha256(b"de/witness").digest(),
        ),
    ),
    ("a witness that signs", None, signing_key("other.example/w")),
    (
        "a log that cosigns",
        signing_key("tapestry.example/log", Algorithm.COSIGNATURE),
        None,
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("what", "log", "more"), KEYS_OF_FOUNDERS)
def test_all_refuse_a_policy_with_a_key_twice_or_for_another_purpose(
    ask: Ask, what: str, log: SigningKey | None, more: SigningKey | None
) -> None:
    steps = Steps()
    no_turn_yet(steps)
    log = log or steps.log_keys[0]
    cosigners = [steps.world.keys[name, "witness"] for name in NAMES]
    cosigners += [more] if more else []
    names = " ".join(key.name for key in cosigners)
    steps.own = steps.policies[0] = "".join(
        [
            f"log {log.verify_key}\n",
            *(f"witness {key.name} {key.verify_key}\n" for key in cosigners),
            f"group members {witness_quorum(len(cosigners))} {names}\nquorum members\n",
        ]
    ).encode()
    text = str(steps.world.checkpoint())
    lines = [
        note.sign(text, key)
        if key.verify_key.algorithm is Algorithm.SIGNATURE
        else note.cosign(text, key, time=int(steps.world.now.timestamp()))
        for key in (log, *cosigners)
    ]
    steps.newest = note.Note(text=text, signatures=tuple(lines)).encode()
    ours, *others = ask(steps)
    if what == "none":
        assert (ours, *others) == (None, None, None)
    else:
        assert ours == "trust-policy-inconsistent"
        assert None not in others


CHAINS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "none": lambda _: [],
    "the founding's alone": lambda all_: all_[:1],
    "without the founding's": lambda all_: all_[1:],
    "without the newest": lambda all_: all_[:-1],
    "two in each other's place": lambda all_: [*all_[:2], all_[3], all_[2], *all_[4:]],
    "an older one in place of a newer": lambda all_: [*all_[:3], all_[1], *all_[4:]],
    "one twice": lambda all_: [*all_, all_[-1]],
    "one more": lambda all_: [*all_, all_[INSIDE]],
    "a comment": lambda all_: [*all_[:-1], all_[-1] + b"# by hand\n"],
    "a carriage return": lambda all_: [*all_[:-1], all_[-1].replace(b"\n", b"\r\n")],
}


@pytest.mark.slow
@pytest.mark.parametrize("ends_with_a_turn", [False, True])
@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_both_want_the_policy_of_each_turn_in_its_one_spelling(
    ask: Ask, chain: Callable[[list[bytes]], list[bytes]], ends_with_a_turn: bool
) -> None:
    """Python takes them from the log; the others believe who names them."""
    steps = Steps()
    if ends_with_a_turn:
        the_newest_is_the_last_turn(steps)
    steps.policies = chain(steps.policies)
    _, go, script = ask(steps)
    assert go is not None
    assert script is not None


@pytest.mark.slow
def test_the_lines_of_the_page_print_the_policies(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps()
    assert ask(steps) == (None, None, None)
    monkeypatch.chdir(tmp_path / "0")
    Path("founding.txt").write_bytes(steps.policies[0])
    (lines,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(lines, {})  # noqa: S102
    printed = [Path(f"{size}.txt").read_bytes() for size in steps.sizes]
    assert printed == steps.policies[1:]
