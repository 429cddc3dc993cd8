"""A folder is read as an adapter only if it is plain LoRA and can be nothing else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tapestry.artifacts import adapter_folder
from tapestry.errors import ForeignFileError, IncompleteError, VerificationError
from tests.support.adapter_folders import (
    BASE,
    CONFIG,
    MODULES,
    Tensors,
    make_adapter,
    make_tensors,
)
from tests.support.refusals import refused

SHAPES = {name: value.shape for name, value in BASE.items()}


def test_a_plain_adapter_gives_its_modules_and_factors(tmp_path: Path) -> None:
    found = adapter_folder.read(make_adapter(tmp_path / "italy"))
    found.check_fit(SHAPES)
    assert found.modules == MODULES
    for module in MODULES:
        out, width = SHAPES[f"{module}.weight"]
        assert np.array_equal(found.factor(module, "A"), np.full((2, width), 0.25))
        assert np.array_equal(found.factor(module, "B"), np.full((out, 2), 0.5))


def test_a_folder_of_peft_needs_no_manifest_and_holds_nothing_else(
    tmp_path: Path,
) -> None:
    folder = _bare(tmp_path)
    (folder / "README.md").unlink()
    assert adapter_folder.read(folder).config.r == 2
    (folder / "modeling.py").write_text("raise SystemExit")
    with refused(ForeignFileError, "foreign-file", match=r"modeling\.py"):
        adapter_folder.read(folder)


def _bare(place: Path) -> Path:
    folder = make_adapter(place / "italy")
    shutil.rmtree(folder / "tapestry")
    return folder


@pytest.mark.parametrize("name", [adapter_folder.CONFIG, adapter_folder.WEIGHTS])
def test_a_missing_file_leaves_the_verdict_open(tmp_path: Path, name: str) -> None:
    folder = _bare(tmp_path)
    (folder / name).unlink()
    with refused(IncompleteError, "file-missing", match=name):
        adapter_folder.read(folder)


@pytest.mark.parametrize("shape", [None, (6,), (6, 8, 1)])
def test_a_factor_needs_a_matrix_of_the_base(
    tmp_path: Path, shape: tuple[int, ...] | None
) -> None:
    found = adapter_folder.read(make_adapter(tmp_path / "italy"))
    shapes = {**SHAPES, f"{MODULES[0]}.weight": shape}
    known = {name: each for name, each in shapes.items() if each is not None}
    with refused(VerificationError, "adapter-shape-mismatch", match=MODULES[0]):
        found.check_fit(known)


def test_one_factor_b_that_is_not_zero_is_enough(tmp_path: Path) -> None:
    tensors = make_tensors()
    name = f"base_model.model.{MODULES[0]}.lora_B.weight"
    tensors[name] = np.zeros_like(tensors[name])
    found = adapter_folder.read(make_adapter(tmp_path / "italy", tensors=tensors))
    assert not found.factor(MODULES[0], "B").any()


def test_a_target_names_the_whole_last_part_of_a_module(tmp_path: Path) -> None:
    """``proj`` is no part of ``q_proj``, and ``self_attn.q_proj`` is one."""
    changes = {"target_modules": ["self_attn.q_proj", "v_proj"]}
    found = adapter_folder.read(
        make_adapter(tmp_path / "italy", config_changes=changes)
    )
    assert found.modules == MODULES
    changes = {"target_modules": ["proj"]}
    with refused(
        VerificationError,
        "adapter-targets-differ",
        match="q_proj",
    ):
        adapter_folder.read(make_adapter(tmp_path / "spain", config_changes=changes))


def test_what_peft_writes_is_accepted(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=2,
        lora_alpha=4,
        lora_dropout=0.1,
        target_modules=["q_proj", "v_proj"],
        task_type="CAUSAL_LM",
        base_model_name_or_path="base-1",
        inference_mode=True,
        use_rslora=True,
    )
    config.save_pretrained(str(tmp_path / "config"))
    text = (tmp_path / "config" / "adapter_config.json").read_text()
    found = adapter_folder.read(make_adapter(tmp_path / "italy", config=text))
    found.check_fit(SHAPES)
    assert (found.config.r, found.config.lora_alpha) == (2, 4)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_mapping", {"base_model_class": "X", "parent_library": "os"}),
        ("megatron_core", "os"),
        ("megatron_config", {"a": 1}),
        ("loftq_config", {"bits": 4}),
        ("corda_config", {"cache_file": "x"}),
        ("eva_config", {}),
        ("layer_replication", [[0, 1]]),
        ("trainable_token_indices", [1]),
        ("modules_to_save", ["lm_head"]),
        ("target_parameters", ["x"]),
        ("init_lora_weights", "pissa"),
        ("use_dora", True),
        ("bias", "all"),
        ("fan_in_fan_out", True),
        ("rank_pattern", {"q_proj": 4}),
        ("alpha_pattern", {"q_proj": 4}),
        ("revision", "main"),
        ("inference_mode", False),
        ("peft_type", "LOHA"),
        ("r", 0),
        ("r", 257),
        ("r", True),
        ("lora_alpha", 0),
        ("target_modules", ".*"),
        ("target_modules", "all-linear"),
        ("target_modules", []),
        ("target_modules", ["(q|v)_proj"]),
        ("unheard_of", None),
    ],
)
def test_a_setting_that_could_do_more_than_lora_is_refused(
    tmp_path: Path, key: str, value: object
) -> None:
    folder = make_adapter(tmp_path / "italy", config_changes={key: value})
    with refused(
        VerificationError,
        "adapter-config-invalid",
        match=key,
    ) as caught:
        adapter_folder.read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "adapter-config-invalid"),
        ("[]", "adapter-config-invalid"),
        ("[" * 20_000, "adapter-config-invalid"),
        ('{"r": 1, "r": 2}', "adapter-config-invalid"),
        (" " * 70_000, "file-too-large"),
        (json.dumps({**CONFIG, "lora_alpha": float("nan")}), "adapter-config-invalid"),
    ],
)
def test_a_configuration_that_is_no_plain_json_is_refused(
    tmp_path: Path, text: str, code: str
) -> None:
    folder = _bare(tmp_path)
    (folder / "adapter_config.json").write_text(text)
    with refused(VerificationError, code, match="adapter_config"):
        adapter_folder.read(folder)


def _without(name: str) -> Tensors:
    return {n: v for n, v in make_tensors().items() if not n.endswith(name)}


@pytest.mark.parametrize(
    ("tensors", "code", "name"),
    [
        (_without("q_proj.lora_B.weight"), "adapter-factor-missing", "q_proj"),
        (_without("lora_A.weight"), "adapter-factor-missing", "_proj"),
        (
            {**make_tensors(), "model.norm.weight": np.ones(8)},
            "tensor-type-unsupported",
            "model.norm.weight",
        ),
        (
            {**make_tensors(), "lm_head.weight": np.ones((2, 2), dtype=np.float32)},
            "adapter-tensor-unknown",
            "lm_head.weight",
        ),
        (
            {n.replace("v_proj", "k_proj"): v for n, v in make_tensors().items()},
            "adapter-targets-differ",
            "k_proj",
        ),
        (
            {n: v for n, v in make_tensors().items() if "v_proj" not in n},
            "adapter-targets-differ",
            "v_proj",
        ),
    ],
)
def test_tensors_that_are_not_pairs_of_factors_are_refused(
    tmp_path: Path, tensors: Tensors, code: str, name: str
) -> None:
    with refused(VerificationError, code, match=name):
        adapter_folder.read(make_adapter(tmp_path / "italy", tensors=tensors))


@pytest.mark.parametrize("name", sorted(make_tensors()))
def test_a_shape_that_does_not_fit_the_base_is_refused(
    tmp_path: Path, name: str
) -> None:
    tensors = make_tensors()
    tensors[name] = np.ascontiguousarray(tensors[name].T)
    found = adapter_folder.read(make_adapter(tmp_path / "italy", tensors=tensors))
    with refused(VerificationError, "adapter-shape-mismatch"):
        found.check_fit(SHAPES)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    tensors = make_tensors()
    tensors[min(tensors)][1, 1] = value
    with refused(VerificationError, "tensor-not-finite"):
        adapter_folder.read(make_adapter(tmp_path / "italy", tensors=tensors))


def test_an_adapter_that_does_nothing_is_refused(tmp_path: Path) -> None:
    tensors = {n: v * ("lora_A" in n) for n, v in make_tensors().items()}
    with refused(VerificationError, "adapter-all-zero"):
        adapter_folder.read(make_adapter(tmp_path / "italy", tensors=tensors))
