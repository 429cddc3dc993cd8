"""Three institutions and a coordinator found a federation on machines of their own.

The commands run as processes, each in its machine's folder, and files go from one to
another as by mail. ``...`` in what a command prints stands for any text.
"""

import json
import re
import shutil
from pathlib import Path

import pytest

from tapestry.keys import SigningKey
from tapestry_governance.log.writer import Log
from tapestry_governance.rules.replay import apply_all
from tests.support.processes import environment, run

pytestmark = pytest.mark.slow

# Sueden's root key is made and used on a machine without a network, ``vault``.
TRANSCRIPT = r"""
coordinator$ tapestry coordinator init rivers --federation rivers \
    --address rivers.example:443 --base tiny --passphrase-file pass/phrase
keys        rivers/keys; authority.key is locked
policy      rivers/policy.toml: edit it until the charter
invitation  rivers/rivers.invite: give it to each institution, which runs
  tapestry node init NAME --invite rivers.invite --data FOLDER ...
mail coordinator/rivers/rivers.invite nordland ostrava sueden

nordland$ tapestry node init nordland --invite rivers.invite --data records \
    --language nl --licence CC0-1.0 --passphrase-file pass/phrase
keys      nordland/keys; root.key is locked: later, into a safe
settings  nordland/node.toml: your rules, to read and tighten
request   nordland/nordland.request: send it to the coordinator; it ...
next      tapestry node check nordland
ostrava$ tapestry node init ostrava --invite rivers.invite --data records \
    --language cs --licence CC0-1.0 --passphrase-file pass/phrase
...
vault$ tapestry governance key root.key --name sueden --passphrase-file pass/phrase
key     root.key: locked; keep it here, and a copy in a safe
public  root.pub: for tapestry node init --root root.pub
mail vault/root.pub sueden
sueden$ tapestry node init sueden --invite rivers.invite --root root.pub \
    --data records --language sv --licence CC0-1.0
keys      sueden/keys; no root.key
...
mail nordland/nordland/nordland.request coordinator
mail ostrava/ostrava/ostrava.request coordinator
mail sueden/sueden/sueden.request coordinator vault

coordinator$ tapestry coordinator charter rivers nordland.request ostrava.request \
    sueden.request
charter     rivers/rivers.charter: nordland, ostrava, sueden
send it to each of them, which runs
  tapestry governance accept rivers.charter --node NAME
They compare its fingerprint with one another, by telephone.
mail coordinator/rivers/rivers.charter nordland ostrava sueden vault

nordland$ tapestry governance fingerprint rivers.charter
FINGERPRINT
ostrava$ tapestry governance fingerprint rivers.charter
FINGERPRINT
sueden$ tapestry governance fingerprint rivers.charter
FINGERPRINT
nordland$ tapestry governance accept rivers.charter --node nordland \
    --fingerprint FINGERPRINT --heard ostrava --heard sueden \
    --passphrase-file pass/phrase
federation   rivers, log rivers.example/log
coordinator  coordinator at rivers.example:443
member       nordland: 60 records or more, nl
member       ostrava: 60 records or more, cs
member       sueden: 60 records or more, sv
...
you are nordland; your keys are in it as in your request
policy differs from node.toml in: nothing
policy differs from the invitation in: nothing
acceptance  nordland/nordland.acceptance: send it to the coordinator
joined      nordland: genesis and trust-policy.txt are written
ostrava$ tapestry governance accept rivers.charter --node ostrava \
    --fingerprint FINGERPRINT --heard nordland --heard sueden \
    --passphrase-file pass/phrase
...
vault$ tapestry governance accept rivers.charter --key root.key \
    --request sueden.request --fingerprint FINGERPRINT --heard nordland \
    --heard ostrava --passphrase-file pass/phrase
...
you are sueden; your keys are in it as in your request
acceptance  sueden.acceptance: after tapestry node join on the node's ...
sueden$ tapestry node join sueden rivers.charter --fingerprint FINGERPRINT
joined  sueden: genesis and trust-policy.txt are written
mail nordland/nordland/nordland.acceptance coordinator
mail ostrava/ostrava/ostrava.acceptance coordinator
mail vault/sueden.acceptance coordinator

coordinator$ tapestry coordinator open rivers nordland.acceptance \
    ostrava.acceptance sueden.acceptance
log         rivers/log: charter and 3 acceptances
genesis     sha256:...
"""
MACHINES = ("coordinator", "nordland", "ostrava", "sueden", "vault")


def _machine(root: Path, name: str) -> None:
    (root / name / "pass").mkdir(parents=True)
    phrase = root / name / "pass" / "phrase"
    phrase.write_text(f"the secret words of {name}", "utf-8")
    phrase.chmod(0o600)
    records = root / name / "records"
    records.mkdir()
    rows = [json.dumps({"text": f"row {n} of {name}"}) for n in range(60)]
    (records / "rows.jsonl").write_text("\n".join(rows) + "\n", "utf-8")


def _matches(wanted: list[str], said: str) -> bool:
    parts = "\n".join([*wanted, ""]).split("...")
    return re.fullmatch("(?s:.*)".join(map(re.escape, parts)), said) is not None


def _blocks() -> list[tuple[str, list[str]]]:
    """Each step of the transcript, with what it prints."""
    blocks: list[tuple[str, list[str]]] = []
    for line in filter(None, re.sub(r" \\\n +", " ", TRANSCRIPT).splitlines()):
        if re.match(r"\w+\$ |mail ", line):
            blocks.append((line, []))
        else:
            blocks[-1][1].append(line)
    return blocks


def test_institutions_found_a_federation_from_machine_to_machine(
    tmp_path: Path,
) -> None:
    for name in MACHINES:
        _machine(tmp_path, name)
    env = environment(HOME=str(tmp_path))
    fingerprint = ""
    for step, wanted in _blocks():
        words = step.replace("FINGERPRINT", fingerprint).split()
        if words[0] == "mail":
            for name in words[2:]:
                shutil.copy(tmp_path / words[1], tmp_path / name)
            continue
        machine = tmp_path / words[0].removesuffix("$")
        done = run("-m", "tapestry", *words[2:], env=env, cwd=machine)
        assert (done.returncode, done.stderr) == (0, ""), step
        if words[3] == "fingerprint":
            fingerprint = fingerprint or done.stdout.strip()
        expected = [line.replace("FINGERPRINT", fingerprint) for line in wanted]
        assert _matches(expected, done.stdout), f"{step}\n{done.stdout}"
    key = SigningKey.load(tmp_path / "coordinator" / "rivers" / "keys" / "log.key")
    state = apply_all(
        None, Log.read(tmp_path / "coordinator" / "rivers" / "log", key=key)
    )
    assert state is not None
    assert state.is_founded
    assert not list((tmp_path / "sueden").rglob("root.key"))
    sent = [
        path for path in tmp_path.rglob("*") if path.suffix in (".request", ".invite")
    ]
    assert len(sent) == 3 + 4 + 4 + 3
