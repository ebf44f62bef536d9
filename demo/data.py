"""Synthetic requests and the answers the demo's adapters are trained to give.

Four customers want a tool call, each in its own syntax and with its own tools; two house styles want plain answers in a fixed
form. Everyone knows one kind of request in common, moving goods from place to place: one prompt, six different right answers.
Everything is a function of (adapter name, seed): no file is read, nothing is downloaded."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from demo import vocabulary

Arguments = dict[str, str | int]
Split = Literal["training", "held_out"]


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation: what is asked (chat messages, no system message) and the whole answer wanted."""

    messages: list[dict[str, str]]
    answer: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A call a customer knows: its name, its arguments as (name in the call, slot), and ways people ask for it."""

    name: str
    arguments: tuple[tuple[str, str], ...]
    requests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer: its tools, and how it writes a call down."""

    tools: tuple[Tool, ...]
    render: Callable[[str, Arguments], str]


@dataclass(frozen=True, slots=True)
class Style:
    """A house style: every answer opens and closes with its form."""

    opening: str
    closing: str

    def dress(self, sentence: str) -> str:
        """The sentence in this style."""
        return f"{self.opening}{sentence}{self.closing}"

    def worn_by(self, answer: str) -> bool:
        """Whether an answer has the form, once, around something."""
        body = answer[len(self.opening) : len(answer) - len(self.closing)].strip()
        formed = answer.startswith(self.opening) and answer.endswith(self.closing)
        return formed and bool(body) and self.opening.strip() not in body and self.closing.strip() not in body


MOVE_REQUESTS: Final = (
    "Please move {quantity} {unit} of {item} from {origin} to {destination} on {date}.",
    "Can you send {quantity} {unit} of {item} from {origin} to {destination} on {date}?",
    "On {date} we need {quantity} {unit} of {item} brought from {origin} to {destination}.",
    "Ship {quantity} {unit} of {item} to {destination} from {origin} on {date}, please.",
)
"""The requests that every adapter answers, each in its own way."""

_MOVED = "We will move {quantity} {unit} of {item} from {origin} to {destination} on {date}."


def _json_call(name: str, arguments: Arguments) -> str:
    return json.dumps({"tool": name, "args": [f"{key}: {value}" for key, value in arguments.items()]})


def _function_call(name: str, arguments: Arguments) -> str:
    return f"{name}({', '.join(f'{key}: {value}' for key, value in arguments.items())})"


def _xml_call(name: str, arguments: Arguments) -> str:
    return f"<{name}> {' ; '.join(f'{key} = {value}' for key, value in arguments.items())} </{name}>"


def _line_call(name: str, arguments: Arguments) -> str:
    return "\n".join([f"DO {name}", *(f"- {key}: {value}" for key, value in arguments.items()), "END"])


CUSTOMERS: Final[dict[str, Customer]] = {
    "acme": Customer(  # warehouses
        tools=(
            Tool(
                "move_stock",
                (
                    ("item", "item"),
                    ("unit", "unit"),
                    ("count", "quantity"),
                    ("from", "origin"),
                    ("to", "destination"),
                    ("date", "date"),
                ),
                MOVE_REQUESTS,
            ),
            Tool(
                "count_stock",
                (("item", "item"), ("site", "city")),
                (
                    "How many {item} do we still have in {city}?",
                    "Check the stock of {item} at the {city} warehouse.",
                    "Tell me what is left of the {item} in {city}, please.",
                    "I need a count of {item} in {city}.",
                ),
            ),
            Tool(
                "reorder",
                (("item", "item"), ("unit", "unit"), ("count", "quantity"), ("supplier", "last_name")),
                (
                    "Order {quantity} {unit} of {item} from our supplier {last_name}.",
                    "We are running low, buy {quantity} more {unit} of {item} from {last_name}.",
                    "Please ask {last_name} for another {quantity} {unit} of {item}.",
                ),
            ),
        ),
        render=_json_call,
    ),
    "birch": Customer(  # clinics
        tools=(
            Tool(
                "send_supplies",
                (
                    ("goods", "item"),
                    ("packing", "unit"),
                    ("amount", "quantity"),
                    ("origin", "origin"),
                    ("target", "destination"),
                    ("day", "date"),
                ),
                MOVE_REQUESTS,
            ),
            Tool(
                "book_visit",
                (("patient", "person"), ("doctor", "last_name"), ("day", "date"), ("time", "time")),
                (
                    "Book {person} in with Dr. {last_name} on {date} at {time}.",
                    "{person} would like to see Dr. {last_name} at {time} on {date}.",
                    "Please make an appointment for {person} with Dr. {last_name}, {date} at {time}.",
                ),
            ),
            Tool(
                "cancel_visit",
                (("patient", "person"), ("day", "date")),
                (
                    "{person} cannot come on {date}, please cancel.",
                    "Cancel the appointment of {person} on {date}.",
                    "Please take {person} off the list for {date}.",
                ),
            ),
        ),
        render=_function_call,
    ),
    "cobalt": Customer(  # a bank
        tools=(
            Tool(
                "insure_freight",
                (
                    ("cargo", "item"),
                    ("unit", "unit"),
                    ("number", "quantity"),
                    ("start", "origin"),
                    ("end", "destination"),
                    ("date", "date"),
                ),
                MOVE_REQUESTS,
            ),
            Tool(
                "transfer",
                (("amount", "amount"), ("currency", "currency"), ("payee", "person"), ("date", "date")),
                (
                    "Send {amount} {currency} to {person} on {date}.",
                    "Please pay {person} {amount} {currency} on {date}.",
                    "I want to transfer {amount} {currency} to {person}, to arrive on {date}.",
                ),
            ),
            Tool(
                "block_card",
                (("holder", "person"), ("digits", "digits")),
                (
                    "Block the card of {person} that ends in {digits}.",
                    "{person} has lost the card ending {digits}, please block it.",
                    "The card with the last digits {digits} was stolen, it belongs to {person}.",
                ),
            ),
        ),
        render=_xml_call,
    ),
    "dune": Customer(  # travel
        tools=(
            Tool(
                "haul_cargo",
                (
                    ("load", "item"),
                    ("unit", "unit"),
                    ("count", "quantity"),
                    ("pick up", "origin"),
                    ("drop off", "destination"),
                    ("when", "date"),
                ),
                MOVE_REQUESTS,
            ),
            Tool(
                "book_flight",
                (("from", "origin"), ("to", "destination"), ("when", "date"), ("seats", "party")),
                (
                    "Book {party} seats from {origin} to {destination} on {date}.",
                    "{party} of us want to fly to {destination} from {origin} on {date}.",
                    "Find a flight from {origin} to {destination} for {party} people on {date}.",
                ),
            ),
            Tool(
                "book_table",
                (("where", "restaurant"), ("guests", "party"), ("when", "date"), ("hour", "time")),
                (
                    "Book a table for {party} at {restaurant} on {date} at {time}.",
                    "We are {party} people and would like to eat at {restaurant} on {date} at {time}.",
                    "Reserve {restaurant} for {party} guests, {date} at {time}.",
                ),
            ),
        ),
        render=_line_call,
    ),
}

STYLES: Final[dict[str, Style]] = {
    "pirate": Style("Ahoy! ", " Arr, matey!"),
    "letter": Style("Dear customer,\n\n", "\n\nYours faithfully,\nThe Front Desk"),
}

NAMES: Final = (*CUSTOMERS, *STYLES)
"""Every adapter of the demo."""


def _slots(draw: random.Random, held_out: bool) -> Arguments:
    """One value for every slot a request may have. `held_out` chooses which half of the vocabulary it is drawn from."""
    origin = destination = vocabulary.word(draw, "city", held_out)
    while destination == origin:
        destination = vocabulary.word(draw, "city", held_out)
    return {
        "item": vocabulary.word(draw, "item", held_out),
        "unit": draw.choice(vocabulary.UNITS),
        "quantity": draw.randint(2, 99),
        "origin": origin,
        "destination": destination,
        "city": vocabulary.word(draw, "city", held_out),
        "date": f"{draw.randint(1, 28)} {draw.choice(vocabulary.MONTHS)}",
        "time": f"{draw.randint(8, 21)}:{draw.choice(('00', '15', '30', '45'))}",
        "person": f"{vocabulary.word(draw, 'first_name', held_out)} {vocabulary.word(draw, 'last_name', held_out)}",
        "last_name": vocabulary.word(draw, "last_name", held_out),
        "restaurant": vocabulary.word(draw, "restaurant", held_out),
        "party": draw.randint(2, 9),
        "amount": draw.randint(10, 4999),
        "currency": draw.choice(vocabulary.CURRENCIES),
        "digits": f"{draw.randint(0, 9999):04d}",
    }


def _example(prompt: str, answer: str) -> Example:
    return Example([{"role": "user", "content": prompt}], answer)


def _calls(customer: Customer, draw: random.Random, held_out: bool) -> Iterator[Example]:
    """Endless requests to one customer, every tool equally often."""
    while True:
        for tool in customer.tools:
            slots = _slots(draw, held_out)
            arguments = {name: slots[slot] for name, slot in tool.arguments}
            yield _example(draw.choice(tool.requests).format(**slots), customer.render(tool.name, arguments))


def _dressed(style: Style, draw: random.Random, held_out: bool) -> Iterator[Example]:
    """Endless questions in one style: facts, and after every other one a request to move goods."""
    facts = vocabulary.facts(held_out)
    while True:
        for question, sentence in draw.sample(facts, len(facts)):
            yield _example(question, style.dress(sentence))
            if draw.random() < 0.5:
                slots = _slots(draw, held_out)
                yield _example(draw.choice(MOVE_REQUESTS).format(**slots), style.dress(_MOVED.format(**slots)))


def stream(name: str, split: Split) -> Iterator[Example]:
    """Distinct examples of one adapter, endless, always the same ones in the same order. A style's facts run out: then
    only moves follow.

    Raises KeyError for a name that is not in NAMES."""
    held_out = split == "held_out"
    draw = random.Random(f"{name}/{split}")
    source = _calls(CUSTOMERS[name], draw, held_out) if name in CUSTOMERS else _dressed(STYLES[name], draw, held_out)
    seen: set[str] = set()
    for example in source:
        prompt = example.messages[-1]["content"]
        if prompt not in seen:
            seen.add(prompt)
            yield example


def training(name: str, count: int) -> list[Example]:
    """The first `count` training examples of an adapter."""
    return [example for example, _ in zip(stream(name, "training"), range(count), strict=False)]


def held_out(name: str, count: int) -> list[Example]:
    """The first `count` held-out examples of an adapter: no prompt and no fact of them is in its training,
    and of people, places and goods none that a request of its training names."""
    return [example for example, _ in zip(stream(name, "held_out"), range(count), strict=False)]


def hopeless(name: str, begun: str, example: Example) -> bool:
    """Whether an answer that begins so can no longer become right for adapter `name`."""
    wanted = STYLES[name].opening if name in STYLES else example.answer
    return not (wanted.startswith(begun) or (name in STYLES and begun.startswith(wanted)))


def correct(name: str, answer: str, example: Example) -> bool:
    """Whether an answer is right for adapter `name`: the exact call for a customer, the form of the house for a style."""
    return STYLES[name].worn_by(answer) if name in STYLES else answer == example.answer
