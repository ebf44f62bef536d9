"""Field types whose checks say in one sentence what is wrong, where a union of types would give one complaint per alternative."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

MAX_STOPS = 16
MAX_STOP_LENGTH = 256
MAX_STOP_TOKENS = 128
MAX_PROMPTS = 2048
MAX_TOKENS = 1 << 20
"""Token ids of all prompts together; more than any supported context."""

Prompts = list[str] | list[list[int]]


def _fault(message: str) -> PydanticCustomError:
    return PydanticCustomError("invalid_value", "{reason}", {"reason": message})


def _is_token(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 31


def _token_list(value: list[Any], where: str) -> list[int]:
    if len(value) > MAX_TOKENS:
        raise _fault(f"{where} has {len(value)} token ids; at most {MAX_TOKENS} are allowed")
    for place, token in enumerate(value):
        if not _is_token(token):
            raise _fault(f"{where}[{place}] is not a token id: {token!r:.40}")
    return value


def parse_prompt(value: object) -> Prompts:
    """The prompts of a completion request: text, a list of texts, token ids, or a list of lists of token ids."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise _fault("prompt must be a string, a list of strings, a list of token ids, or a list of lists of token ids")
    if not value:
        raise _fault("prompt is empty")
    first = value[0]
    if isinstance(first, str):
        if len(value) > MAX_PROMPTS:
            raise _fault(f"prompt has {len(value)} texts; at most {MAX_PROMPTS} are allowed")
        for place, text in enumerate(value):
            if not isinstance(text, str):
                raise _fault(f"prompt[{place}] is not a string as prompt[0] is")
            if not text:
                raise _fault(f"prompt[{place}] is empty" if len(value) > 1 else "prompt is empty")
        return value
    if isinstance(first, list):
        if len(value) > MAX_PROMPTS:
            raise _fault(f"prompt has {len(value)} lists; at most {MAX_PROMPTS} are allowed")
        count = sum(len(tokens) for tokens in value if isinstance(tokens, list))
        if count > MAX_TOKENS:
            raise _fault(f"prompt has {count} token ids; at most {MAX_TOKENS} are allowed")
        for place, tokens in enumerate(value):
            if not isinstance(tokens, list):
                raise _fault(f"prompt[{place}] is not a list as prompt[0] is")
            if not tokens:
                raise _fault(f"prompt[{place}] is empty")
            _token_list(tokens, f"prompt[{place}]")
        return value
    return [_token_list(value, "prompt")]


def parse_stop(value: object) -> tuple[str, ...]:
    """Stop strings: null, one, or a list of at most 16, each of 1 to 256 characters."""
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if isinstance(stops, list) and len(stops) > MAX_STOPS:
        raise _fault(f"stop has {len(stops)} strings; at most {MAX_STOPS} are allowed")
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise _fault("stop must be a string or a list of strings")
    for stop in stops:
        if not 1 <= len(stop) <= MAX_STOP_LENGTH:
            raise _fault(f"a stop string must have 1 to {MAX_STOP_LENGTH} characters, not {len(stop)}")
    return tuple(stops)


def parse_stop_tokens(value: object) -> tuple[int, ...]:
    """Stop tokens: null, or a list of at most 128 token ids."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise _fault("stop_token_ids must be a list of token ids")
    if len(value) > MAX_STOP_TOKENS:
        raise _fault(f"stop_token_ids has {len(value)} token ids; at most {MAX_STOP_TOKENS} are allowed")
    return tuple(_token_list(value, "stop_token_ids"))


def parse_logit_bias(value: object) -> dict[int, float]:
    """Token id (as JSON's string keys) -> bias between -100 and 100."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _fault("logit_bias must be an object of token ids and numbers")
    if len(value) > 1024:
        raise _fault(f"logit_bias has {len(value)} entries; at most 1024 are allowed")
    result: dict[int, float] = {}
    for key, bias in value.items():
        if not (isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 10):
            raise _fault(f"logit_bias key {key!r:.40} is not a token id")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise _fault(f"logit_bias of token {key} is not a number between -100 and 100: {bias!r:.40}")
        result[int(key)] = float(bias)
    return result


_TOKEN = {"type": "integer", "minimum": 0, "maximum": (1 << 31) - 1}
_TEXT = {"type": "string", "minLength": 1}
_STOP = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_LENGTH}

Prompt = Annotated[
    Prompts,
    PlainValidator(parse_prompt),
    WithJsonSchema(
        {
            "title": "Prompt",
            "anyOf": [
                _TEXT,
                {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_PROMPTS},
                {"type": "array", "items": _TOKEN, "minItems": 1},
                {
                    "type": "array",
                    "items": {"type": "array", "items": _TOKEN, "minItems": 1},
                    "minItems": 1,
                    "maxItems": MAX_PROMPTS,
                },
            ],
        }
    ),
]
Stop = Annotated[
    tuple[str, ...],
    PlainValidator(parse_stop),
    WithJsonSchema(
        {
            "title": "Stop",
            "anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": MAX_STOPS}, {"type": "null"}],
            "default": None,
        }
    ),
]
StopTokens = Annotated[
    tuple[int, ...],
    PlainValidator(parse_stop_tokens),
    WithJsonSchema(
        {
            "title": "Stop Token Ids",
            "anyOf": [{"type": "array", "items": _TOKEN, "maxItems": MAX_STOP_TOKENS}, {"type": "null"}],
            "default": None,
        }
    ),
]
LogitBias = Annotated[
    dict[int, float],
    PlainValidator(parse_logit_bias),
    WithJsonSchema(
        {
            "title": "Logit Bias",
            "anyOf": [
                {
                    "type": "object",
                    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
                    "propertyNames": {"pattern": "^[0-9]{1,10}$"},
                    "maxProperties": 1024,
                },
                {"type": "null"},
            ],
            "default": None,
        }
    ),
]
