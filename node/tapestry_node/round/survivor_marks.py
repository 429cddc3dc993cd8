"""Marks of uploads and of survivor sets, and the rules on rounds without noise.

One masked sum hides an update among the others in it; the difference of two sums from
the same base may show one update alone. Noise would cover that, and the ledger counts
it. Without noise a node keeps marks, on disk before anything leaves:

* Before it uploads: for two rounds from one base, or of one run, the thresholds of
  both cohorts together are above the number of nodes in either, plus n_C. So an
  honest node has to consent to both sums if both are to be opened.
* Before it consents (message 7): a base, and a run, have one survivor set.

A base is one whatever it is called: the identity of the model that a round gives, that
of its release, which is rounded, and one with other files have parameters in common.

So any two sums that hold a node's updates from one base are the same sum, whoever was
asked to consent, and whatever the log calls their rounds: applied, rejected, aborted
(governance/SECAGG.md, "Over many rounds").

A member's policy may name an exception in ``varying_survivors``, by digest: the plan of
a run, whose rounds may then have other survivors, each from its own base; or one set of
nodes on one base. The first shows about what the difference of two rounds shows, the
second exactly that; the refusal names whom it shows.
"""

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Self

from tapestry.encoding import canonical_json, digest
from tapestry.protocol.messages import Reason
from tapestry.protocol.round_manifest import RoundManifest
from tapestry_node.refusal import Refused

_PLAN = {
    *("federation", "run_id", "layout_digest", "length", "clip_norm", "clip_value"),
    *("scale_bits", "training", "privacy", "outer", "gate"),
}


def plan_digest(manifest: RoundManifest) -> str:
    """Return the digest of a run's plan, the same in each of its rounds."""
    plan = manifest.model_dump(mode="json", include=_PLAN)
    del plan["training"]["factor_seed"]
    return digest(canonical_json(plan))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    run: str
    round_number: int
    attempt: int
    base: str  # digest
    names: tuple[str, ...]  # other digests of the same parameters, also rounded
    plan: str  # digest of the run's plan

    @property
    def key(self) -> tuple[str, int, int]:
        """Run, round and attempt."""
        return self.run, self.round_number, self.attempt

    def body(self) -> dict[str, Any]:
        """The fields of an entry."""
        return asdict(self)

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> Self:
        """Read the fields that ``body`` wrote."""
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        return cls(**plain)

    def exception(self, names: Iterable[str]) -> str:
        """Return the digest by which a policy names a set of nodes on this base."""
        return digest(canonical_json({"base": self.base, "nodes": sorted(names)}))


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadMark(_Mark):
    """One upload that left, or was about to."""

    noise: str
    participants: tuple[str, ...]
    threshold: int
    max_colluding: int

    @classmethod
    def of(cls, manifest: RoundManifest, *, names: Iterable[str] = ()) -> Self:
        """Read off the round that a node uploads for."""
        return cls(
            **_place(manifest, names),
            noise=manifest.privacy.noise,
            participants=tuple(each.name for each in manifest.participants),
            threshold=manifest.threshold,
            max_colluding=manifest.max_colluding,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentMark(_Mark):
    """A set of survivors whose sum a node helped to open, or was about to."""

    survivors: tuple[str, ...]  # empty: it may have, and does not know whose

    @classmethod
    def of(
        cls,
        manifest: RoundManifest,
        survivors: Iterable[str],
        *,
        names: Iterable[str] = (),
    ) -> Self:
        """Read off the round whose survivors a node consents to."""
        return cls(**_place(manifest, names), survivors=tuple(sorted(survivors)))


def _place(manifest: RoundManifest, names: Iterable[str]) -> dict[str, Any]:
    return {
        "run": manifest.run_id,
        "round_number": manifest.round_number,
        "attempt": manifest.attempt,
        "base": manifest.model_digest,
        "names": tuple(sorted({*names} - {manifest.model_digest})),
        "plan": plan_digest(manifest),
    }


def check_upload(
    mark: UploadMark, known: Iterable[UploadMark], *, named: Collection[str]
) -> None:
    """Refuse an upload without noise to a cohort too far from an earlier one.

    Raises:
        Refused: Two sums of both rounds could be opened, from one base or in one run,
            without an honest node that consents to both.
    """
    if mark.noise != "none":
        return
    for each in known:
        if each.noise != "none" or not _are_comparable(mark, each):
            continue
        union = {*mark.participants, *each.participants}
        colluding = max(mark.max_colluding, each.max_colluding)
        if mark.threshold + each.threshold > len(union) + colluding:
            continue
        name = _exception(mark, each, mark.participants)
        if name not in named:
            raise Refused(
                Reason.LOCAL_POLICY,
                f"round {mark.round_number} of {mark.run!r} has no noise, and its"
                f" threshold {mark.threshold} and that of round {each.round_number} of"
                f" {each.run!r}, {each.threshold}, are together not above"
                f" {len(union)} nodes and {colluding} that may collude; raise the"
                f' threshold, or add "{name}" to policy.varying_survivors',
                code="cohorts-apart",
            )


def check_consent(
    mark: ConsentMark, known: Iterable[ConsentMark], *, named: Collection[str]
) -> None:
    """Refuse a set of survivors other than an earlier one of the base or the run.

    Raises:
        Refused: The difference of both sums is that of fewer nodes.
    """
    for each in known:
        if each.survivors == mark.survivors or not _are_comparable(mark, each):
            continue
        name = _exception(mark, each, mark.survivors)
        if name not in named:
            where = "on this base" if _have_one_base(mark, each) else "in this run"
            raise Refused(
                Reason.LOCAL_POLICY,
                f"round {mark.round_number} of {mark.run!r} has no noise, and this node"
                f' {_told(mark, each, where)} add "{name}" to policy.varying_survivors',
                code="survivors-vary",
            )


def _told(mark: ConsentMark, known: ConsentMark, where: str) -> str:
    if not known.survivors:
        return (
            f"may have helped to open another sum {where}, and has forgotten whose: the"
            " difference could show one node alone;"
        )
    shown = ", ".join(sorted({*mark.survivors} ^ {*known.survivors}))
    return (
        f"helped to open the sum of {', '.join(known.survivors)} {where}: the"
        f" difference would show {shown} alone; wait for the same nodes, or"
    )


def _have_one_base(one: _Mark, other: _Mark) -> bool:
    return not {one.base, *one.names}.isdisjoint({other.base, *other.names})


def _are_comparable(one: _Mark, other: _Mark) -> bool:
    return one.run == other.run or _have_one_base(one, other)


def _exception(mark: _Mark, other: _Mark, names: Iterable[str]) -> str:
    """Return what a policy must name, for two rounds that are comparable."""
    return mark.exception(names) if _have_one_base(mark, other) else mark.plan
