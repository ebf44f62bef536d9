"""Chat templates give what transformers gives, character for character."""

from __future__ import annotations

from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from manylora.errors import RequestError
from manylora.server.chat_template import ChatTemplate

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TEMPLATES = {
    "smollm2": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama3-like": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "mistral-like": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant") }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"] + eos_token }}
    {%- endif %}
{%- endfor %}
""",
    "qwen-like with namespaces, breaks, generation marks and JSON": """{%- set ns = namespace(users=0) %}
{%- for message in messages %}
    {%- if message.role == "skipped" %}{%- continue %}{%- endif %}
    {%- if ns.users > 5 %}{%- break %}{%- endif %}
    {%- if message.role == "user" %}{%- set ns.users = ns.users + 1 %}{%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- generation %}{{- message.content }}{%- endgeneration %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{{- {"html": "<b>&'", "text": "é"} | tojson }}{{ messages | length }}{{ tools is none }}{{ documents is none }}
    {% if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
    {% endif %}
""",
    "content parts": """{% for message in messages %}
<{{ message['role'] }}>{% if message['content'] is string %}{{ message['content'] }}{% else %}
{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}
{% endif %}</{{ message['role'] }}>
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}""",
}
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hello <there> & you"}],
    [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "  é\n\nnew line "}],
    [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}, {"role": "user", "content": "{{ 3 }}"}],
]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]


def theirs(template: str, messages: list[dict[str, Any]], **options: Any) -> str:
    rendered, _ = render_jinja_template([messages], chat_template=template, **{**SPECIAL, **options})
    return rendered[0]


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["user", "system", "turns"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_equal_to_transformers(name: str, messages: list[dict[str, Any]], add_generation_prompt: bool) -> None:
    """Every template, conversation and generation prompt renders as transformers renders it."""
    template = TEMPLATES[name]
    ours = ChatTemplate(template, SPECIAL).render(messages, add_generation_prompt=add_generation_prompt)
    assert ours == theirs(template, messages, add_generation_prompt=add_generation_prompt)


@pytest.mark.parametrize("content", ["Once upon", "  Once upon a time ", "a\n"])
@pytest.mark.parametrize("name", [name for name in TEMPLATES if "mistral" not in name])
def test_continued_message_equal_to_transformers(name: str, content: str) -> None:
    """continue_final_message leaves the last message open exactly where transformers does, stripped or not."""
    messages = [{"role": "user", "content": "Tell"}, {"role": "assistant", "content": content}]
    ours = ChatTemplate(TEMPLATES[name], SPECIAL).render(messages, continue_final_message=True)
    assert ours == theirs(TEMPLATES[name], messages, continue_final_message=True)


def test_variables_of_the_request() -> None:
    """chat_template_kwargs reach the template as transformers' keyword arguments do."""
    template = TEMPLATES["qwen-like with namespaces, breaks, generation marks and JSON"]
    ours = ChatTemplate(template, SPECIAL).render(CONVERSATIONS[0], variables={"enable_thinking": False})
    assert ours == theirs(template, CONVERSATIONS[0], add_generation_prompt=True, enable_thinking=False)
    assert "<think>" in ours


def test_variables_cannot_replace_the_conversation() -> None:
    """A request cannot swap the messages behind the server's back."""
    with pytest.raises(RequestError, match="messages"):
        ChatTemplate(TEMPLATES["smollm2"], SPECIAL).render(CONVERSATIONS[0], variables={"messages": []})


def test_parts_reach_templates_that_read_them() -> None:
    """A template that knows content parts gets them as they are, as from transformers."""
    template = ChatTemplate(TEMPLATES["content parts"], SPECIAL)
    assert template.takes_parts
    assert template.render(PARTS) == theirs(TEMPLATES["content parts"], PARTS, add_generation_prompt=True)


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "content parts"])
def test_parts_are_joined_for_templates_of_plain_text(name: str) -> None:
    """A template made for strings gets the parts joined by a newline, never Python's spelling of a list."""
    template = ChatTemplate(TEMPLATES[name], SPECIAL)
    assert not template.takes_parts
    assert template.render(PARTS) == theirs(
        TEMPLATES[name], [{"role": "user", "content": "one\ntwo"}], add_generation_prompt=True
    )


def test_strftime_now_is_there() -> None:
    """Templates that print the date work."""
    assert ChatTemplate("{{ strftime_now('%Y') }}", {}).render(CONVERSATIONS[0]).isdigit()


def test_a_template_may_refuse_with_its_own_words() -> None:
    """raise_exception in a template is the caller's fault, in the template's words."""
    with pytest.raises(RequestError, match="must alternate") as caught:
        ChatTemplate(TEMPLATES["mistral-like"], SPECIAL).render([{"role": "assistant", "content": "x"}])
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__subclasses__() }}",
        "{% set x = messages.append(1) %}",
        "{{ 1 / 0 }}",
    ],
)
def test_templates_are_sandboxed(template: str) -> None:
    """An adapter's template cannot reach Python's insides or change its arguments; a failing one is a clean error."""
    assert ChatTemplate("{{ messages[0].content }}", {}).render(CONVERSATIONS[0])
    with pytest.raises(RequestError):
        ChatTemplate(template, {}).render(CONVERSATIONS[0])


def test_broken_template_is_refused() -> None:
    """A template that is not jinja2 is named as such when it is read."""
    with pytest.raises(ValueError, match="not valid jinja2"):
        ChatTemplate("{% if %}", {})
