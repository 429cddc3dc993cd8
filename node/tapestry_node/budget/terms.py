"""What an institution promises its records, and how much of it is used."""

from dataclasses import dataclass

from tapestry.encoding import decode_digest
from tapestry.errors import ConfigError, ProtocolError
from tapestry.privacy import accounting


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyPromise:
    """What the institution promises its records, from its policy.

    Raises:
        ConfigError: Epsilon or delta out of range, delta not below 1/records.
    """

    dataset: str  # digest of the declared data
    records: int
    epsilon: float
    fallback_epsilon: float  # with the node's own share of noise alone
    delta: float
    unit: str = "record"
    adjacency: str = accounting.ADJACENCY
    place: str = "the data"  # where the records lie, for messages

    def __post_init__(self) -> None:
        if self.records < 1:
            raise ConfigError(
                f"{self.records} records is not a dataset", code="records-missing"
            )
        accounting.check_epsilon(self.epsilon)
        accounting.check_epsilon(self.fallback_epsilon)
        if self.fallback_epsilon < self.epsilon:
            raise ConfigError(
                f"a fallback epsilon of {self.fallback_epsilon:g} is below the limit of"
                f" {self.epsilon:g}; it must be at least that",
                code="epsilon-out-of-range",
            )
        accounting.check_delta(self.delta, records=self.records)
        if self.unit != "record" or self.adjacency != accounting.ADJACENCY:
            raise ConfigError(
                f"no accounting for {self.unit} under {self.adjacency}",
                code="unit-unsupported",
            )
        try:
            decode_digest(self.dataset)
        except ProtocolError as error:
            raise ConfigError(f"dataset is {error}", code="digest-malformed") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Epsilon at ``delta``: spent for good, with reservations, and allowed.

    ``fallback`` is what is spent if everybody else takes out the noise that they share;
    without shared noise it is ``spent``.
    """

    spent: float
    committed: float
    limit: float
    fallback: float
    fallback_limit: float
    delta: float
    unit: str
    adjacency: str
    by_run: dict[str, float]  # spent by each run or adapter, as if it were alone
