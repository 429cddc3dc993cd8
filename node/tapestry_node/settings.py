"""The settings of a node: ``node.toml``.

Every key has an effect under the settings around it; one that would have none there is
refused: ``epsilon`` belongs to ``noise = "local"``.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from tapestry.encoding import decode_decimal
from tapestry.errors import IncompleteError
from tapestry.privacy.bounds import Delta, Epsilon
from tapestry.protocol.messages import MAX_ASKS
from tapestry.protocol.round_manifest import MAX_COHORT, Options
from tapestry.schema import (
    Digest,
    LocalPath,
    Name,
    Noise,
    Plain,
    Printable,
    Strict,
)
from tapestry.settings import (
    Base,
    Count,
    LoopbackAddress,
    Settings,
    Targets,
    WorkloadName,
)
from tapestry.workloads.hardware import Machine
from tapestry_governance.events.event_body import Licence

_TIME = re.compile("([01][0-9]|2[0-3]):[0-5][0-9]")
_Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: tuple[_Day, ...] = get_args(_Day)
_LONGEST_WAIT = timedelta(days=15)  # a week, and one whose hour the clock skips


def _spot_checks(value: Any) -> Any:
    if value == "none" or (type(value) is int and 1 <= value <= MAX_ASKS):
        return value
    said = "0 is now spelled" if value == 0 else "leave the check to others with"
    raise ValueError(
        f'must be a whole number from 1 to {MAX_ASKS} or "none"; {said} "none"'
    )


def _seconds(plain: str) -> str:
    if not 0 < decode_decimal(plain) <= 60:
        raise ValueError(f"{plain} seconds are not in (0, 60]")
    return plain


def _time_of_day(value: Any) -> Any:
    if isinstance(value, str) and _TIME.fullmatch(value):
        return value
    raise ValueError("is no time of day, in hours and minutes")


_Time = Annotated[
    str, Field(max_length=5, examples=["20:00"]), BeforeValidator(_time_of_day)
]


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        raise ValueError(
            "is no time zone that this machine knows; write one of the IANA list, such"
            ' as "Europe/Prague", or install the system\'s tzdata'
        ) from None
    return name


def _adapter_epsilon(value: Any) -> Any:
    if value == "0":
        raise ValueError('0 is now spelled noise = "none", without epsilon')
    return value


class _Adapter(Strict):
    licence: Annotated[  # of the adapter
        Licence, Field(description="an SPDX name", examples=["Apache-2.0"])
    ]
    rank: Annotated[int, Field(ge=1, le=256)]
    targets: Targets  # empty: chosen from the model
    steps: Count
    batch_size: Count
    learning_rate: Plain
    options: Options


class PrivateAdapterTraining(_Adapter):
    """The training of an adapter by DP-SGD, paid for from the node's budget."""

    noise: Literal["local"]
    # Of the adapter alone, at the node's delta.
    epsilon: Annotated[Epsilon, BeforeValidator(_adapter_epsilon)]
    clip_norm: Plain


class NoiselessAdapterTraining(_Adapter):
    """A training without noise: nothing is promised about single records."""

    noise: Literal["none"]


AdapterTraining = Annotated[
    PrivateAdapterTraining | NoiselessAdapterTraining, Field(discriminator="noise")
]


class PrivateAdapterSettings(PrivateAdapterTraining):
    """A private adapter, and whether it is published at the end of a run."""

    publish: bool


class NoiselessAdapterSettings(NoiselessAdapterTraining):
    """An adapter without noise, and whether it is published at the end of a run."""

    publish: bool


# The institution's own LoRA adapter; its decision, its budget.
AdapterSettings = Annotated[
    PrivateAdapterSettings | NoiselessAdapterSettings, Field(discriminator="noise")
]


class NodePolicy(Strict):
    """The rules of this institution; each refuses unless it is met."""

    min_cohort: Annotated[int, Field(ge=2, examples=[3])]
    # At least so many must be tolerated.
    max_colluding: Annotated[int, Field(ge=0, examples=[1])]
    # Cohorts above 200 may do without ML-KEM, or none may.
    post_quantum: Literal["up_to_200", "always"] = "up_to_200"
    noise: tuple[Annotated[Noise, Field(examples=["local"])], ...]
    epsilon_limit: Epsilon
    # Under shared noise: the promise that is left if all others collude.
    fallback_epsilon_limit: Epsilon
    target_delta: Delta
    max_steps: Count  # local steps a round may ask for
    bases: tuple[Digest, ...]  # identities of given bases it will start from
    parameterizations: tuple[Literal["full", "low_rank"], ...]
    max_checkpoint_age: Count  # seconds
    # Without noise: plans of runs, and sets of nodes on one base, by the digest that a
    # refusal names, for which other survivors than before may be summed.
    varying_survivors: tuple[Digest, ...] = ()
    # Chunks of each sum to see recomputed before a release of it is cosigned; each
    # costs a MiB per survivor. "none" leaves the check to the other members.
    spot_checks: Annotated[
        int | Literal["none"], BeforeValidator(_spot_checks), Field(examples=[2])
    ]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.varying_survivors and "none" not in self.noise:
            raise ValueError('varying_survivors needs "none" in noise')
        return self

    @property
    def hybrid_up_to(self) -> int:
        """Return up to which cohort keys must be agreed on with ML-KEM."""
        return 200 if self.post_quantum == "up_to_200" else MAX_COHORT

    @property
    def chunks_to_check(self) -> int:
        """Return how many chunks of each sum the node wants to see recomputed."""
        return 0 if self.spot_checks == "none" else self.spot_checks


class Transport(Strict):
    """The address of the SuperLink and the node's credentials towards it."""

    superlink: Annotated[
        Printable, Field(max_length=300, examples=["superlink.example:9092"])
    ]
    root_certificates: Annotated[LocalPath, Field(examples=["authority.pem"])]
    auth_key: Annotated[LocalPath, Field(examples=["keys/transport"])]
    poll_seconds: Annotated[Plain, AfterValidator(_seconds), Field(examples=["0.1"])]


class Hours(Strict):
    """The hours in which new work may begin, by the clock on a wall of a time zone.

    A day is the one on which the hours begin: with ``from`` after ``to`` they end on
    the next morning, and with both equal at the same time of the next day.

    Edge cases:
        An hour that the clock skips in spring is no hour; one that it repeats in autumn
        counts twice.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    days: Annotated[tuple[_Day, ...], Field(min_length=1)]
    from_: Annotated[_Time, Field(alias="from")]
    to: _Time
    timezone: Annotated[
        Printable,
        Field(max_length=60, examples=["Europe/Prague"]),
        AfterValidator(_zone),
    ]

    def is_open(self, now: datetime) -> bool:
        """Return whether new work may begin."""
        local = now.astimezone(ZoneInfo(self.timezone))
        time, today = f"{local:%H:%M}", _DAYS[local.weekday()]
        if self.from_ < self.to:
            return today in self.days and self.from_ <= time < self.to
        began_before = _DAYS[local.weekday() - 1] in self.days and time < self.to
        return began_before or (today in self.days and time >= self.from_)

    def turn(self, now: datetime) -> datetime | None:
        """Return when the hours next open or close, in their zone; None for never."""
        is_open, minute = self.is_open(now), timedelta(minutes=1)
        time = now.astimezone(UTC).replace(second=0, microsecond=0)
        for _ in range(_LONGEST_WAIT // minute):
            time += minute
            if self.is_open(time) != is_open:
                return time.astimezone(ZoneInfo(self.timezone))
        return None

    def said(self, now: datetime) -> str:
        """Return whether they are open, until when, and which they are."""
        turn, state = self.turn(now), "open" if self.is_open(now) else "closed"
        until = "" if turn is None else f" until {turn:%a %Y-%m-%d %H:%M %Z}"
        return f"{state}{until}; {self}"

    def __str__(self) -> str:
        days = ", ".join(self.days)
        return f"{days} from {self.from_} to {self.to} in {self.timezone}"


class Limits(Strict):
    """The most that the node takes of the machine and its line; 0: no limit."""

    upload_mbit: Annotated[int, Field(ge=0, le=1_000_000)] = 0  # megabits a second
    disk_free_gib: Annotated[int, Field(ge=0, le=1_000_000)] = 0  # no new work below

    def __str__(self) -> str:
        upload = (
            f"{self.upload_mbit} Mbit/s" if self.upload_mbit else "as fast as it goes"
        )
        return f"uploads {upload}; no new work below {self.disk_free_gib} GiB of disk"


class Speed(Strict):
    """Settings of speed alone; none changes a result's meaning."""

    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    # At most; how many rows fit into memory is measured.
    physical_batch: Annotated[int, Field(ge=1, le=4096)] = 16
    device: Annotated[
        str,
        Field(
            pattern=r"^(cpu|cuda(:[0-9]{1,2})?)$",
            description='"cpu", "cuda" or "cuda:1", with the number of the device',
            examples=["cpu", "cuda:1"],
        ),
    ] = "cpu"
    memory_gb: Annotated[int, Field(ge=0, le=1 << 20)] = 0  # 0: all of the machine

    @property
    def machine(self) -> Machine:
        """The device, and the main memory that the node may use."""
        found = Machine(device=self.device)
        if not self.memory_gb:
            return found
        most = self.memory_gb * 10**9
        memory = most if found.memory is None else min(most, found.memory)
        return replace(found, memory=memory)


class Monitor(Strict):
    """The operator's own monitoring; empty: nothing is served."""

    metrics: LoopbackAddress = ""


class NodeSettings(Settings):
    """``node.toml``: an institution's node. Paths are relative to its folder."""

    former_keys: ClassVar[Mapping[str, str]] = {
        "models": "take it out: base names a model of the cache, or a folder",
        "adapter.sequence_length": "move it into the table [adapter.options]",
    }

    name: Name
    federation: Name
    country: Annotated[Printable, Field(max_length=60)]
    workload: WorkloadName
    base: Base
    data: Annotated[LocalPath, Field(examples=["data"])]
    # Of the data, where it does not lie among them, such as of a read-only folder.
    manifest: Annotated[LocalPath | None, Field(examples=["corpus.toml"])] = None
    # Of the charter; tapestry governance accept writes it, or tapestry node join.
    genesis: Annotated[
        Digest | None,
        Field(
            description="a digest: sha256: and 64 hex digits in lower case",
            examples=["sha256:" + "0" * 64],
        ),
    ] = None
    policy: NodePolicy
    adapter: AdapterSettings
    transport: Transport | None = None
    hours: Hours | None = None
    limits: Limits = Limits()
    speed: Speed = Speed()
    monitor: Monitor = Monitor()

    def data_in(self, folder: Path) -> tuple[Path, Path | None]:
        """Return the folder of the data; and their manifest, None if it is there."""
        manifest = None if self.manifest is None else folder / self.manifest
        return folder / self.data, manifest

    @property
    def joined(self) -> str:
        """The genesis of the federation that this node is in.

        Raises:
            IncompleteError: It has accepted no charter yet.
        """
        if self.genesis is None:
            raise IncompleteError(
                f"node {self.name!r} is in no federation yet: node.toml has no genesis;"
                " accept the charter (tapestry governance accept)",
                code="not-joined",
            )
        return self.genesis
