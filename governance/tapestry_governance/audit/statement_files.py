"""Privacy statements of everything that a log publishes, as pages and for machines."""

import json
from pathlib import Path

from tapestry.errors import ResourceError
from tapestry_governance.audit.privacy_statement import state_privacy, to_markdown
from tapestry_governance.audit.verify import Audit


def write_statements(audit: Audit, folder: Path) -> list[str]:
    """Write ``NAME.md`` and ``NAME.json`` for each release and adapter of a log.

    Args:
        audit: A bundle that was verified.
        folder: Where to; made if need be.

    Returns:
        The names, releases first.

    Raises:
        ResourceError: A file cannot be written.
    """
    names = [*sorted(audit.state.releases), *sorted(audit.state.adapters)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            statement = state_privacy(audit.events, name)
            page = json.dumps(statement.to_json(), indent=2) + "\n"
            (folder / f"{name}.json").write_text(page, encoding="utf-8")
            (folder / f"{name}.md").write_text(to_markdown(statement), encoding="utf-8")
    except OSError as error:
        raise ResourceError(f"cannot write {folder}: {error.strerror}") from error
    return names
