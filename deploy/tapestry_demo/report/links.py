"""Links from the page to files beside it; a file that is missing gets no link."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tapestry.html.markup import Child, link

_PATTERNS = (
    "adapters/*/README.md",
    "bundle/checkpoint",
    "bundle/trust-policy.txt",
    "privacy/*.md",
    "releases/*/README.md",
)


@dataclass(frozen=True, slots=True)
class Folder:
    """The files beside the page, by their path from it.

    Guarantees:
        A link leads to one of these files. A name from a run's data is only ever
        looked up among them, so it cannot lead anywhere else.
    """

    files: frozenset[str] = frozenset({"report.json"})

    @classmethod
    def read(cls, directory: Path) -> "Folder":
        """Find the files that a page can link to, in the folder that will hold it."""
        found = {
            path.relative_to(directory).as_posix()
            for pattern in _PATTERNS
            for path in directory.glob(pattern)
            if path.is_file()
        }
        return cls(frozenset({"report.json", *found}))

    def __contains__(self, path: str) -> bool:
        return path in self.files

    def link(self, path: str, text: str) -> Child:
        """Return a link to a file, or the text alone if the file is missing."""
        return link(path, text) if path in self.files else text

    def links(self, targets: Iterable[tuple[str, str]]) -> list[Child]:
        """Return a link for each of the files that are there."""
        return [link(path, text) for path, text in targets if path in self.files]
