"""An institution joins a federation that is there, by the functions of the commands."""

from tapestry_demo import local_federation
from tapestry_governance import member_folder
from tapestry_governance.events.member_events import Admission
from tapestry_governance.founding_files import (
    CharterFile,
    Invitation,
    RequestFile,
    open_charter,
    read_document,
)
from tests.support.federation import Federation, write_text
from tests.support.settings_files import merged, node_settings

NEW = "pl"


def invited(federation: Federation, name: str = NEW) -> RequestFile:
    """Make the folder of an institution that was invited, and its request."""
    invitation = read_document(federation.coordinator / "simulated.invite", Invitation)
    data = write_text(federation.directory / "more" / name, "fr")
    settings = merged(node_settings(federation.base.replica.digest), {})
    institution = local_federation.Institution(name=name, data=data, settings=settings)
    folder = federation.directory / "nodes" / name
    local_federation.ask(folder, institution, invitation)
    return read_document(folder / f"{name}.request", RequestFile)


def ask(federation: Federation, name: str = NEW) -> RequestFile:
    """Let an institution join by invitation and charter, before it is admitted."""
    invited(federation, name)
    path = federation.coordinator / "simulated.charter"
    charter = open_charter(read_document(path, CharterFile, limit=1 << 20))
    folder = federation.directory / "nodes" / name
    asked = member_folder.request_for(folder, charter)
    member_folder.join(folder, charter)
    return asked


def admission_of(asked: RequestFile) -> Admission:
    """Propose to admit who sent a request."""
    return Admission(kind="admit", request=asked.request, possession=asked.possession)


def take_in(federation: Federation, asked: RequestFile, *voters: str) -> None:
    """Admit an institution by votes, and have it cosign."""
    federation.decide(admission_of(asked), *voters)
    federation.start(asked.request.name)
    for _ in range(2):
        federation.cosign()


def admit(federation: Federation, *voters: str) -> None:
    """Let another institution in, by the files of the founding."""
    take_in(federation, ask(federation), *voters)


def turns(federation: Federation) -> list[int]:
    """The sizes at which other witnesses came into force."""
    folder = federation.coordinator / "log" / "public" / "turns"
    return sorted(int(path.name) for path in folder.glob("*"))
