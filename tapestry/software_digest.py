"""The digest of all software that computes here, which a round names.

A node joins a round only if its own digest is among those that the round names. The
digest covers:

- every file of the product's own packages as installed, modules and data alike, by
  path below the package's folder; a checkout installed as editable counts by the files
  that are imported, and has the digest of the wheel built from it;
- every package that the extra ``node`` requires, and what these require: name, version
  and the digests of its files by RECORD (``installed_packages``);
- the interpreter: implementation, version, level of optimization;
- the environment variables in ``RESULT_VARIABLES``, where set.

Guarantees:
    Two machines with the same wheels, interpreter and settings have the same digest,
    wherever and with whatever installer they were installed.

Not protected:
    The digest states what RECORDs say; ``installed_files`` compares the files with
    them. The standard library is known by its version only, and no
    module on the search path may hide one of its; C libraries, drivers and
    the processor are not known. Threads are left out: they change the order of a sum,
    so the last bits of one node's update, and each machine has its own number of
    them. What a process sets in torch itself (dtype, precision of products) is set by
    code that the digest covers. A party that lies about its software is not found out.
"""

import hashlib
import os
import platform
import sys
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tapestry.encoding import canonical_json, digest
from tapestry.errors import ResourceError
from tapestry.installed_packages import InstalledPackage, required_packages

PROJECT = "tapestry-federated"
EXTRA = "node"
PACKAGES = (
    "tapestry",
    "tapestry_coordinator",
    "tapestry_demo",
    "tapestry_governance",
    "tapestry_node",
    "tapestry_serve",
)
RESULT_VARIABLES = {
    "NVIDIA_TF32_OVERRIDE": "float32 products on NVIDIA keep 10 bits or 23",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "float32 products on NVIDIA keep 10 bits or 23",
    "HIPBLASLT_ALLOW_TF32": "float32 products on AMD keep 10 bits or 23",
    "ONEDNN_DEFAULT_FPMATH_MODE": "float32 products on processors become bfloat16",
    "DNNL_DEFAULT_FPMATH_MODE": "the older name of the same",
    "PYTORCH_MPS_FAST_MATH": "Metal may reorder and approximate",
    "PYTORCH_ENABLE_MPS_FALLBACK": "operations move from Metal to the processor",
    "CUBLAS_WORKSPACE_CONFIG": "order of sums in cuBLAS, from call to call",
    "TORCH_BLAS_PREFER_CUBLASLT": "which library multiplies",
    "TORCH_BLAS_PREFER_HIPBLASLT": "which library multiplies",
    "ATEN_CPU_CAPABILITY": "which instructions torch's kernels use",
    "ONEDNN_MAX_CPU_ISA": "which instructions oneDNN uses",
    "DNNL_MAX_CPU_ISA": "the older name of the same",
    "MKL_CBWR": "whether MKL gives equal bits on unequal processors",
    "MKL_ENABLE_INSTRUCTIONS": "which instructions MKL uses",
    "OPENBLAS_CORETYPE": "which kernels multiply in numpy and scipy",
    "NPY_DISABLE_CPU_FEATURES": "which instructions numpy uses",
    "NPY_ENABLE_CPU_FEATURES": "which instructions numpy uses",
}
"""The environment variables that change what is computed, and how each one does."""


@dataclass(frozen=True, kw_only=True)
class SoftwareManifest:
    """All that the digest covers."""

    own: str  # the digest of the product's own files
    interpreter: str
    packages: tuple[InstalledPackage, ...]
    settings: dict[str, str]

    @cached_property
    def digest(self) -> str:
        """The digest that a round names."""
        return digest(canonical_json(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON."""
        return {
            "format": "tapestry-software/1",
            "own": self.own,
            "interpreter": self.interpreter,
            "packages": [
                {"name": p.name, "version": p.version, "record": p.record_digest}
                for p in self.packages
            ],
            "settings": self.settings,
        }


def software_digest() -> str:
    """Digest the software of this process.

    Raises:
        ResourceError: A package is not installed, or its files are not recorded.
    """
    return software_manifest().digest


@cache
def software_manifest() -> SoftwareManifest:
    """Describe the software of this process; it is looked at once.

    Raises:
        ResourceError: A package is not installed, or its files are not recorded.
    """
    python = f"{platform.python_implementation()} {platform.python_version()}"
    optimized = f" -{'O' * sys.flags.optimize}" if sys.flags.optimize else ""
    return SoftwareManifest(
        own=digest(canonical_json([row for name in PACKAGES for row in _files(name)])),
        interpreter=python + optimized,
        packages=tuple(required_packages(PROJECT, EXTRA)),
        settings={
            name: os.environ[name]
            for name in sorted(RESULT_VARIABLES)
            if name in os.environ
        },
    )


def _files(package: str) -> list[list[str]]:
    """List the files of a package as installed, with their digests."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ResourceError(
            f"package {package} is not installed as files; install"
            " tapestry-federated again",
            code="package-missing",
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    return [
        [
            f"{package}/{path.relative_to(root).as_posix()}",
            hashlib.sha256(path.read_bytes()).hexdigest(),
        ]
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.relative_to(root).parts
    ]
