"""Programs that run as on a machine where some packages are not installed."""

MACHINE_LEARNING = ("torch", "flwr", "transformers", "peft", "opacus")


def without(*packages: str) -> str:
    """Return the head of a program for ``python -c`` that cannot import packages."""
    return f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
from tapestry.cli import main
"""
