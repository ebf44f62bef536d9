"""An adapter's chat template is a stranger's program: it may fail, but only its own requests."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from manylora.errors import AdapterRejected, AdapterUnavailable, EngineDied, RequestError
from manylora.server.chat_template import ChatTemplate
from manylora.server.template_process import TemplateProcess

from .conftest import write_adapter
from .live import CHATML, Live
from .test_adapters import load, unload

ENDLESS = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"
HUGE = "{{ ('x' * 4000000000) | length }}"
PLAIN = "[{{ messages[0].content }}]"
MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "naïve \ud83d"}, {"role": "assistant", "content": "so"}]


def with_process(scenario: Callable[[TemplateProcess], Awaitable[None]]) -> None:
    """Runs a scenario on the event loop that serves, and checks that no process is left."""

    async def run() -> None:
        templates = TemplateProcess()
        try:
            await scenario(templates)
        finally:
            pid = templates.pid
            await templates.close()
        if pid is not None:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def test_renders_as_in_the_server() -> None:
    """The process gives what the server itself would: options, special tokens, refusals and all that JSON can hold."""

    async def scenario(templates: TemplateProcess) -> None:
        special = {"eos_token": "</s>"}
        source = CHATML + "{{ eos_token }}{{ more }}"
        every: tuple[dict[str, Any], ...] = (
            {"add_generation_prompt": False, "variables": {"more": "é" * 300_000}},
            {"continue_final_message": True, "variables": {"more": 10**30}},
        )
        for options in every:
            expected = ChatTemplate(source, special).render(MESSAGES, **options)
            assert await templates.render(source, special, MESSAGES, options) == expected
        with pytest.raises(RequestError, match="must not set messages") as caught:
            await templates.render(source, special, MESSAGES, {"variables": {"messages": []}})
        assert caught.value.param == "chat_template_kwargs"
        with pytest.raises(RequestError, match="my own words"):
            await templates.render("{{ raise_exception('my own words') }}", special, MESSAGES, {})

    with_process(scenario)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (ENDLESS, "more than 1 s of processor time"),
        ("{{ 10 ** (10 ** 9) }}", "more than 1 s of processor time"),
        (HUGE, "too much memory"),
        ("{{ 'x' * 5000000 }}", "makes 5000000 characters"),
        ("{{ raise_exception('x' * 5000000) }}", "refuses these messages"),
    ],
    ids=["loops", "one long step", "memory", "text", "reason"],
)
def test_a_greedy_template_fails_alone(source: str, reason: str) -> None:
    """Time, memory and output of a template are bounded; the next template is rendered as if nothing had been."""

    async def scenario(templates: TemplateProcess) -> None:
        with pytest.raises(RequestError, match=reason) as caught:
            await templates.render(source, {}, MESSAGES, {})
        assert len(str(caught.value)) < 2000
        assert await templates.render(PLAIN, {}, MESSAGES, {}) == "[naïve \ud83d]"

    with_process(scenario)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% if %}", "not valid jinja2"),
        ("{% for x in y %}" * 3000 + "{% endfor %}" * 3000, "not valid jinja2"),
        ("{{ " + "(" * 100_000 + " }}", "not valid jinja2"),
    ],
    ids=["syntax", "nested loops", "nested brackets"],
)
def test_templates_are_checked_in_the_process(source: str, reason: str) -> None:
    """What does not compile is refused when its adapter is loaded."""

    async def scenario(templates: TemplateProcess) -> None:
        with pytest.raises(AdapterRejected, match=reason):
            await templates.check(source)
        await templates.check(PLAIN)

    with_process(scenario)


def test_a_template_waits_for_one_render_of_another() -> None:
    """However many requests a slow template has, another template's request waits for one of them at most."""

    async def scenario(templates: TemplateProcess) -> None:
        slow = [asyncio.create_task(templates.render(ENDLESS, {}, MESSAGES, {})) for _ in range(4)]
        await asyncio.sleep(0.01)
        await templates.render(PLAIN, {}, MESSAGES, {})
        assert sum(task.done() for task in slow) <= 1
        await templates.close()
        for result in await asyncio.gather(*slow, return_exceptions=True):
            assert isinstance(result, RequestError | AdapterUnavailable | EngineDied)

    with_process(scenario)


def test_a_lost_process_is_replaced() -> None:
    """A process that something else ended is nobody's fault: one request is asked to try again, the next is served."""

    async def scenario(templates: TemplateProcess) -> None:
        slow = asyncio.create_task(templates.render(ENDLESS, {}, MESSAGES, {}))
        while templates.pid is None:  # noqa: ASYNC110 - the process offers no event for its own start
            await asyncio.sleep(0.001)
        os.kill(templates.pid, signal.SIGKILL)
        with pytest.raises(AdapterUnavailable, match="exit code -9"):
            await slow
        slow = asyncio.create_task(templates.render(ENDLESS, {}, MESSAGES, {}))
        while templates.pid is None:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert await templates.render(PLAIN, {}, MESSAGES, {}) == "[naïve \ud83d]"

    with_process(scenario)


def test_an_endless_template_blocks_nobody_else(live: Live, roots: Path) -> None:
    """While an adapter's template runs, the server answers others; its own request gets a 400 that says why. One that never ends
    is not even loaded."""
    folder = write_adapter(roots / "allowed" / "endless", 50)
    (folder / "chat_template.jinja").write_text(ENDLESS)
    refused = load(live, "endless", "endless")
    assert refused.status_code == 400
    assert "endless: the adapter's chat template takes more than 1 s" in refused.json()["error"]["message"]
    (folder / "chat_template.jinja").write_text("{% if messages[0].content == 'q' %}" + ENDLESS + "{% endif %}")
    assert load(live, "endless", "endless").status_code == 200
    ask = {"messages": [{"role": "user", "content": "q"}], "max_tokens": 2}

    async def race() -> bool:
        """Whether the server's loop is free while the template is rendered."""
        rendering = asyncio.create_task(live.service.templates.render(ENDLESS, {}, MESSAGES, {}))
        for _ in range(20):
            await asyncio.sleep(0.001)
        free = not rendering.done()
        await asyncio.gather(rendering, return_exceptions=True)
        return free

    assert live.call(race)
    answer = live.post("/v1/chat/completions", ask | {"model": "endless"})
    assert answer.status_code == 400
    assert "processor time" in answer.json()["error"]["message"]
    assert live.post("/v1/chat/completions", ask | {"model": "acme"}).status_code == 200
    assert unload(live, "endless").status_code == 200


def test_a_copy_of_the_base_template_needs_no_process(live: Live, roots: Path) -> None:
    """Most adapters bring the base model's template as it is; their requests cost nothing more."""
    folder = write_adapter(roots / "allowed" / "copied", 51)
    (folder / "chat_template.jinja").write_text(CHATML)
    assert load(live, "copied", "copied").status_code == 200
    live.call(live.service.templates.close)
    body = {"model": "copied", "messages": [{"role": "user", "content": "q"}], "max_tokens": 2}
    try:
        assert live.post("/v1/chat/completions", body).status_code == 200
    finally:
        live.service.templates._closed = False
    assert unload(live, "copied").status_code == 200
