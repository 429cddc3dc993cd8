"""The page in Chromium: it asks, streams, shows, saves, and loads nothing else."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from tests.support.browser import Page, browsing
from tests.support.running_server import load, running, write_folders

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("chromium") is None,
        reason="chromium is not installed: the assistant's page is not tried",
    ),
]
BUSY = "document.querySelectorAll('[aria-busy=true]').length"
DONE = f"document.querySelectorAll('article').length && !{BUSY}"
READY = "document.querySelectorAll('#models input').length === 3"
WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    torch.set_num_threads(1)
    models = load(write_folders(tmp_path_factory.mktemp("serve")))
    with running(models) as found:
        yield found


@pytest.fixture
def page(url: str, tmp_path: Path) -> Iterator[Page]:
    with browsing(url, tmp_path) as found:
        found.wait(READY)
        yield found
        assert found.faults == []
        outside = [each for each in found.requested if not each.startswith(url)]
        assert [each for each in outside if not each.startswith("blob:")] == []


def ask(page: Page, text: str) -> None:
    page.run("document.getElementById('question').focus()")
    page.type(text)
    page.press("Enter")
    page.wait(f"{DONE} && !document.getElementById('send').disabled")


def answers(page: Page) -> dict[str, Any]:
    script = """Object.fromEntries([...document.querySelectorAll(
        '.columns:first-of-type article')].map(each => [
        each.querySelector('h2').textContent, {
        text: each.querySelector('.text').textContent,
        badge: each.querySelector('.badge').textContent,
        chain: each.querySelector('dl').textContent}]))"""
    return dict(page.run(script))


def test_models_answer_side_by_side_as_the_route_does(page: Page, url: str) -> None:
    ask(page, "hello")
    found = answers(page)
    assert list(found) == ["base", "de", "it"]
    assert len({each["text"] for each in found.values()}) == 3
    for name, each in found.items():
        body = {"model": name, "messages": [{"role": "user", "content": "hello"}],
                "temperature": 0, "max_tokens": 256}  # fmt: skip
        want = httpx.post(f"{url}/v1/chat/completions", json=body, trust_env=False)
        said = want.json()
        assert each["text"] == said["choices"][0]["message"]["content"]
        assert each["badge"] == "files only"
        assert said["tapestry"]["answer"] in each["chain"]
        assert said["tapestry"]["base"]["digest"] in each["chain"]


def test_a_conversation_goes_on_until_a_new_one(page: Page, url: str) -> None:
    ask(page, "hello")
    first = answers(page)["de"]["text"]
    ask(page, "and then?")
    second = answers(page)["de"]["text"]
    turns = [("user", "hello"), ("assistant", first), ("user", "and then?")]
    body = {"model": "de", "temperature": 0, "max_tokens": 256,
            "messages": [{"role": r, "content": c} for r, c in turns]}  # fmt: skip
    want = httpx.post(f"{url}/v1/chat/completions", json=body, trust_env=False).json()
    assert second == want["choices"][0]["message"]["content"]
    page.run("document.getElementById('fresh').click()")
    assert page.run("document.querySelectorAll('article').length") == 0
    ask(page, "hello")
    assert answers(page)["de"]["text"] == first


def test_what_is_said_is_text_and_never_markup(page: Page) -> None:
    ask(page, "<img src=x onerror=document.title='taken'><b>hello</b>")
    assert page.run("document.querySelector('.asked').textContent").startswith("<img")
    assert page.run("document.querySelectorAll('main img, main b').length") == 0
    assert page.run("document.title") == "Tapestry"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("language", ["en", "ar", "de"])
def test_it_fits_a_phone_and_a_desk_in_each_direction(
    page: Page, width: int, language: str
) -> None:
    page.resize(width)
    page.run(
        f"document.getElementById('interface').value = '{language}';"
        "document.getElementById('interface').dispatchEvent(new Event('change'))"
    )
    page.wait(f"document.documentElement.lang === '{language}' && {READY}")
    ask(page, "hello " * 30 + "w" * 200)
    page.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.run(WIDE) is False
    direction = page.run("getComputedStyle(document.body).direction")
    assert direction == ("rtl" if language == "ar" else "ltr")
    sizes = page.run(
        "[...document.querySelectorAll('button,select,#models label')]"
        ".map(each => each.getBoundingClientRect().height)"
    )
    assert min(sizes) >= 44
    small = page.run(
        "Math.min(...[...document.querySelectorAll('main *')]"
        ".map(each => parseFloat(getComputedStyle(each).fontSize)))"
    )
    assert small >= 12


def test_dark_and_light_have_enough_contrast(page: Page) -> None:
    ask(page, "hello")
    script = """(() => { const parse = text => text.match(/[\\d.]+/g).slice(0, 3)
        .map(n => n / 255)
        .map(c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
        const light = text => { const [r, g, b] = parse(text);
            return .2126 * r + .7152 * g + .0722 * b; };
        const back = node => { for (; node; node = node.parentElement) {
            const found = getComputedStyle(node).backgroundColor;
            if (!found.endsWith(', 0)')) return found; } return 'rgb(255,255,255)'; };
        return Math.min(...[...document.querySelectorAll(
            'p,h1,h2,label,legend,.badge,.text,dt,dd,summary,button:enabled')]
            .filter(node => node.textContent.trim())
            .map(node => { const [a, b] = [light(getComputedStyle(node).color),
                light(back(node))].sort(); return (Math.max(a, b) + .05)
                / (Math.min(a, b) + .05); })); })()"""
    for scheme in ("light", "dark"):
        page.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        assert page.run(script) >= 4.5, scheme


def test_all_is_reached_by_the_keyboard(page: Page) -> None:
    reached = []
    for _ in range(12):
        page.press("Tab")
        reached.append(
            page.run("document.activeElement.id || document.activeElement.value")
        )
    assert reached[:6] == ["interface", "base", "de", "it", "question", "send"]


def test_an_answer_is_saved_with_question_and_lineage(
    page: Page, tmp_path: Path
) -> None:
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    ask(page, "hello")
    page.run("document.querySelector('article details button').click()")
    saved = tmp_path / "complaint.json"
    for _ in range(200):
        if saved.exists():
            break
        page.run("new Promise(done => setTimeout(done, 50))")
    found = json.loads(saved.read_text("utf-8"))
    assert found["format"] == "tapestry-complaint/1"
    assert found["question"] == "hello"
    assert found["answer"] == answers(page)["base"]["text"]
    assert found["lineage"]["model"] == "base"
    assert found["lineage"]["answer"].startswith("sha256:")


def test_an_answer_under_way_can_be_stopped(page: Page) -> None:
    page.run("document.getElementById('question').focus()")
    page.type("hello")
    page.press("Enter")
    page.wait("document.querySelector('.text')?.textContent.length > 3")
    page.run("document.getElementById('stop').click()")
    page.wait("document.getElementById('status').textContent === 'Stopped.'")
    assert page.run(BUSY) == 0
    ask(page, "again")
    assert "de" in answers(page)
