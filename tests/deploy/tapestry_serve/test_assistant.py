"""The routes, over a real socket: answers, lineage, and what is refused."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from starlette.requests import Request

from tapestry.encoding import canonical_json, digest
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.dialogue import Dialogue
from tapestry_serve.assistant import Access
from tapestry_serve.http_refusals import HttpRefusal
from tapestry_serve.served_models import ServedModels
from tests.support.refusals import refused
from tests.support.running_server import load, running, write_folders

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
ASK = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_folders(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def models(folders: Path) -> ServedModels:
    return load(folders)


@pytest.fixture(scope="module")
def url(models: ServedModels) -> Iterator[str]:
    with running(models) as found:
        yield found


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as found:
        yield found


def chat(client: httpx.Client, model: str = "base", **body: Any) -> dict[str, Any]:
    given = {"model": model, "messages": ASK, "max_tokens": 6, "temperature": 0}
    answer = client.post(CHAT, json=given | body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def text(client: httpx.Client, **body: Any) -> dict[str, Any]:
    given = {"model": "base", "prompt": "hello", "max_tokens": 6, "temperature": 0}
    answer = client.post(TEXT, json=given | body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def refusal(client: httpx.Client, path: str, body: Any) -> tuple[int, dict[str, Any]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post(path, content=data)
    return answer.status_code, answer.json()["error"]


def test_each_model_answers_as_itself(client: httpx.Client) -> None:
    said = {}
    for name in ("base", "de", "it"):
        found = chat(client, name)
        assert found["model"] == found["tapestry"]["model"] == name
        said[name] = found["choices"][0]["message"]["content"]
        assert found["usage"]["total_tokens"] == sum(
            found["usage"][each] for each in ("prompt_tokens", "completion_tokens")
        )
    assert len(set(said.values())) == 3


def test_an_answer_names_what_it_comes_from(
    client: httpx.Client, models: ServedModels
) -> None:
    found = chat(client, "de")
    lineage = found["tapestry"]
    assert lineage["base"]["digest"] == models.model.given.digest
    (adapter,) = lineage["adapters"]
    assert adapter["manifest_digest"] == models.adapters["de"].manifest_digest
    assert lineage["verified"] == "files"
    shown = client.get("/v1/tapestry/lineage/de").json()
    assert lineage["lineage_digest"] == shown["digest"]
    assert digest(canonical_json(shown["lineage"])) == shown["digest"]
    listed = {each["id"]: each for each in client.get("/v1/models").json()["data"]}
    assert list(listed) == ["base", "de", "it"]
    assert listed["de"]["tapestry"]["lineage_digest"] == shown["digest"]
    assert client.get("/v1/models/de").json() == listed["de"]


def test_the_digest_of_an_answer_binds_model_prompt_and_text(
    client: httpx.Client, models: ServedModels
) -> None:
    found = chat(client, "de")
    prompt = models.model.prompt_tokens(Dialogue(turns=("hello",)))
    said = found["choices"][0]["message"]["content"]
    want = ["de", digest(canonical_json(list(prompt))), [digest(said.encode())]]
    assert found["tapestry"]["answer"] == digest(canonical_json(want))


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("name", ["nobody", "BASE", "../base-1", "", "__base__", "a0"])
def test_an_unknown_id_is_never_the_base(
    client: httpx.Client, path: str, name: str
) -> None:
    body = (
        {"model": name, "messages": ASK}
        if path == CHAT
        else {"model": name, "prompt": "x"}
    )
    status, error = refusal(client, path, body)
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "base, de, it" in error["message"]
    assert client.get(f"/v1/models/{name or 'x'}").status_code == 404


def test_a_stream_is_the_answer_in_pieces(client: httpx.Client) -> None:
    whole = chat(client, "it", max_tokens=20)["choices"][0]
    body = {
        "model": "it", "messages": ASK, "max_tokens": 20, "temperature": 0,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    with client.stream("POST", CHAT, json=body) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert lines.pop() == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert chunks[-1]["usage"]["completion_tokens"] == 20
    told = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(c["delta"]["content"] for c in told) == whole["message"]["content"]
    assert len(told) > 3
    ends = [chunk for chunk in chunks if "tapestry" in chunk]
    assert [c["choices"][0]["finish_reason"] for c in ends] == [whole["finish_reason"]]
    assert ends[0]["tapestry"]["model"] == "it"


def test_echo_scores_the_prompt_as_evaluations_ask_for_it(
    client: httpx.Client,
) -> None:
    tokens = [65, 66, 67, 68]
    body: dict[str, Any] = {
        "prompt": tokens,
        "echo": True,
        "logprobs": 1,
        "max_tokens": 1,
        "seed": 3,
    }
    (choice,) = text(client, **body)["choices"]
    found = choice["logprobs"]
    assert {len(found[key]) for key in found} == {5}
    assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
    assert found["text_offset"] == [0, 1, 2, 3, 4]
    with torch.no_grad():
        logits = build_tiny().module(input_ids=torch.tensor([tokens])).logits[0]
    want = torch.log_softmax(logits.float(), dim=-1)
    for place, token in enumerate(tokens[1:]):
        score = found["token_logprobs"][place + 1]
        assert score == pytest.approx(want[place, token].item(), abs=1e-4)
        (best,) = found["top_logprobs"][place + 1].values()
        assert best == pytest.approx(want[place].max().item(), abs=1e-4)
    assert choice["text"].startswith("bcde")
    alone = text(client, **{**body, "max_tokens": 0})["choices"][0]
    assert alone["text"] == "bcde"
    assert alone["logprobs"]["token_logprobs"] == found["token_logprobs"][:4]


def test_several_prompts_and_answers_come_in_order(client: httpx.Client) -> None:
    found = text(client, prompt=["one", "two"], n=2, seed=1, temperature=1)["choices"]
    assert [each["index"] for each in found] == [0, 1, 2, 3]
    again = text(client, prompt=["one", "two"], n=2, seed=1, temperature=1)["choices"]
    assert [each["text"] for each in again] == [each["text"] for each in found]
    assert found[0]["text"] != found[1]["text"]
    alone = text(client, prompt="two", seed=2, temperature=1)["choices"][0]["text"]
    assert alone == found[3]["text"]


def test_a_stop_text_ends_the_answer_before_itself(client: httpx.Client) -> None:
    whole = chat(client, "de", max_tokens=30)["choices"][0]["message"]["content"]
    stop = whole[5:7]
    found = chat(client, "de", max_tokens=30, stop=[stop])["choices"][0]
    assert found["finish_reason"] == "stop"
    assert found["message"]["content"] == whole[: whole.find(stop)]


def test_a_dialogue_is_answered_by_its_template(client: httpx.Client) -> None:
    turns = ("hello", "hi there", "how are you?")
    messages = Dialogue(turns=turns).messages()
    found = chat(client, messages=messages, max_tokens=8)
    (want,) = build_tiny().complete_all([Dialogue(turns=turns)], max_tokens=8)
    assert found["choices"][0]["message"]["content"] == want


BAD: dict[str, tuple[Any, int, str, str | None]] = {
    "no JSON": (b"{", 400, "body_invalid", None),
    "NaN": (b'{"temperature": NaN}', 400, "body_invalid", None),
    "a key twice": (b'{"model": "de", "model": "it"}', 400, "body_invalid", None),
    "a list": (b"[]", 400, "body_invalid", None),
    "half a character": (b'{"model": "\\ud800"}', 400, "body_invalid", None),
    "no UTF-8": (b'{"model": "\xff"}', 400, "body_invalid", None),
    "deep": (b"[" * 100_000, 400, "body_invalid", None),
    "no messages": ({"model": "de"}, 400, "parameter_invalid", "messages"),
    "temperature": ({"temperature": 1e9}, 400, "parameter_invalid", "temperature"),
    "max_tokens": ({"max_tokens": -1}, 400, "parameter_invalid", "max_tokens"),
    "a huge number": ({"seed": 10**40}, 400, "parameter_invalid", "seed"),
    "a type": ({"model": 5}, 400, "parameter_invalid", "model"),
    "n": ({"n": 5}, 400, "parameter_invalid", "n"),
    "top_logprobs": ({"top_logprobs": 2}, 400, "parameter_invalid", "top_logprobs"),
    "tools": ({"tools": [{"type": "function"}]}, 400, "unsupported", "tools"),
    "a penalty": ({"presence_penalty": 0.5}, 400, "unsupported", "presence_penalty"),
    "an unknown one": ({"best": 1}, 400, "unsupported", "best"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        400, "parameter_invalid", "messages.0.content",
    ),
    "the last turn": (
        {"messages": [*ASK, {"role": "assistant", "content": "x"}]},
        400, "parameter_invalid", "messages",
    ),
    "too long": (
        {"messages": [{"role": "user", "content": "x" * 2000}]},
        400, "context_length_exceeded", "prompt",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_body_is_told_by_parameter_and_repeats_nothing(
    client: httpx.Client, case: str
) -> None:
    given, status, code, param = BAD[case]
    if isinstance(given, dict) and case != "no messages":
        given = {"model": "de", "messages": ASK, **given}
    found, error = refusal(client, CHAT, given)
    assert (found, error["code"], error["param"]) == (status, code, param)
    assert error["type"] == "invalid_request_error"
    assert "hello" not in error["message"]
    assert "\n" not in error["message"]


def test_what_clients_send_by_default_is_taken(client: httpx.Client) -> None:
    chat(
        client, user="me", n=1, presence_penalty=0, frequency_penalty=0.0,
        logit_bias=None, tools=None, store=False, response_format=None, metadata={},
    )  # fmt: skip


def test_a_body_that_is_too_long_is_not_read_on(client: httpx.Client) -> None:
    assert refusal(client, CHAT, b" " * (2 << 20))[0] == 413


def test_other_hosts_and_other_pages_are_refused(url: str) -> None:
    for headers, code in (
        ({"host": "evil.example"}, "host_not_allowed"),
        ({"origin": "https://evil.example"}, "origin_not_allowed"),
    ):
        answer = httpx.get(f"{url}/v1/models", headers=headers, trust_env=False)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, code)


def test_behind_a_proxy_the_public_page_may_ask() -> None:
    access = Access(hosts=frozenset({"ask.example"}), origin="https://ask.example")
    for host, origin, code in (
        ("ask.example", "https://ask.example", None),
        ("ask.example:443", None, None),
        ("ask.example", "http://ask.example", None),  # as the proxy spells it
        ("ask.example", "https://evil.example", "origin-not-allowed"),
        ("evil.example", "https://ask.example", "host-not-allowed"),
    ):
        headers = [(b"host", host.encode())]
        headers += [] if origin is None else [(b"origin", origin.encode())]
        scope = {
            "type": "http", "method": "GET", "path": "/v1/models", "headers": headers,
            "scheme": "http", "query_string": b"", "server": ("127.0.0.1", 8000),
        }  # fmt: skip
        if code is None:
            access.check(Request(scope))
        else:
            with refused(HttpRefusal, code):
                access.check(Request(scope))


def test_a_token_is_asked_for_where_there_is_one(folders: Path) -> None:
    token = b"t" * 32
    with running(load(folders), tokens=(b"u" * 32, token)) as url:
        for given, status in ((None, 401), ("x" * 32, 401), (token.decode(), 200)):
            headers = {} if given is None else {"authorization": f"Bearer {given}"}
            answer = httpx.get(f"{url}/v1/models", headers=headers, trust_env=False)
            assert answer.status_code == status
        assert httpx.get(f"{url}/health", trust_env=False).json() == {"status": "ok"}


def test_the_client_of_openai_reads_answers_streams_and_errors(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as asked:
        ids = [each.id for each in asked.models.list()]
        assert ids == ["base", "de", "it"]
        for model in ids:
            answer = asked.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "hi"}],
                max_tokens=4, temperature=0, logprobs=True, top_logprobs=2,
            )  # fmt: skip
            assert answer.choices[0].logprobs is not None
            assert len(answer.choices[0].logprobs.content or ()) == 4
            extra = answer.model_extra or {}
            assert extra["tapestry"]["model"] == model
            stream = asked.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "hi"}],
                max_tokens=4, temperature=0, stream=True,
            )  # fmt: skip
            said = "".join(each.choices[0].delta.content or "" for each in stream)
            assert said == answer.choices[0].message.content
        with pytest.raises(openai.NotFoundError) as caught:
            asked.completions.create(model="nobody", prompt="x")
        assert caught.value.code == "model_not_found"


def test_tokens_and_texts_are_turned_into_each_other(client: httpx.Client) -> None:
    tokens = client.post("/v1/tokenize", json={"prompt": "hello"}).json()["tokens"]
    assert tokens[0] == 256
    back = client.post("/v1/detokenize", json={"tokens": tokens[1:]}).json()
    assert back == {"prompt": "hello"}
    status, error = refusal(client, "/v1/detokenize", {"tokens": [10**6]})
    assert (status, error["code"]) == (400, "parameter_invalid")
    special = client.get("/v1/tokenizer_info").json()
    assert {"</s>", "<s>", "<pad>"} <= set(special.values())


def test_nothing_of_a_prompt_is_logged(
    client: httpx.Client, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    canary = "a-prompt-that-nobody-may-see"
    with caplog.at_level(logging.DEBUG):
        chat(client, messages=[{"role": "user", "content": canary}])
        refusal(client, CHAT, {"model": canary, "messages": ASK, "seed": canary})
    ours = [r for r in caplog.records if not r.name.startswith(("httpx", "httpcore"))]
    assert not any(canary in record.getMessage() for record in ours)
    assert canary not in "".join(capfd.readouterr())


def test_a_fault_of_the_program_repeats_no_prompt(
    client: httpx.Client,
    models: ServedModels,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: Any,
) -> None:
    def fail(_: Any) -> Any:
        raise ValueError("a-prompt-that-nobody-may-see")

    monkeypatch.setattr(type(models.model), "prompt_tokens", fail)
    status, error = refusal(client, CHAT, {"model": "de", "messages": ASK})
    assert (status, error["code"], error["type"]) == (
        500,
        "request_failed",
        "server_error",
    )
    said = json.dumps(error) + caplog.text + "".join(capfd.readouterr())
    assert "nobody-may-see" not in said
    assert "a request failed with" in caplog.text


def test_no_other_route_is_there(client: httpx.Client) -> None:
    assert client.get("/v1/files").status_code == 404
    assert client.get(CHAT).status_code == 405
    assert client.get("/v1/x/y").status_code == 404
