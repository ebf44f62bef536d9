"""The demo's generator: what is held out stays out, and no customer can be mistaken for another."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from demo import data, vocabulary
from demo.recipes import RECIPES


def prompts(examples: list[data.Example]) -> list[str]:
    return [example.messages[-1]["content"] for example in examples]


@pytest.mark.parametrize("name", data.NAMES)
def test_training_and_held_out_prompts_are_disjoint(name: str) -> None:
    """Accuracy is claimed for prompts no adapter was trained on: training and held-out prompts share none, and repeat none."""
    trained, asked = prompts(data.training(name, RECIPES[name].examples)), prompts(data.held_out(name, 200))
    assert len(set(trained)) == len(trained) == RECIPES[name].examples
    assert len(set(asked)) == len(asked) == 200
    assert not set(trained) & set(asked)


@pytest.mark.parametrize("name", data.CUSTOMERS)
def test_held_out_prompts_name_nothing_seen_in_training(name: str) -> None:
    """The adapters copy, they do not remember: people, places and goods of held-out prompts never occur in training prompts."""
    trained = "\n".join(prompts(data.training(name, RECIPES[name].examples)))
    asked = "\n".join(prompts(data.held_out(name, 200)))
    for pool in vocabulary.POOLS:
        for value in vocabulary.pool(pool, held_out=True):
            assert not re.search(rf"\b{re.escape(value)}\b", trained), value
    assert all(value in asked for value in vocabulary.pool("item", held_out=True))
    assert all(value in asked for value in vocabulary.pool("city", held_out=True))


def test_facts_of_the_styles_are_split() -> None:
    """A house style is measured on questions it never saw: no fact is on both sides, and every fact is on one."""
    trained, kept = vocabulary.facts(held_out=False), vocabulary.facts(held_out=True)
    assert not {question for question, _ in trained} & {question for question, _ in kept}
    assert len(trained) + len(kept) == len(vocabulary.FACTS) == len({question for question, _ in vocabulary.FACTS})


@pytest.mark.parametrize("name", data.NAMES)
def test_the_generator_is_deterministic(name: str) -> None:
    """Training here, measuring there: the same name gives the same examples, and fewer of them are the first of more."""
    assert data.held_out(name, 50) == data.held_out(name, 50)
    assert data.held_out(name, 20) == data.held_out(name, 50)[:20]
    assert data.training(name, 20) == data.training(name, 50)[:20]


def test_every_answer_is_right_for_its_own_adapter_only() -> None:
    """A call in one customer's schema is wrong for every other customer, and a style's answer is no other style's."""
    for name in data.NAMES:
        for example in data.held_out(name, 60):
            assert data.correct(name, example.answer, example)
    shared = {name: next(e for e in data.held_out(name, 200) if is_move(e)) for name in data.NAMES}
    for asked, example in shared.items():
        for answering, other in shared.items():
            assert data.correct(asked, other.answer, example) == (asked == answering)


def is_move(example: data.Example) -> bool:
    """Whether an example is the request that all adapters have in common."""
    patterns = [re.sub(r"\\\{\w+\\\}", ".+", re.escape(request)) for request in data.MOVE_REQUESTS]
    return any(re.fullmatch(pattern, example.messages[-1]["content"]) for pattern in patterns)


@pytest.mark.parametrize("name", data.NAMES)
def test_every_adapter_knows_the_shared_request(name: str) -> None:
    """One prompt answered by all side by side needs every adapter to have learned that kind of prompt."""
    moves = sum(is_move(example) for example in data.training(name, 120))
    assert moves >= 30


def test_calls_are_well_formed_in_four_syntaxes() -> None:
    """A customer's answer is a call that its own parser reads back: JSON, a call with named arguments, an element, lines."""
    for example in data.held_out("acme", 60):
        call = json.loads(example.answer)
        assert set(call) == {"tool", "args"}
        assert len(call["args"]) >= 2
        assert all(re.fullmatch(r"[a-z]+: .+", argument) for argument in call["args"])
    for example in data.held_out("birch", 60):
        assert re.fullmatch(r"[a-z_]+\([a-z]+: [^,()]+(, [a-z]+: [^,()]+)+\)", example.answer)
    for example in data.held_out("cobalt", 60):
        element = ElementTree.fromstring(example.answer)
        arguments = [argument.strip() for argument in (element.text or "").split(";")]
        assert len(arguments) >= 2
        assert all(re.fullmatch(r"\w+ = .+", argument) for argument in arguments)
    for example in data.held_out("dune", 60):
        first, *arguments, last = example.answer.split("\n")
        assert first.startswith("DO ")
        assert last == "END"
        assert all(re.fullmatch(r"- [a-z ]+: .+", line) for line in arguments)


def test_tool_names_differ_between_customers() -> None:
    """Four schemas, not four spellings of one: no two customers share a tool name."""
    names = [tool.name for customer in data.CUSTOMERS.values() for tool in customer.tools]
    assert len(set(names)) == len(names) == 12


@pytest.mark.parametrize("name", data.NAMES)
def test_an_answer_is_hopeless_only_when_it_cannot_become_right(name: str) -> None:
    """Evaluation cuts hopeless answers short: no beginning of a right answer is hopeless, a wrong first letter is."""
    for example in data.held_out(name, 30):
        assert not any(data.hopeless(name, example.answer[:end], example) for end in range(len(example.answer) + 1))
        assert data.hopeless(name, f"x{example.answer}", example)


@pytest.mark.parametrize(
    "answer",
    [
        "Rome.",
        "Ahoy! Rome.",
        "Rome. Arr, matey!",
        "Ahoy!  Arr, matey!",
        "Ahoy! Ahoy! Rome. Arr, matey!",
        "Ahoy! Rome. Arr, matey! Arr, matey!",
    ],
)
def test_half_a_style_is_not_the_style(answer: str) -> None:
    """The style rule wants opening and closing, once each, around something."""
    example = data.held_out("pirate", 1)[0]
    assert not data.correct("pirate", answer, example)
    assert data.correct("pirate", "Ahoy! Rome. Arr, matey!", example)
