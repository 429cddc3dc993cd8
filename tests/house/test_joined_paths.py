"""Paths that are built from a value, and what keeps each value in its folder.

A constant below a folder is safe. Everything else that is joined to a folder has a row
here, by module and expression, with the type or check that bounds its spelling. What a
name from outside may be, ``test_text_fields.py`` shows.
"""

import ast
import re
from collections.abc import Iterator

from tests.house.test_house import SOURCES, _name, _tree

# The end of an expression that is a folder, in the words of this repository.
FOLDER = re.compile(
    r"(\b(folder|directory|place|draft|out|cache|coordinator|private|data|gate|home)"
    r"|root|_sums|_evidence|FOLDER|ARTIFACTS|BLOBS|SUMS|DISPUTES|_home\(\)"
    r"|str\(number\)|'[a-z-]+')$"
)
CONSTANT = re.compile(r"(\w+\.)*_*[A-Z][A-Z_0-9]*$|'[^']*'$|[0-9.]+$")
OWN = "deploy/tapestry_demo/"  # a demo joins the names of its own scenario

NAME, FILE, NUMBER = "Name", "FileName", "a whole number"
OPERATOR, CODE, LISTED = "the operator's path", "of the code", "found in the folder"
JOINED = {
    ("tapestry/artifacts/closed_list.py", "inner"): CODE,
    ("tapestry/artifacts/adapter_folder.py", "name"): FILE,
    ("tapestry/artifacts/model_folder.py", "name"): FILE,
    ("tapestry/artifacts/model_writer.py", "name"): FILE,
    ("tapestry/installed_packages.py", "path"): LISTED,
    ("tapestry/installed_packages.py", "top"): LISTED,
    ("tapestry/cache.py", "name"): CODE,
    ("tapestry/cache.py", "named[2:]"): OPERATOR,
    ("tapestry/evaluation/held_out.py", "f'{name}{evaluation.suffix}'"): LISTED,
    ("tapestry/inputs/folder_walker.py", "name"): LISTED,
    ("tapestry/tlog/tiles.py", "file.path"): "Tile, of numbers",
    ("tapestry/tlog/tiles.py", "tile.path"): "Tile, of numbers",
    ("node/tapestry_node/adapters/publication.py", "name"): FILE,
    (
        "node/tapestry_node/adapters/publication.py",
        "f'{self.title.name}-{self.title.version}'",
    ): NAME,
    ("node/tapestry_node/applicant.py", "reader.manifest_file"): CODE,
    ("node/tapestry_node/applicant.py", "settings.data"): OPERATOR,
    ("node/tapestry_node/cli.py", "known.auth_key"): OPERATOR,
    ("node/tapestry_node/cli.py", "known.root_certificates"): OPERATOR,
    ("node/tapestry_node/data/manifest_file.py", "reader.manifest_file"): CODE,
    ("node/tapestry_node/data/records.py", "reader.manifest_file"): CODE,
    ("node/tapestry_node/check_report.py", "settings.data"): OPERATOR,
    ("node/tapestry_node/data_commands.py", "settings.data"): OPERATOR,
    ("node/tapestry_node/directory.py", "f'{purpose}.key'"): CODE,
    ("node/tapestry_node/folder_check.py", "getattr(transport, name)"): OPERATOR,
    ("node/tapestry_node/key_rotation.py", "f'{purpose}{end}'"): CODE,
    ("node/tapestry_node/key_rotation.py", "f'{self.purpose}{NEXT}'"): CODE,
    ("node/tapestry_node/key_rotation.py", "f'{self.name}.request'"): NAME,
    ("node/tapestry_node/member_exit.py", "f'{name}.request'"): NAME,
    ("node/tapestry_node/member_exit.py", "f'{self.settings.name}.left'"): NAME,
    ("node/tapestry_node/member_export.py", "f'{name}.json'"): CODE,
    ("node/tapestry_node/member_export.py", "f'{name}.left'"): NAME,
    ("node/tapestry_node/member_export.py", "left.name"): NAME,
    ("node/tapestry_node/member_export.py", "name"): FILE,
    ("node/tapestry_node/member_export.py", "release.name"): "Base",
    ("node/tapestry_node/member_export.py", "self.settings.data"): OPERATOR,
    ("node/tapestry_node/member_export.py", "settings.data"): OPERATOR,
    ("node/tapestry_node/member_export.py", "source.name"): LISTED,
    ("node/tapestry_node/membership_commands.py", "f'{name}.request'"): NAME,
    ("node/tapestry_node/node.py", "self.settings.data"): OPERATOR,
    ("node/tapestry_node/node_backup.py", "name"): OPERATOR,
    ("node/tapestry_node/node_keys.py", "f'{purpose}.key'"): CODE,
    ("node/tapestry_node/node_keys.py", "f'{purpose}{NEXT}'"): CODE,
    (
        "node/tapestry_node/node_metrics.py",
        "settings.transport.root_certificates",
    ): OPERATOR,
    ("node/tapestry_node/node_status.py", "f'{settings.name}.left'"): NAME,
    (
        "node/tapestry_node/rotation_commands.py",
        "f'{found.name}-{found.purpose}.rotation'",
    ): NAME,
    ("node/tapestry_node/round/gate_check.py", "name"): FILE,
    ("node/tapestry_node/round/session_files.py", "name"): "RoundStage, or of the code",
    ("node/tapestry_node/round/spot_checks.py", "str(taken.index)"): NUMBER,
    ("node/tapestry_node/round/spot_checks.py", "str(spot.index)"): NUMBER,
    (
        "node/tapestry_node/round/spot_checks.py",
        "f'{DISPUTES}{durable_files.SUFFIX}'",
    ): CODE,
    ("coordinator/tapestry_coordinator/superlink/service_process.py", "name"): CODE,
    ("coordinator/tapestry_coordinator/adapter_collector.py", "name"): FILE,
    ("coordinator/tapestry_coordinator/adapter_collector.py", "published.name"): NAME,
    ("coordinator/tapestry_coordinator/adapter_collector.py", "published.base"): "Base",
    ("coordinator/tapestry_coordinator/coordinator_backup.py", "name"): LISTED,
    ("coordinator/tapestry_coordinator/coordinator_folder.py", "f'{name}.pub'"): NAME,
    ("coordinator/tapestry_coordinator/recovered_folder.py", "f'{name}.pub'"): NAME,
    ("coordinator/tapestry_coordinator/recovered_folder.py", "f'{name}.key'"): CODE,
    ("coordinator/tapestry_coordinator/recovered_folder.py", "name"): "Base",
    (
        "coordinator/tapestry_coordinator/recovered_folder.py",
        "f'coordinator-{index}.ballot'",
    ): NUMBER,
    (
        "coordinator/tapestry_coordinator/coordinator_folder.py",
        "f'{settings.federation}.charter'",
    ): NAME,
    (
        "coordinator/tapestry_coordinator/coordinator_folder.py",
        "f'{settings.federation}.invite'",
    ): NAME,
    (
        "coordinator/tapestry_coordinator/recovered_folder.py",
        "f'{settings.federation}.invite'",
    ): NAME,
    ("coordinator/tapestry_coordinator/journal.py", "f'round-{number:05d}.u32'"): (
        NUMBER
    ),
    ("coordinator/tapestry_coordinator/release_publisher.py", "name"): "Base",
    ("coordinator/tapestry_coordinator/run_planner.py", "state.standing[-1]"): "Base",
    ("coordinator/tapestry_coordinator/audit_bundle.py", "path.name"): LISTED,
    ("coordinator/tapestry_coordinator/spot_check_responder.py", "str(closed.index)"): (
        NUMBER
    ),
    ("coordinator/tapestry_coordinator/spot_check_responder.py", "str(spot.index)"): (
        NUMBER
    ),
    ("coordinator/tapestry_coordinator/superlink/config_files.py", "name"): CODE,
    ("coordinator/tapestry_coordinator/superlink/processes.py", "f'{name}.log'"): CODE,
    ("coordinator/tapestry_coordinator/uploads.py", "f'{name}.u32'"): NAME,
    ("coordinator/tapestry_coordinator/uploads.py", "str(number)"): NUMBER,
    ("governance/tapestry_governance/audit/bundle.py", "name"): FILE,
    ("governance/tapestry_governance/audit/bundle.py", "file"): FILE,
    ("governance/tapestry_governance/audit/bundle.py", "str(index)"): NUMBER,
    (
        "governance/tapestry_governance/audit/bundle.py",
        "digest(blob).removeprefix('sha256:')",
    ): "Digest",
    ("governance/tapestry_governance/audit/privacy_statement.py", "f'{name}.json'"): (
        NAME
    ),
    ("governance/tapestry_governance/audit/privacy_statement.py", "f'{name}.md'"): NAME,
    ("governance/tapestry_governance/audit/published_folders.py", "name"): CODE,
    ("governance/tapestry_governance/audit/sum_evidence.py", "f'upload-{node}.bin'"): (
        NAME
    ),
    ("governance/tapestry_governance/cli/adapter.py", "found.base"): "Base",
    ("governance/tapestry_governance/member_folder.py", "f'{name}.invite'"): NAME,
    ("governance/tapestry_governance/member_folder.py", "f'{name}.request'"): NAME,
    ("governance/tapestry_governance/member_folder.py", "f'{purpose}.key'"): CODE,
    ("governance/tapestry_governance/member_folder.py", "file"): NAME,
    ("governance/tapestry_governance/folder_backup.py", "name"): FILE,
    ("governance/tapestry_governance/folder_backup.py", "found.odd[0]"): FILE,
    ("governance/tapestry_governance/witness/witness_folder.py", "name"): NUMBER,
    ("governance/tapestry_governance/log/tile_writer.py", "tile.path"): (
        "Tile, of numbers"
    ),
}  # fmt: skip


def _joins() -> Iterator[tuple[str, str]]:
    for source in SOURCES:
        for node in ast.walk(_tree(source)):
            if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)):
                continue
            left, right = ast.unparse(node.left), ast.unparse(node.right)
            if FOLDER.search(left) and not CONSTANT.match(right):
                yield _name(source), right


def test_each_value_that_is_joined_to_a_folder_is_bounded() -> None:
    found = {each for each in _joins() if not each[0].startswith(OWN)}
    assert found - JOINED.keys() == set(), "say in JOINED what bounds the value"
    assert JOINED.keys() - found == set(), "no such join any more: take the row out"
