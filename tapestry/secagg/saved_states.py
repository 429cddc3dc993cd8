"""States of a node in a round, as canonical JSON, to go on with after a restart.

One form per state that a node can be in between two messages; bytes are in hex. The
stage is the one whose reply may have left. What is in a form is what the state holds:
nothing is kept for longer than ``client_states`` keeps it.

The forms hold the secrets of a round in the clear. Whoever writes one to a disk
seals it (``tapestry_node.round.session_files``).
"""

from typing import Annotated, Literal, cast

from pydantic import ConfigDict, Field

from tapestry.keys import SigningKey
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import Advertisement, ShareHead, SurvivorList
from tapestry.protocol.stages import SECAGG_STAGES, RoundStage
from tapestry.schema import Digest, Name, Strict
from tapestry.secagg.client_states import (
    Agreed,
    ClientRound,
    Cohort,
    ConsistencyChecked,
    HeldShares,
    InputMasked,
    KeysAdvertised,
    KeysShared,
    Secrets,
    SharesRevealed,
)
from tapestry.secagg.requirements import ClientProgress, ClientStep

ClientState = (
    KeysAdvertised | KeysShared | InputMasked | ConsistencyChecked | SharesRevealed
)
_Bytes = Annotated[bytes, Field(min_length=32, max_length=32)]


class _Form(Strict):
    model_config = ConfigDict(
        ser_json_bytes="hex", val_json_bytes="hex", hide_input_in_errors=True
    )


class _KeysAdvertised(_Form):
    stage: Literal["advertise_keys"]
    secrets: Secrets = Field(repr=False)
    advertisement: Advertisement


class _KeysShared(_Form):
    stage: Literal["share_keys"]
    secrets: Secrets = Field(repr=False)
    view: _Bytes = Field(repr=False)
    agreed: dict[Name, Agreed] = Field(repr=False)
    head: ShareHead
    own: HeldShares = Field(repr=False)


class _InputMasked(_Form):
    stage: Literal["collect_masked_inputs"]
    held: dict[Name, HeldShares] = Field(repr=False)
    contributed: dict[Name, _Bytes] = Field(repr=False)
    view: Digest
    root: Digest


class _ConsistencyChecked(_Form):
    stage: Literal["check_consistency"]
    held: dict[Name, HeldShares] = Field(repr=False)
    contributed: dict[Name, _Bytes] = Field(repr=False)
    survivors: SurvivorList
    root: Digest


class _SharesRevealed(_Form):
    stage: Literal["unmask"]
    survivors: SurvivorList
    root: Digest


SavedState = Annotated[
    _KeysAdvertised
    | _KeysShared
    | _InputMasked
    | _ConsistencyChecked
    | _SharesRevealed,
    Field(discriminator="stage"),
]
_FORMS: dict[str, tuple[type[_Form], type[ClientState], ClientStep]] = {
    "advertise_keys": (_KeysAdvertised, KeysAdvertised, ClientStep.SHARE_KEYS),
    "share_keys": (_KeysShared, KeysShared, ClientStep.RECEIVE_SHARES),
    "collect_masked_inputs": (_InputMasked, InputMasked, ClientStep.CHECK_CONSISTENCY),
    "check_consistency": (_ConsistencyChecked, ConsistencyChecked, ClientStep.UNMASK),
    "unmask": (_SharesRevealed, SharesRevealed, ClientStep.NONE),
}


def stage_of(state: ClientState) -> RoundStage:
    """Return the stage whose reply a state follows."""
    return next(s for s in SECAGG_STAGES if type(state) is _FORMS[s][1])


def save_state(state: ClientState) -> SavedState:
    """Put a state into its form, without what is the same for the whole round."""
    stage = stage_of(state)
    form = _FORMS[stage][0]
    fields = {n: getattr(state, n) for n in form.model_fields if n != "stage"}
    saved = form.model_validate({"stage": stage.value, **fields})
    return cast("SavedState", saved)


def restore_state(
    saved: SavedState,
    manifest: RoundManifest,
    identity: SigningKey,
    *,
    min_cohort: int,
) -> ClientState:
    """Build the state of a form, at its place in the order of a node's steps.

    The caller has authenticated the manifest, and the form is its own of this round.

    Raises:
        ProtocolError: The manifest is malformed, or no participant of it has this
            node's key.
    """
    cohort = Cohort.of(manifest)
    _, kind, following = _FORMS[saved.stage]
    held = {name: getattr(saved, name) for name in type(saved).model_fields}
    del held["stage"]
    own = ClientRound(
        cohort=cohort,
        node=cohort.name_of(identity),
        identity=identity,
        min_cohort=min_cohort,
        progress=ClientProgress(step=following),
    )
    return kind(round=own, **held)
