"""A healthy folder opens and opens the same; a damaged one is refused by name."""

import functools
import io
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tapestry.errors import ConfigError, ForeignFileError, ResourceError, TapestryError
from tapestry.tensor_types import type_name
from tapestry.vectors import parameters_digest
from tapestry.workloads.language.model import LanguageModel
from tapestry.workloads.language.pretrained import refusing
from tapestry_governance import registry
from tests.support.model_folders import (
    ARCHITECTURES,
    MUTATIONS,
    Mutation,
    build,
    edit,
    shard,
    tensors,
    write,
)
from tests.support.refusals import refused

TWICE = (
    "About {{ messages[0].content }}:{% for m in messages %}<{{ m.role }}>"
    "{{ m.content }}</s>{% endfor %}"
)
_FEW = ("llama", "gpt2")
_SLOW = tuple(
    pytest.param(kind, marks=() if kind in _FEW else pytest.mark.slow)
    for kind in ARCHITECTURES
)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("healthy")


def _folder(healthy: Path, kind: str) -> Path:
    folder = healthy / kind
    return folder if folder.exists() else build(folder, kind)


@pytest.mark.parametrize("kind", _SLOW)
def test_a_healthy_folder_opens_with_the_digest_of_its_files(
    healthy: Path, kind: str, tmp_path: Path
) -> None:
    folder = _folder(healthy, kind)
    model = LanguageModel.open(folder)
    digest = model.given.digest
    assert LanguageModel.open(folder).given.digest == digest
    assert registry.read_base(folder).digest == digest
    model.save(tmp_path / "again")
    assert registry.read_base(tmp_path / "again").digest == digest
    assert LanguageModel.open(tmp_path / "again").given.digest == digest


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("kind", _SLOW)
def test_a_damaged_folder_is_refused_by_name(
    healthy: Path, kind: str, mutation: Mutation, tmp_path: Path
) -> None:
    folder = tmp_path / kind
    shutil.copytree(_folder(healthy, kind), folder)
    named = mutation(folder)
    for _ in range(2):  # transformers gives some warnings only once
        with pytest.raises((ConfigError, ForeignFileError)) as caught:
            LanguageModel.open(folder)
        assert named in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600


def _refused(folder: Path, code: str) -> str:
    with refused(ConfigError, code) as caught:
        LanguageModel.open(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(healthy: Path, tmp_path: Path) -> Path:
    """Copy a healthy llama, to be damaged."""
    place = tmp_path / "base"
    shutil.copytree(_folder(healthy, "llama"), place)
    return place


def test_a_model_in_shards_or_half_precision_opens_as_its_values_say(
    folder: Path,
) -> None:
    digest = parameters_digest(LanguageModel.open(folder).parameters())
    shard(folder)
    assert parameters_digest(LanguageModel.open(folder).parameters()) == digest
    for path in folder.glob("model*"):
        path.unlink()
    model = LanguageModel.open(_rounded(folder))
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    assert {type_name(each) for each in model.given.tensors.values()} == {"BF16"}
    found = parameters_digest(model.given.tensors)
    assert registry.read_base(folder).parameters_digest == found != digest
    assert parameters_digest(model.parameters()) not in {found, digest}


def _rounded(folder: Path) -> Path:
    config = transformers.AutoConfig.from_pretrained(str(folder))
    module = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    module.save_pretrained(str(folder))
    return folder


def test_a_head_of_its_own_is_refused_where_it_is_tied_even_if_it_is_equal(
    tmp_path: Path,
) -> None:
    folder = build(tmp_path / "base", "llama", tie_word_embeddings=True)
    values = tensors(folder)
    head = values["model.embed_tokens.weight"]
    for own in (head.copy(), head + 1):
        write(folder, {**values, "lm_head.weight": own})
        message = _refused(folder, "tensor-set-differs")
        assert "config.json ties 'lm_head.weight'" in message
        assert "save it anew" in message


def test_a_head_is_not_initialised_where_config_says_it_is_its_own(
    folder: Path,
) -> None:
    values = tensors(folder)
    del values["lm_head.weight"]
    write(folder, values)
    message = _refused(folder, "tensor-set-differs")
    assert "lacks 'lm_head.weight', which by config.json is not tied" in message


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_value_that_is_not_finite_is_named_by_tensor(
    folder: Path, value: float
) -> None:
    values = tensors(folder)
    values["model.norm.weight"][-1] = value
    write(folder, values)
    assert "'model.norm.weight'" in _refused(folder, "tensor-not-finite")


@pytest.mark.parametrize(
    ("changes", "code", "values"),
    [
        ({"model_type": "unheard-of"}, "model-type-unknown", "'unheard-of'"),
        ({"model_type": "mistral"}, "model-type-differs", "'LlamaForCausalLM'"),
        ({"model_type": "t5"}, "model-type-unknown", "'t5'"),
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "model-type-differs",
            "'GPT2LMHeadModel'",
        ),
        (
            {"vocab_size": 512},
            "tensor-shape-differs",
            "has shape (260, 32), by config.json (512, 32)",
        ),
        ({"hidden_size": 64}, "tensor-shape-differs", "(260, 64)"),
        ({"hidden_size": 10**9}, "tensor-shape-differs", "(260, 1000000000)"),
        ({"hidden_size": 33}, "model-unreadable", "config.json "),
        ({"hidden_act": "unheard-of"}, "model-unreadable", "'unheard-of'"),
        (
            {"rope_parameters": {"rope_type": "unheard-of"}},
            "model-unreadable",
            "'unheard-of'",
        ),
    ],
)
def test_a_configuration_of_another_model_is_refused(
    folder: Path, changes: dict[str, object], code: str, values: str
) -> None:
    edit(folder, "config.json", **changes)
    assert values in _refused(folder, code)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.3},
        {"do_sample": True, "num_return_sequences": 0.5, "max_new_tokens": -1},
        {"early_stopping": "maybe"},
        {"cache_implementation": "unheard-of"},
    ],
)
def test_strange_settings_of_generation_are_refused_when_opened(
    folder: Path, changes: dict[str, object]
) -> None:
    edit(folder, "generation_config.json", **changes)
    assert "generation_config.json" in _refused(folder, "model-unreadable")


@pytest.mark.parametrize(
    ("text", "code", "values"),
    [
        ("", "json-invalid", "tokenizer.json "),
        ("{}", "model-unreadable", "'added_tokens'"),
        ('{"version": "1.0"}', "model-unreadable", "'added_tokens'"),
        ("[" * 9, "json-invalid", "tokenizer.json "),
        ("null", "json-invalid", "tokenizer.json "),
    ],
)
def test_a_damaged_tokenizer_is_refused(
    folder: Path, text: str, code: str, values: str
) -> None:
    (folder / "tokenizer.json").write_text(text)
    assert values in _refused(folder, code)


def test_a_missing_tokenizer_is_refused(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "token" in _refused(folder, "model-unreadable")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "code", "values"),
    [
        ("{% for m in messages %}", "chat-template-refused", " 1 turns: "),
        (
            "{{ raise_exception('no turns here') }}",
            "chat-template-refused",
            " 1 turns: no turns here",
        ),
        ("{{ messages[0]['text']['x'] }}", "chat-template-refused", " 1 turns: "),
        (
            "{{ ''.__class__.__mro__[1].__subclasses__() }}",
            "chat-template-refused",
            " 1 turns: ",
        ),
        ("always the same", "chat-template-turns-differ", " 1 turns "),
        ("{{ messages[0]['content'] }}", "chat-template-turns-differ", " 2 turns "),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_refused(
    folder: Path, template: str, code: str, values: str
) -> None:
    (folder / "chat_template.jinja").write_text(template)
    assert values in _refused(folder, code)


def test_a_chat_template_that_renders_is_kept(folder: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    LanguageModel.open(folder).save(tmp_path / "again")
    assert LanguageModel.open(tmp_path / "again").tokenizer.chat_template == template


def test_whatever_transformers_warns_of_is_a_refusal_each_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    load = transformers.LlamaForCausalLM.from_pretrained
    logger = transformers.utils.logging.get_logger("transformers.modeling_utils")

    def warn(*arguments: object, **options: object) -> object:
        logger.warning_once("weights were\nmended")
        return load(*arguments, **options)

    monkeypatch.setattr(transformers.LlamaForCausalLM, "from_pretrained", warn)
    # transformers passes its messages on to the root logger where CI is set.
    monkeypatch.setattr(transformers.utils.logging.get_logger(), "propagate", True)
    heard = logging.StreamHandler(io.StringIO())
    logging.getLogger().addHandler(heard)
    transformers.utils.logging.set_verbosity(50)
    try:
        for _ in range(2):
            assert "were mended" in _refused(folder, "model-unreadable")
        assert transformers.utils.logging.get_verbosity() == 50
    finally:
        transformers.utils.logging.set_verbosity_warning()
        logging.getLogger().removeHandler(heard)
    assert transformers.utils.logging.get_logger().propagate
    assert "mended" not in heard.stream.getvalue() + capfd.readouterr().err


def test_a_module_that_is_not_what_the_file_holds_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = transformers.LlamaForCausalLM.from_pretrained

    def change(*arguments: object, **options: object) -> object:
        module, info = load(*arguments, **options)
        turned = module.lm_head.weight.detach().clone().flip(0)
        module.lm_head.weight = torch.nn.Parameter(turned)
        return module, info

    monkeypatch.setattr(transformers.LlamaForCausalLM, "from_pretrained", change)
    assert "'lm_head.weight'" in _refused(folder, "tensor-differs")


@pytest.mark.parametrize(
    "turn",
    [
        lambda w: w.t(),
        lambda w: w.view(4, 2, -1, w.shape[1]).transpose(1, 2).reshape(w.shape),
        lambda w: w.flip(1),
        lambda w: w * 1,
    ],
    ids=["transposed", "permuted for rotary positions", "flipped", "copied"],
)
def test_a_conversion_in_loading_is_refused(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    turn: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    load = transformers.LlamaForCausalLM.from_pretrained

    def change(*arguments: object, **options: object) -> object:
        module, info = load(*arguments, **options)
        layer = module.model.layers[0].self_attn.q_proj
        layer.weight = torch.nn.Parameter(turn(layer.weight.detach()))
        return module, info

    monkeypatch.setattr(transformers.LlamaForCausalLM, "from_pretrained", change)
    assert "q_proj" in _refused(folder, "tensor-differs")


@pytest.mark.parametrize("tied", [True, False])
def test_an_output_layer_with_a_bias_is_loaded(tied: bool, tmp_path: Path) -> None:
    folder = build(tmp_path / "phi", "phi", tie_word_embeddings=tied)
    model = LanguageModel.open(folder)
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    )
    rows = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(model.module(rows).logits, plain(rows).logits)


def test_a_missing_package_or_memory_is_the_machine_and_not_the_folder() -> None:
    for error, code, said in (
        (
            ImportError("sentencepiece is needed"),
            "package-missing",
            "it: sentencepiece",
        ),
        (MemoryError(), "memory-too-small", "it: no memory"),
    ):
        with refused(ResourceError, code, match=said), refusing("it"):
            raise error


def test_a_panic_of_the_tokenizers_library_is_a_refusal() -> None:
    class PanicException(BaseException):  # as pyo3 names and derives it
        pass

    with pytest.raises(KeyboardInterrupt), refusing("it"):
        raise KeyboardInterrupt
    said = "index out of bounds"
    with refused(ConfigError, "model-unreadable", match=said), refusing("it"):
        raise PanicException(said)


_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    3,
    10**6,
    2**63,
    0.5,
    "",
    "x",
    "../x",
    [],
    [1],
    {},
    [[]],
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    pairs = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value[:4]) if isinstance(value, list) else pairs:
        if key != "vocab":
            yield from _places(inner, (*path, key))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(80))
def test_any_changed_setting_is_refused_in_words_or_leaves_the_parameters(
    healthy: Path, folder: Path, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    files = sorted(folder.glob("*.json"))
    path = files[draw.integers(len(files))]
    value = json.loads(path.read_text("utf-8"))
    places = list(_places(value))
    *above, key = places[draw.integers(len(places))]
    inner = functools.reduce(lambda each, step: each[step], above, value)
    if draw.random() < 0.25:
        del inner[key]
    else:
        inner[key] = _VALUES[draw.integers(len(_VALUES))]
    path.write_text(json.dumps(value), encoding="utf-8")
    try:
        model = LanguageModel.open(folder)
    except TapestryError as error:
        assert "\n" not in str(error)  # noqa: PT017 either outcome is right
        return
    digest = registry.read_base(_folder(healthy, "llama")).parameters_digest
    assert parameters_digest(model.parameters()) == digest
    model.complete_all(["ciao"], max_tokens=2)
    model.save(folder.with_name("again"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "code", "said"),
    [
        (TWICE, "chat-template-turns-differ", "of 1 turns"),
        ("{{ 'a' * 60000000000 }}", "chat-template-refused", "of 1 turns: .* memory"),
        ("{{ ['a', 'b'] | random }}", "chat-template-refused", "of 1 turns: .* random"),
    ],
)
def test_a_chat_template_is_tried_when_a_base_is_opened(
    healthy: Path, tmp_path: Path, template: str, code: str, said: str
) -> None:
    folder = tmp_path / "llama"
    shutil.copytree(_folder(healthy, "llama"), folder)
    edit(folder, "tokenizer_config.json", chat_template=template)
    with refused(ConfigError, code, match=said):
        LanguageModel.open(folder)
