"""Module patterns: the same matches as PEFT's, in bounded time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from manylora.adapters.patterns import ModulePattern, PatternedValue, Targets, ending_pattern
from manylora.types.model import PROJECTIONS, module_name

DECODER = [module_name(layer, projection) for layer in (0, 1, 10, 11) for projection in PROJECTIONS]
MODULES = [*DECODER, "lm_head", "model.embed_tokens"]
NAMES = ["model", "layers", "1", "10", "mlp", "self_attn", "q_proj", "up_proj", "proj"]
OPERATORS = [
    "layer",
    "lm_head",
    ".",
    r"\.",
    ".*",
    ".+",
    "?",
    "|",
    r"\d",
    r"\d+",
    "[01]",
    "[qkv]",
    "^",
    "$",
    "(?:",
    "(",
    ")",
    "(?i)",
]
patterns = st.lists(st.sampled_from(NAMES + OPERATORS), min_size=1, max_size=8).map("".join)
endings = st.lists(st.sampled_from(NAMES), min_size=1, max_size=5).map(".".join)


@given(pattern=patterns)
@settings(max_examples=400, deadline=None)
def test_a_target_pattern_matches_what_peft_matches(pattern: str) -> None:
    """Two regex engines must agree on every module, for every expression that both accept."""
    try:
        targets = Targets(ModulePattern(pattern))
    except ValueError:
        return
    config = LoraConfig(target_modules=pattern)
    assert [module in targets for module in MODULES] == [bool(check_target_module_exists(config, module)) for module in MODULES]


@given(values=st.dictionaries(patterns | endings, st.integers(1, 9), max_size=4))
@settings(max_examples=400, deadline=None)
def test_a_patterned_value_is_the_one_peft_picks(values: dict[str, int]) -> None:
    """rank_pattern and alpha_pattern: the first key that matches wins, as in PEFT."""
    try:
        ours = PatternedValue(8, tuple((ending_pattern(key), value) for key, value in values.items()))
    except ValueError:
        return
    for module in MODULES:
        assert ours.of(module) == values.get(get_pattern_key(list(values), module), 8)


@given(
    modules=st.lists(endings, min_size=1, max_size=3),
    excluded=st.lists(endings, max_size=2),
    layers=st.none() | st.lists(st.sampled_from([0, 1, 10]), max_size=2),
    lists=st.lists(st.sampled_from(["layers", "model", "layer", "mlp", "model.layers"]), max_size=2),
)
@settings(max_examples=400, deadline=None)
def test_listed_targets_are_those_of_peft(
    modules: list[str], excluded: list[str], layers: list[int] | None, lists: list[str]
) -> None:
    """Names, name endings, exclusions and layer selection choose the modules that PEFT chooses."""
    config = LoraConfig(
        target_modules=modules,
        exclude_modules=excluded or None,
        layers_to_transform=layers,
        layers_pattern=lists if layers else None,
    )
    targets = Targets(tuple(modules), tuple(excluded), tuple(layers or ()), tuple(lists if layers else ()))
    for module in MODULES[:-2]:
        assert (module in targets) == (check_target_module_exists(config, module) is True), module


@pytest.mark.parametrize("pattern", [r"(.*)*(.*)*(.*)*x", r"(a|a)" * 40 + "b", r".?" * 60 + "x", r"(.+)+$" * 8])
def test_no_pattern_takes_long(pattern: str) -> None:
    """Expressions that take a backtracking matcher longer than anyone waits are answered at once."""
    assert not ModulePattern(pattern).matches("a" * 60)
