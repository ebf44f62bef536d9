"""PEFT's rules for which modules an adapter targets, and with which rank and alpha."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass

from pydantic_core import SchemaError, SchemaValidator, core_schema

_ALL_LINEAR = "all-linear"
_MAX_LENGTH = 4096


class ModulePattern:
    """A regular expression that must match a whole module name.

    Adapters come from strangers, and Python's matcher backtracks: a short expression can take it forever. So the expression
    must be valid for Python (PEFT's matcher), but is matched by Rust's linear-time engine, the one that pydantic carries. What
    only one of the two understands (look-around, back-references) is refused."""

    def __init__(self, expression: str) -> None:
        """Raises ValueError, saying why, if the expression cannot be used."""
        if len(expression) > _MAX_LENGTH:
            raise ValueError(f"is longer than {_MAX_LENGTH} characters")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # Python warns where its own meaning is about to change
                re.compile(expression)
        except (re.error, RecursionError, OverflowError, Warning) as error:
            raise ValueError(f"is not a valid regular expression ({error})") from error
        try:
            schema = core_schema.str_schema(pattern=f"^(?:{expression})$", regex_engine="rust-regex")
            self._matcher = SchemaValidator(schema)
        except SchemaError as error:
            reason = str(error).strip().splitlines()[-1].removeprefix("error: ").strip()
            raise ValueError(f"cannot be matched in bounded time ({reason})") from error

    def matches(self, module: str) -> bool:
        """Whether the expression matches all of `module`."""
        return self._matcher.isinstance_python(module)


@dataclass(frozen=True, slots=True)
class Targets:
    """Which modules are adapted. `modules` is a list of names and name endings, a pattern, or None for all linear layers."""

    modules: tuple[str, ...] | ModulePattern | None
    excluded: tuple[str, ...] | ModulePattern = ()
    layers: tuple[int, ...] = ()
    """Only these layers; all when empty. Modules listed by their whole name are adapted in any case, as in PEFT."""
    layer_lists: tuple[str, ...] = ()
    """Names of the list that `layers` counts in; any list when empty."""

    def __contains__(self, module: str) -> bool:
        """Whether PEFT would put a LoRA layer on `module`, a full name such as `model.layers.0.mlp.up_proj`."""
        if _listed(self.excluded, module):
            return False
        if self.modules is None:
            return module.startswith("model.layers.")  # the output head is never meant
        if isinstance(self.modules, ModulePattern) or module in self.modules:
            return _listed(self.modules, module)
        return _listed(self.modules, module) and (not self.layers or self._layer(module) in self.layers)

    def _layer(self, module: str) -> int | None:
        expressions = [rf"(?:^|.*?\.){name}\.(?P<idx>\d+)\." for name in self.layer_lists]
        for expression in expressions or [r".*?\.[^.]*\.(?P<idx>\d+)\."]:
            match = re.match(expression, module)
            if match is not None:
                return int(match["idx"])
        return None


def is_all_linear(modules: str) -> bool:
    """Whether `target_modules` is PEFT's shorthand for every linear layer but the output head."""
    return modules.lower() == _ALL_LINEAR


def _listed(names: tuple[str, ...] | ModulePattern, module: str) -> bool:
    if isinstance(names, ModulePattern):
        return names.matches(module)
    return any(module == name or module.endswith(f".{name}") for name in names)


@dataclass(frozen=True, slots=True)
class PatternedValue:
    """A number that patterns replace for some modules; the first pattern that matches wins."""

    default: float
    patterns: tuple[tuple[ModulePattern, float], ...] = ()

    def of(self, module: str) -> float:
        """The value that holds for `module`."""
        for pattern, value in self.patterns:
            if pattern.matches(module):
                return value
        return self.default


def ending_pattern(expression: str) -> ModulePattern:
    """The pattern of a rank_pattern or alpha_pattern key: it matches a whole name, or what follows a dot in it."""
    return ModulePattern(rf"(.*\.)?({expression})")
