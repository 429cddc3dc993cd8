"""The page of the assistant: files of the package, read once, served as they are.

Guarantees:
    A path is looked up among the files that were read, and joined to nothing. A browser
    may load nothing from elsewhere, and other sites may not frame the page.
"""

from collections.abc import Mapping
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

from tapestry_serve.http_refusals import HttpRefusal

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
}
_HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none';"
    " base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class PageFiles:
    """The files of the page, by the path of their address."""

    def __init__(self) -> None:
        """Read all of them."""
        folder = resources.files("tapestry_serve") / "page"
        found = {f"/{each.name}": each for each in folder.iterdir() if each.is_file()}
        messages = (folder / "messages").iterdir()
        found |= {f"/messages/{each.name}": each for each in messages}
        self.files: Mapping[str, bytes] = {
            path: each.read_bytes() for path, each in sorted(found.items())
        }

    async def show(self, request: Request) -> Response:
        """Send a file; the root is the page itself.

        Raises:
            HttpRefusal: There is no such file.
        """
        path = request.url.path
        name = "/index.html" if path == "/" else path
        if name not in self.files:
            raise HttpRefusal("no such file", code="route-unknown", status=404)
        kind = _TYPES[name.rpartition(".")[2]]
        return Response(self.files[name], media_type=kind, headers=_HEADERS)
