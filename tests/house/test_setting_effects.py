"""No setting without effect: for each key of both files, the code that reads it.

The table names a module and the expression in it that reads the key. A new key needs a
row; a row whose expression is gone fails, and so does one for a key that is no more.
That a key has an effect under the settings around it is a matter of the models: what
would have none there is refused (``test_settings.py`` of node and coordinator).
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from tapestry.inputs.setting_types import type_of
from tapestry.protocol.stages import SECAGG_STAGES
from tapestry_coordinator.settings import CoordinatorSettings, RunSettings
from tapestry_node.adapters.adapter_file import AdapterFile
from tapestry_node.settings import NodeSettings

ROOT = Path(__file__).resolve().parent.parent.parent
NODE, COORDINATOR = "node/tapestry_node", "coordinator/tapestry_coordinator"
ADMISSION = f"{NODE}/round/admission.py"
ADAPTER = f"{NODE}/adapters/adapter_trainer.py"
PLAN = f"{COORDINATOR}/round_plan.py"
DP_SGD = f"{NODE}/training/dp_sgd.py"

NODE_READERS = {
    "name": (f"{NODE}/node.py", "settings.name"),
    "federation": (f"{NODE}/node.py", "settings.federation"),
    "country": (f"{NODE}/adapters/publication.py", "settings.country"),
    "workload": (f"{NODE}/cli.py", "settings.workload"),
    "base": (f"{NODE}/cli.py", "settings.base"),
    "data": (f"{NODE}/settings.py", "self.data"),
    "manifest": (f"{NODE}/settings.py", "self.manifest"),
    "genesis": (f"{NODE}/settings.py", "self.genesis"),
    "policy.min_cohort": (ADMISSION, "policy.min_cohort"),
    "policy.max_colluding": (ADMISSION, "policy.max_colluding"),
    "policy.post_quantum": (ADMISSION, "policy.post_quantum"),
    "policy.noise": (ADMISSION, "policy.noise"),
    "policy.epsilon_limit": (f"{NODE}/training/trainer.py", "policy.epsilon_limit"),
    "policy.fallback_epsilon_limit": (
        f"{NODE}/training/trainer.py",
        "policy.fallback_epsilon_limit",
    ),
    "policy.target_delta": (ADMISSION, "policy.target_delta"),
    "policy.max_steps": (ADMISSION, "policy.max_steps"),
    "policy.bases": (ADMISSION, "policy.bases"),
    "policy.parameterizations": (ADMISSION, "policy.parameterizations"),
    "policy.max_checkpoint_age": (f"{NODE}/node.py", "policy.max_checkpoint_age"),
    "policy.spot_checks": (f"{NODE}/node.py", "policy.chunks_to_check"),
    "policy.varying_survivors": (f"{NODE}/node.py", "policy.varying_survivors"),
    "adapter.publish": (f"{NODE}/adapters/adapter_requests.py", "adapter.publish"),
    "adapter.licence": (f"{NODE}/adapters/publication.py", "adapter.licence"),
    "adapter.rank": (ADAPTER, "settings.rank"),
    "adapter.targets": (ADAPTER, "settings.targets"),
    "adapter.steps": (ADAPTER, "settings.steps"),
    "adapter.batch_size": (ADAPTER, "settings.batch_size"),
    "adapter.learning_rate": (ADAPTER, "settings.learning_rate"),
    "adapter.options": (ADAPTER, "settings.options"),
    "adapter.noise": (ADAPTER, "settings.noise"),
    "adapter.epsilon": (ADAPTER, "settings.epsilon"),
    "adapter.clip_norm": (ADAPTER, "settings.clip_norm"),
    "transport.superlink": (f"{NODE}/cli.py", "where.superlink"),
    "transport.root_certificates": (f"{NODE}/cli.py", "where.root_certificates"),
    "transport.auth_key": (f"{NODE}/cli.py", "where.auth_key"),
    "transport.poll_seconds": (f"{NODE}/cli.py", "where.poll_seconds"),
    "hours.days": (f"{NODE}/settings.py", "self.days"),
    "hours.from_": (f"{NODE}/settings.py", "self.from_"),  # "from" in the file
    "hours.to": (f"{NODE}/settings.py", "self.to"),
    "hours.timezone": (f"{NODE}/settings.py", "self.timezone"),
    "limits.upload_mbit": (f"{NODE}/cli.py", "limits.upload_mbit"),
    "limits.disk_free_gib": (f"{NODE}/availability.py", "limits.disk_free_gib"),
    "speed.threads": (f"{NODE}/cli.py", "speed.threads"),
    "monitor.metrics": (f"{NODE}/cli.py", "monitor.metrics"),
    "speed.physical_batch": (f"{NODE}/training/trainer.py", "speed.physical_batch"),
    "speed.device": (f"{NODE}/settings.py", "self.device"),
    "speed.memory_gb": (f"{NODE}/settings.py", "self.memory_gb"),
}
COORDINATOR_READERS = {
    "federation": (f"{COORDINATOR}/coordinator_folder.py", "settings.federation"),
    "origin": (f"{COORDINATOR}/led_log.py", "settings.origin"),
    "cosign_every": (f"{COORDINATOR}/service.py", "cosign_every"),
    "listen.superlink": (
        f"{COORDINATOR}/superlink/service_process.py",
        "listen.superlink",
    ),
    "listen.proxied": (
        f"{COORDINATOR}/superlink/service_process.py",
        "listen.proxied",
    ),
    "listen.metrics": (
        f"{COORDINATOR}/superlink/service_process.py",
        "listen.metrics",
    ),
    "address": (f"{COORDINATOR}/coordinator_folder.py", "settings.address"),
}
RUN_READERS = {
    "run_id": (PLAN, "settings.run_id"),
    "rounds": (f"{COORDINATOR}/run.py", "settings.rounds"),
    "release_every": (f"{COORDINATOR}/run.py", "settings.release_every"),
    "base": (f"{COORDINATOR}/run.py", "settings.base"),
    "adapters": (f"{COORDINATOR}/run.py", "settings.adapters"),
    "training.workload": (f"{COORDINATOR}/run.py", "training.workload"),
    "training.parameterization": (PLAN, "training.parameterization"),
    "training.rank": ("tapestry/workloads/target_modules.py", "plan.rank"),
    "training.targets": (PLAN, "training.targets"),
    "training.options": (f"{COORDINATOR}/run.py", "training.options"),
    "training.steps": (DP_SGD, "training.steps"),
    "training.batch_size": (DP_SGD, "training.batch_size"),
    "training.optimizer": (DP_SGD, "training.optimizer"),
    "training.learning_rate": (DP_SGD, "training.learning_rate"),
    "training.weight_decay": (DP_SGD, "training.weight_decay"),
    "privacy.noise": (DP_SGD, "privacy.noise"),
    "privacy.unit": (f"{NODE}/budget/log_accounts.py", "plan.unit"),
    "privacy.adjacency": (f"{NODE}/budget/log_accounts.py", "plan.adjacency"),
    "privacy.clip_norm": (DP_SGD, "privacy.clip_norm"),
    "privacy.noise_multiplier": (DP_SGD, "privacy.noise_multiplier"),
    "privacy.target_delta": (f"{NODE}/budget/log_accounts.py", "plan.target_delta"),
    "privacy.min_share": ("tapestry/privacy/noise_shares.py", "plan.min_share"),
    "secagg.max_colluding": (PLAN, "secagg.max_colluding"),
    "secagg.min_cohort": (PLAN, "secagg.min_cohort"),
    "secagg.clip_norm": (PLAN, "secagg.clip_norm"),
    "secagg.clip_value": (PLAN, "secagg.clip_value"),
    "secagg.scale_bits": (PLAN, "secagg.scale_bits"),
    "secagg.post_quantum": (PLAN, "secagg.post_quantum"),
    "outer.optimizer": ("tapestry/model/outer_optimizer.py", "plan.optimizer"),
    "outer.learning_rate": (
        "tapestry/model/outer_optimizer.py",
        "outer.learning_rate",
    ),
    "outer.momentum": ("tapestry/model/outer_optimizer.py", "plan.momentum"),
    "outer.max_norm": ("tapestry/model/replica.py", "outer.max_norm"),
    "outer.max_loss_increase": (
        "tapestry/evaluation/acceptance.py",
        "plan.max_loss_increase",
    ),
}
RUN_READERS |= {
    "deadlines.cosign": (f"{COORDINATOR}/run.py", "deadlines.cosign"),
    "deadlines.advertise_keys": (
        f"{COORDINATOR}/node_tracker.py",
        "deadlines.advertise_keys",
    ),
    "deadlines.apply_result": (
        f"{COORDINATOR}/node_tracker.py",
        "deadlines.apply_result",
    ),
    "deadlines.publish_adapter": (
        f"{COORDINATOR}/adapter_collector.py",
        "deadlines.publish_adapter",
    ),
    **dict.fromkeys(  # by the name of the stage
        [f"deadlines.{stage}" for stage in SECAGG_STAGES[1:]],
        (f"{COORDINATOR}/round.py", "context.deadlines"),
    ),
}
ADAPTER_READERS = {
    "language": (f"{NODE}/adapters/adapter_check.py", "file.language"),
    "domain": (f"{NODE}/adapters/publication.py", "file.domain"),
    "region": (f"{NODE}/adapters/publication.py", "file.region"),
    **{
        key: reader
        for key, reader in NODE_READERS.items()
        if key.startswith("adapter.") and key != "adapter.publish"
    },
}
READERS = {
    AdapterFile: ADAPTER_READERS,
    NodeSettings: NODE_READERS,
    RunSettings: RUN_READERS,
    CoordinatorSettings: COORDINATOR_READERS,
}
ROWS = [
    pytest.param(path, expression, id=f"{model.__name__}-{key}")
    for model, readers in READERS.items()
    for key, (path, expression) in readers.items()
]


def _keys(model: type[BaseModel]) -> Iterator[str]:
    """List the keys of a file, those of each model that a table may be."""
    for name, field in model.model_fields.items():
        tables = type_of(field).tables
        yield from (f"{name}.{key}" for table in tables for key in _keys(table))
        if not tables:
            yield name


@pytest.mark.parametrize("model", READERS, ids=lambda model: model.__name__)
def test_each_key_of_a_file_has_a_reader(model: type[BaseModel]) -> None:
    assert set(_keys(model)) == set(READERS[model])


@pytest.mark.parametrize(("path", "expression"), ROWS)
def test_a_reader_reads_the_key_that_it_is_named_for(
    path: str, expression: str
) -> None:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    read = {
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    assert any(each == expression or each.endswith(f".{expression}") for each in read)
