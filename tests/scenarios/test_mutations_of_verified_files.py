"""Every file that the product verifies, and every mutation of a list.

Verification fails, or what is loaded are the bytes that were digested. A federation is
made once; each case mutates one file of a copy. In CI a sample is drawn by a seed,
``-m slow`` runs all; the counts are printed.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tapestry.artifacts.model_writer import write_model
from tapestry.errors import TapestryError
from tapestry.tlog import tiles
from tapestry.tlog.proof import Proof
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry.workloads.language.workload import LanguageWorkload
from tapestry_governance import registry
from tapestry_governance.audit.bundle import MANIFEST, read_small, write_manifest
from tapestry_governance.audit.verify import AuditVerdict, verify
from tapestry_node.directory import open_mirror
from tapestry_node.settings import NodeSettings
from tests.fuzzing.draws import Draw
from tests.support.commands import tapestry
from tests.support.federation import Base, Federation
from tests.support.file_mutations import (
    CHANGES,
    HARMLESS,
    RESPELLINGS,
    Mutation,
    respelled,
)

SEED = int(os.environ.get("FUZZ_SEED", "11"))
EVERY = "**/*"
SAMPLE = 6  # of each kind of folder, in CI
STRAYS = ("x.json", "x.py", "x.txt", "x.safetensors", "x.entry", ".hidden", "empty/")
# Of these a cosignature beyond the quorum may be cut: what is left counts as well.
COSIGNED = ("checkpoint", "release.tlog-proof")


@pytest.fixture(scope="module")
def federation(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Two rounds, a release after each, an adapter of everybody, and the bundle."""
    directory = tmp_path_factory.mktemp("verified") / "federation"
    settings = {"rounds": 2, "release_every": 1, "adapters": True}
    made = Federation(directory, base, coordinator=settings)
    write_model(directory / "given", base.workload.given, card=None)
    made.run()
    made.approve()
    made.bundle()
    made.close()
    return made


class NotVerified(Exception):
    """A check says so by its verdict."""


def _require(holds: bool, said: str) -> None:
    if not holds:
        raise NotVerified(said)


def _bundle(federation: Federation, path: Path) -> str:
    trust = (federation.coordinator / "trust-policy.txt").read_bytes()
    audit = verify(path, trust=trust)
    _require(audit.verdict is AuditVerdict.HOLDS, audit.steps[-1].detail)
    return "holds"


def _sealed(federation: Federation, path: Path) -> str:
    """Whoever changes a bundle rewrites its list of files, which nobody signed."""
    try:
        write_manifest(path)
    except (OSError, ValueError) as error:
        raise NotVerified(str(error)) from None
    return _bundle(federation, path)


def _checked(*words: str) -> Callable[[Federation, Path], str]:
    def check(federation: Federation, path: Path) -> str:
        options = ["--bundle", federation.directory / "bundle"]
        options += ["--trust", federation.coordinator / "trust-policy.txt"]
        if words[0] == "adapter":
            options += ["--base", federation.coordinator / "releases" / "base-2"]
        said = tapestry(*words, path, *options)
        _require(said.exit_code == 0, said.stdout + said.stderr)
        return "holds"

    return check


def _given(federation: Federation, path: Path) -> str:
    """What is loaded has the digest of the folder, and that is in the policy."""
    digest = registry.read_base(path).digest
    assert LanguageWorkload.open(path).given.digest == digest
    _require(digest == federation.base.replica.digest, "not in the policy")
    return digest


def _log(federation: Federation, path: Path) -> list[bytes]:
    policy = TrustPolicy.parse(read_small(federation.coordinator / "trust-policy.txt"))
    checkpoint = policy.open_published(read_small(path / "checkpoint")).checkpoint
    return list(tiles.verify(path, checkpoint))


def _mirror(federation: Federation, path: Path) -> list[bytes]:
    settings = NodeSettings.read(federation.directory / "nodes" / "fr" / "node.toml")
    mirror = open_mirror(path, settings, readonly=True)
    try:
        assert mirror.accepted is not None
        return mirror.entries(0, mirror.accepted.checkpoint.size)
    finally:
        mirror.close()


def _proof(federation: Federation, path: Path) -> list[bytes]:
    """An entry with its proof, and no log: a trust policy is what the reader holds."""
    trust = TrustPolicy.parse(read_small(federation.coordinator / "trust-policy.txt"))
    entry = read_small(path / "release.entry")
    Proof.parse(read_small(path / "release.tlog-proof")).verify(entry, trust)
    return [entry]


def _policy(federation: Federation, path: Path) -> TrustPolicy:
    """A bundle holds under the policy that its members agreed on, and no other."""
    trust = read_small(path / "trust-policy.txt")
    audit = verify(federation.directory / "bundle", trust=trust)
    _require(audit.verdict is AuditVerdict.HOLDS, audit.steps[-1].detail)
    return TrustPolicy.parse(trust)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A folder that is verified, and what is loaded of it."""

    place: str  # in the federation's folder
    load: Callable[[Federation, Path], Any]
    files: str = EVERY  # that are mutated
    beside: str = "none"  # copied as it is
    loads_all: bool = True  # each file of it is read; otherwise one may be unused


FOLDERS = {
    "bundle": Verified(place="bundle", load=_bundle),
    "bundle with another list": Verified(place="bundle", load=_sealed),
    "release": Verified(
        place="coordinator/releases/base-2", load=_checked("release", "verify")
    ),
    "adapter": Verified(
        place="coordinator/adapters/fr", load=_checked("adapter", "verify")
    ),
    "given base": Verified(place="given", load=_given, loads_all=False),
    "published log": Verified(
        place="coordinator/log/public", load=_log, loads_all=False
    ),
    "mirror of a node": Verified(
        place="nodes/fr",
        load=_mirror,
        files="view.db",
        beside="trust-policy.txt",
        loads_all=False,
    ),
    "proof": Verified(
        place="coordinator/releases/base-2/tapestry",
        load=_proof,
        files="release.*",
        loads_all=False,
    ),
    "trust policy": Verified(
        place="coordinator", load=_policy, files="trust-policy.txt", loads_all=False
    ),
}
COPIED = ("*.u32", "held-out", "log.db*", "evidence", "uploads", "publications")


@dataclass(frozen=True, slots=True)
class Case:
    """One mutation of one file."""

    file: str
    other: str
    name: str
    mutation: Mutation
    harmless: bool = False


def _cases(folder: Path, kind: Verified) -> list[Case]:
    files = [path for path in sorted(folder.glob(kind.files)) if path.is_file()]
    names = [path.relative_to(folder).as_posix() for path in files]
    found = []
    for at, name in enumerate(names):
        data = files[at].read_bytes()
        other = next(
            (
                names[(at + step) % len(names)]
                for step in range(1, len(names))
                if files[(at + step) % len(names)].read_bytes() != data
            ),
            name,
        )
        for what, mutation in CHANGES.items():
            if other == name and "another" in what:
                continue
            letters = name.rsplit("/", 1)[-1].upper() != name.rsplit("/", 1)[-1].lower()
            if what == "in capitals" and not letters:  # then nothing would change
                continue
            found.append(Case(name, other, what, mutation))
        found += [Case(name, other, *row, True) for row in HARMLESS.items()]
        found += [
            Case(name, other, what, respelled(change))
            for what, change in RESPELLINGS.items()
            if change(data) != data
        ]
        if files[at].name in COSIGNED:
            cut = respelled(lambda data: b"".join(data.splitlines(True)[:-1]))
            found.append(Case(name, other, "last cosignature cut", cut, harmless=True))
    if kind.files == EVERY and kind.loads_all:
        found += _strays(folder)
    return found


def _strays(folder: Path) -> Iterator[Case]:
    """Put empty files under names of no level, and under those of any other level."""
    below = [p.relative_to(folder) for p in sorted(folder.rglob("*"))]
    places = [".", *(p.as_posix() for p in below if (folder / p).is_dir())]
    names = sorted({p.name for p in below})
    for place in places if len(places) < 60 else places[:60]:
        for name in (*STRAYS, *names, *(f"{name}/" for name in names)):

            def add(path: Path, _: Path, name: str = name) -> None:
                (path / name).mkdir() if name[-1] == "/" else (path / name).touch()

            if not (folder / place / name).exists():
                yield Case(place, place, f"{name} added", add)


def _holds(federation: Federation, kind: Verified, case: Case, work: Path) -> Any:
    """Mutate a copy and load it; None if that is refused."""
    source = federation.directory / kind.place
    copy = work / "work" / source.name
    ignored = shutil.ignore_patterns(*COPIED)
    if kind.files == EVERY:
        shutil.copytree(source, copy, symlinks=True, ignore=ignored)
    else:
        copy.mkdir(parents=True)
        for path in (*source.glob(kind.files), *source.glob(kind.beside)):
            shutil.copy(path, copy)
    try:
        case.mutation(copy / case.file, copy / case.other)
        return kind.load(federation, copy)
    except (TapestryError, NotVerified, RecursionError):
        return None
    finally:
        for left in ("work", "outside", "linked"):
            place = work / left
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)


def _misses(
    federation: Federation, name: str, cases: list[Case], work: Path
) -> list[str]:
    kind = FOLDERS[name]
    true = kind.load(federation, federation.directory / kind.place)
    found, counts = [], Counter[str]()
    for case in cases:
        if kind.load is _sealed and case.file == MANIFEST:
            continue  # it is written anew
        loaded = _holds(federation, kind, case, work)
        counts["refused" if loaded is None else "holds"] += 1
        fits = case.harmless or not kind.loads_all
        same = loaded == true and fits
        if loaded is not None and not same:
            found.append(f"{case.file}: {case.name}")
    print(f"{name}: {len(cases)} cases, {dict(counts)}, {len(found)} misses")  # noqa: T201 - the counts that are reported
    return found


@pytest.mark.parametrize("name", FOLDERS)
def test_a_mutated_file_is_refused_or_loads_what_was_digested(
    federation: Federation, tmp_path: Path, name: str
) -> None:
    kind = FOLDERS[name]
    cases = _cases(federation.directory / kind.place, kind)
    draw = Draw(SEED, len(cases))
    sample = [draw.one(cases) for _ in range(SAMPLE)]
    assert _misses(federation, name, sample, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_every_mutation_is_refused_or_loads_what_was_digested(
    federation: Federation, tmp_path: Path, name: str
) -> None:
    kind = FOLDERS[name]
    cases = _cases(federation.directory / kind.place, kind)
    assert len(cases) > 20
    most = int(os.environ.get("FUZZ_CASES", "120"))  # nightly: all
    if len(cases) > most:
        draw = Draw(SEED + 1, len(cases))
        cases = [draw.one(cases) for _ in range(most)]
    assert _misses(federation, name, cases, tmp_path) == []
