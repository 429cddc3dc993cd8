"""A node's transport key, made and registered at a test's own SuperLink."""

from pathlib import Path

from tapestry.transport_keys import make_transport_key
from tapestry_coordinator.superlink.supervisor import Engine, Site


def enroll(engine: Engine, name: str, auth_key: Path) -> Site:
    """Register a node under its name; make its key if there is none."""
    if not auth_key.exists():
        auth_key.parent.mkdir(parents=True, exist_ok=True)
        make_transport_key(auth_key)
    engine.admit({name: auth_key.with_name(auth_key.name + ".pub")})
    return engine.site(auth_key)
