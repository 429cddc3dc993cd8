"""A case: a command line, a folder that something befell, and what is around them."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzzing.draws import Draw
from tests.fuzzing.mutations import mutate
from tests.fuzzing.specimens import FINGERPRINT, Specimens
from tests.fuzzing.surroundings import Surroundings, draw_surroundings
from tests.fuzzing.words import draw_line, draw_options
from tests.support.founding_place import NAMES as FOUNDERS

_REQUESTS = " ".join(f"@/{name}/{name}.request" for name in FOUNDERS)
_ACCEPTANCES = (
    "@/nordland/nordland.acceptance @/ostrava/ostrava.acceptance"
    " ^/opened/sueden/sueden.acceptance"
)
_HEARD = (
    "--fingerprint % --heard nordland --heard ostrava --passphrase-file @/pass/phrase"
)
_APART = "--key @/sueden/keys/root.key --request @/sueden/sueden.request"
USES = {
    "demo": (
        "audit verify @/bundle", "audit account @/bundle", "adapter list @/bundle",
        "audit statement @/bundle base-2", "audit statement @/bundle fr-culture",
        "release verify @/releases/base-2", "adapter verify @/adapters/fr-culture",
        "chat --base ^/base --adapter @/adapters/fr-culture --prompt ciao",
    ),
    "bundle": ("audit verify @", "audit verify @ --trust @/trust-policy.txt"),
    "idle": ("node check @", "node status @", "node run @", "node pause @"),
    "used": (
        "node check @", "node run @", "node budget @", "node egress @", "node status @",
        "node leave @ --confirm fi", "node resume @", "node backup @ -o copy",
        "node bundle @ -o copy", "node export @ -o copy",
    ),
    "backup": ("node restore @ folder",),
    "coordinator": ("coordinator status @",),
    "base": ("chat --base @ --max-tokens 2 --prompt ciao", "chat --base @"),
    "begun": ("demo --out @ --resume", "demo --out @"),
    "founding": (
        f"coordinator charter @/rivers {_REQUESTS}",
        f"coordinator open @/rivers {_ACCEPTANCES}",
        "governance show @/rivers/rivers.charter",
        "governance fingerprint @/rivers/rivers.charter",
        f"governance accept @/rivers/rivers.charter --node @/sueden {_HEARD}",
        f"governance accept @/rivers/rivers.charter {_APART} {_HEARD} -o taken",
        "governance key root.key --name sueden --passphrase-file @/pass/phrase",
        "node join @/sueden @/rivers/rivers.charter --fingerprint %",
        "coordinator status @/rivers", "node status @/nordland", "node check @/sueden",
    ),
    "opened": (
        "coordinator status @/rivers", "coordinator bundle @/rivers -o copy",
        "coordinator renew @/rivers --passphrase-file @/pass/phrase",
        "coordinator backup @/rivers -o copy", "node check @/nordland",
        "node status @/nordland", "node pause @/nordland", "node resume @/nordland",
        "node join @/nordland @/rivers/rivers.charter --fingerprint %",
        "node leave @/nordland --confirm nordland --passphrase-file @/pass/phrase",
        "node backup @/nordland -o copy", "node restore ^/backup @/nordland",
    ),
}  # fmt: skip
"""For each specimen (``@``) what is done with it; ``^`` has all of them, whole, and
``%`` is the fingerprint of the charter."""

_OFTEN = ("demo",) * 5 + ("used",) * 5 + ("founding",) * 3 + ("opened",) * 2
_DRAWN = (*_OFTEN, *USES, "bundle", "idle", "coordinator")
_SLOW = {"check", "run", "chat", "demo", "export"}  # they load a machine-learning stack
_ODD = (" ", "\udcff", "new\nline", "-dash", "\x1b[31m", "é" * 60)
_SHARED = ("bundle", "bundle/trust-policy.txt", "demo/bundle", "demo/bundle/checkpoint")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What to run, and what it may touch."""

    words: Sequence[str]
    surroundings: Surroundings
    folder: Path
    befell: Sequence[str]

    def __str__(self) -> str:
        """Show what it is."""
        shown = [word if len(word) < 200 else f"{word[:80]}…" for word in self.words]
        return f"{shown}\n{self.surroundings}\n{list(self.befell)}"


def draw_case(draw: Draw, *, place: Path, specimens: Specimens, apart: bool) -> Case:
    """Draw a case and lay out its folder in an empty place."""
    name = draw.one(_DRAWN)
    place = place / (draw.one(_ODD) if draw.chance(0.05) else "plain")
    folder = shutil.copytree(specimens.folder / name, place / name, symlinks=True)
    times = draw.one((0, 1, 1, 1, 2, 5))
    befell = [mutate(draw, folder, apart=apart) for _ in range(times)]
    words = _draw_words(draw, folder, specimens.folder)
    while apart and _SLOW & set(words) and draw.chance(0.95):
        words = _draw_words(draw, folder, specimens.folder)
    words = [word for word in words if word != "--watch"]  # which has no end
    return Case(
        words=_end_soon(words) if apart else words,
        surroundings=draw_surroundings(draw, apart=apart),
        folder=folder,
        befell=befell,
    )


def _draw_words(draw: Draw, folder: Path, whole: Path) -> list[str]:
    paths = [folder, *sorted(folder.rglob("*"))]
    paths += [folder, *(whole / each for each in _SHARED)] * 3
    if draw.chance(0.4):
        return draw_line(draw, paths=paths)
    heard = (whole / FINGERPRINT).read_text()
    known = {"@": str(folder), "^": str(whole), "%": heard}
    usual = draw.one(USES[folder.name]).split()
    words = [known.get(word[0], word[0]) + word[1:] for word in usual]
    return words + draw_options(draw, words=words, paths=paths)


def _end_soon(words: Sequence[str]) -> list[str]:
    """Let no process begin a demo, or serve or watch without an end."""
    words = [word for word in words if word != "--watch"]
    if "demo" in words:
        return [*words, "--base", "gone"]
    return [*words, "--superlink="] if "run" in words else list(words)
