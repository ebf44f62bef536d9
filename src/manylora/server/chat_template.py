"""Chat templates, rendered as transformers renders them: same environment, same filters, same variables (checked by tests)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from manylora.errors import RequestError

_CONTINUE = "CONTINUE_FINAL_MESSAGE_TAG "
_PROBE = "where the template puts text"


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; when serving it only passes its body through."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it an instance variable

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class ChatTemplate:
    """One compiled template. Raises ValueError if the source is no template."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self.source = source
        self._special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
        except Exception as error:  # jinja2 and the compiler behind it fail in more ways than TemplateError
            raise ValueError(f"the chat template is not valid jinja2: {error}") from error
        self.takes_parts = self._probe_parts()
        """Whether the template itself reads content given as a list of parts; otherwise they are joined by newlines first."""

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt text of a conversation. Raises RequestError with the template's own message where it refuses."""
        if not self.takes_parts:
            messages = [_joined(message) for message in messages]
        final = ""
        if continue_final_message:
            messages, final = self._mark_final(messages)
        text = self._run(messages, add_generation_prompt and not continue_final_message, variables or {})
        return _cut_at_mark(text, final) if continue_final_message else text

    def _run(self, messages: list[dict[str, Any]], add_generation_prompt: bool, variables: Mapping[str, Any]) -> str:
        fixed = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": add_generation_prompt}
        taken = sorted(fixed.keys() & variables.keys())
        if taken:
            raise RequestError(f"chat_template_kwargs must not set {', '.join(taken)}", "chat_template_kwargs")
        given = {**self._special_tokens, **variables, **fixed}
        try:
            return self._template.render(given)
        except MemoryError as error:
            raise RequestError("the chat template needs too much memory for these messages", "messages") from error
        except RecursionError as error:
            raise RequestError("the chat template nests too deeply for these messages", "messages") from error
        except Exception as error:  # a template may fail in any way Python can; all of them are about these messages
            raise RequestError(f"the chat template refuses these messages: {error}", "messages") from error

    def _mark_final(self, messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
        if "content" not in self.source:
            raise RequestError("continue_final_message: the chat template does not use 'content'", "continue_final_message")
        messages = deepcopy(messages)
        last = messages[-1]
        if isinstance(last["content"], str):
            final = last["content"]
            last["content"] = final + _CONTINUE
            return messages, final
        if not last["content"]:
            raise RequestError("continue_final_message: the last message has no text to continue", "continue_final_message")
        part = last["content"][-1]
        final = part["text"]
        part["text"] = final + _CONTINUE
        return messages, final

    def _probe_parts(self) -> bool:
        """Tries it: a template made for plain strings fails on a list or prints it as Python would."""
        try:
            text = self._run([{"role": "user", "content": [{"type": "text", "text": _PROBE}]}], False, {})
        except RequestError:
            return False
        return _PROBE in text and "'text'" not in text and '"text"' not in text


def _joined(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    return message if isinstance(content, str) else {**message, "content": "\n".join(part["text"] for part in content)}


def _cut_at_mark(text: str, final: str) -> str:
    mark = _CONTINUE.strip()
    if final.strip() not in text or mark not in text:
        raise RequestError(
            "continue_final_message: the chat template changes the last message so that it cannot be continued",
            "continue_final_message",
        )
    place = text.rindex(mark)
    # A template that strips messages took the mark's own trailing space too; then the text before it was stripped as well.
    kept = text[place : place + len(_CONTINUE)] == _CONTINUE
    return text[:place] if kept else text[:place].rstrip()
