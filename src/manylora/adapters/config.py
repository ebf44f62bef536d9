"""adapter_config.json: read strictly. What is not implemented is refused by name, never ignored."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from manylora.adapters.patterns import ModulePattern, PatternedValue, Targets, ending_pattern, is_all_linear
from manylora.errors import AdapterRejected

_HARMLESS = frozenset(
    {
        # How it was trained or loaded, or parameters of a feature whose own switch is checked below.
        "auto_mapping",
        "ensure_weight_tying",
        "eva_config",
        "inference_mode",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
    }
)
_READ = frozenset(
    {
        "alpha_pattern",
        "base_model_name_or_path",
        "bias",
        "exclude_modules",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "peft_type",
        "r",
        "rank_pattern",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)
_NOT_IMPLEMENTED = {
    "alora_invocation_tokens": "activated LoRA (aLoRA)",
    "arrow_config": "Arrow routing",
    "corda_config": "CorDA",
    "fan_in_fan_out": "transposed (Conv1D) layers",
    "kasa_config": "KaSA",
    "layer_replication": "layer replication",
    "loftq_config": "LoftQ",
    "lora_bias": "a bias on lora_B",
    "lora_ga_config": "LoRA-GA",
    "megatron_config": "Megatron layers",
    "modules_to_save": "fully trained modules",
    "monteclora_config": "MonteCLoRA",
    "target_parameters": "adapters on bare parameters",
    "trainable_token_indices": "trained tokens",
    "use_bdlora": "block-diagonal LoRA",
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "velora_config": "VeLoRA",
}
KNOWN_KEYS = _HARMLESS | _READ | _NOT_IMPLEMENTED.keys()
"""Every key that is understood; any other one must be off."""
MIN_SCALE, MAX_SCALE = 1e-6, 1e4
"""Of an adapted module, unless it is zero. Trained adapters lie between 0.001 and 100; beyond, they are damaged."""
_KEEPS_BASE = ("gaussian", "eva", "orthogonal", "mica")
"""Initialisations that leave the base weights alone, beside true and false."""
_PEFT_DEFAULT = 8
"""Of `r` and of `lora_alpha`."""
_MAX_PATTERNS = 4096
_LIST_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """What adapter_config.json asks for."""

    rank: PatternedValue
    alpha: PatternedValue
    rslora: bool
    targets: Targets
    base_model: str | None

    def scale(self, module: str, where: str) -> float:
        """alpha/rank, or alpha/sqrt(rank) with rsLoRA (arXiv:2312.03732), of one module. Raises AdapterRejected, opening with
        `where`, beyond MIN_SCALE and MAX_SCALE."""
        rank, alpha = self.rank.of(module), self.alpha.of(module)
        scale = alpha / math.sqrt(rank) if self.rslora else alpha / rank
        if scale != 0 and not MIN_SCALE <= abs(scale) <= MAX_SCALE:
            raise AdapterRejected(
                f"{where}: lora_alpha {alpha:g} at rank {rank:g} scales {module} by {scale:g}: outside of {MIN_SCALE:g} to "
                f"{MAX_SCALE:g}, correct it"
            )
        return scale


def parse_config(content: bytes, where: str, max_rank: int) -> LoraSettings:
    """The settings in the bytes of adapter_config.json. Raises AdapterRejected, naming the key. `where` opens messages."""
    config = _parse_object(content, where)
    _refuse_unsupported(config, where)
    reader = _Keys(config, where)
    integer, number = "a positive integer", "a number"
    rank = PatternedValue(reader.number("r", _is_rank, integer), reader.patterns("rank_pattern", _is_rank, integer))
    largest = max([rank.default, *(value for _, value in rank.patterns)])
    if largest > max_rank:
        raise AdapterRejected(f"{where}: rank {largest:g} is over the limit of {max_rank}")
    alpha = PatternedValue(reader.number("lora_alpha", _is_number, number), reader.patterns("alpha_pattern", _is_number, number))
    base = config.get("base_model_name_or_path")
    return LoraSettings(
        rank, alpha, reader.flag("use_rslora"), _parse_targets(reader), base if isinstance(base, str) and base else None
    )


def _parse_object(content: bytes, where: str) -> dict[str, Any]:
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AdapterRejected(f"{where}: adapter_config.json is not JSON ({error})") from error
    if not isinstance(config, dict):
        raise AdapterRejected(f"{where}: adapter_config.json must hold an object")
    for key, value in config.items():
        _check_text(key, value, where)
    return config


def _check_text(key: str, value: Any, where: str) -> None:
    """JSON can spell half of a surrogate pair. No text holds that, so it could be neither sent nor written down later."""
    try:
        json.dumps({key: value}, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError) as error:
        raise AdapterRejected(f"{where}: config key {key[:80]!r} holds what is not valid Unicode text: write it again") from error


def _refuse_unsupported(config: Mapping[str, Any], where: str) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterRejected(f"{where}: peft_type {kind!r} is not supported, only 'LORA'")
    task = config.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        raise AdapterRejected(f"{where}: task_type {task!r} is not supported, only 'CAUSAL_LM'")
    for key, value in config.items():
        if key in _NOT_IMPLEMENTED and not _is_off(value):
            raise AdapterRejected(
                f"{where}: {key} ({_NOT_IMPLEMENTED[key]}) is not implemented: such an adapter cannot be served"
            )
        if key not in KNOWN_KEYS and not _is_off(value):
            raise AdapterRejected(f"{where}: config key {key[:80]!r} is unknown and set: what it means cannot be honoured")
    bias = config.get("bias", "none")
    if bias != "none":
        raise AdapterRejected(f"{where}: bias {bias!r} (trained biases) is not implemented: retrain with bias='none'")
    _check_initialisation(config.get("init_lora_weights", True), where)


def _is_off(value: Any) -> bool:
    return value is None or value is False or value == [] or value == {}


def _check_initialisation(value: Any, where: str) -> None:
    if value is None or isinstance(value, bool):
        return
    name = value.lower() if isinstance(value, str) else ""
    if name.startswith(_CHANGES_BASE):
        raise AdapterRejected(
            f"{where}: init_lora_weights {value!r} changes the base weights: save the adapter with PEFT's "
            f"path_initial_model_for_weight_conversion"
        )
    if name not in _KEEPS_BASE:
        raise AdapterRejected(f"{where}: init_lora_weights {value!r} is unknown: it may change the base weights")


class _Keys:
    """Typed access to a config; every mismatch is one clear AdapterRejected."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self.config, self.where = config, where

    def number(self, key: str, valid: Callable[[Any], bool], wanted: str) -> float:
        value = self.config.get(key, _PEFT_DEFAULT)
        if not valid(value):
            raise self.wrong(key, wanted)
        return float(value)

    def patterns(self, key: str, valid: Callable[[Any], bool], wanted: str) -> tuple[tuple[ModulePattern, float], ...]:
        values = self.config.get(key) or {}
        if not isinstance(values, dict) or not all(valid(value) for value in values.values()):
            raise self.wrong(key, f"an object of module pattern to {wanted}")
        if len(values) > _MAX_PATTERNS:
            raise AdapterRejected(f"{self.where}: {key} has {len(values)} patterns, the limit is {_MAX_PATTERNS}")
        return tuple((self.compiled(key, text, ending_pattern), float(value)) for text, value in values.items())

    def compiled(self, key: str, text: str, make: Callable[[str], ModulePattern]) -> ModulePattern:
        try:
            return make(text)
        except ValueError as error:
            raise AdapterRejected(f"{self.where}: {key} pattern {text[:80]!r} {error}: list the modules instead") from error

    def flag(self, key: str) -> bool:
        value = self.config.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def names(self, key: str) -> tuple[str, ...] | str | None:
        value = self.config.get(key)
        if value is None or isinstance(value, str):
            return value
        if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
            raise self.wrong(key, "a string or a list of strings")
        return tuple(value)

    def wrong(self, key: str, wanted: str) -> AdapterRejected:
        return AdapterRejected(f"{self.where}: {key} must be {wanted}, not {str(self.config.get(key))[:80]!r}")


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _parse_targets(reader: _Keys) -> Targets:
    modules = reader.names("target_modules")
    if not modules:
        raise reader.wrong("target_modules", "given: the list of adapted modules")
    layers = reader.config.get("layers_to_transform")
    layers = [layers] if _is_index(layers) else layers
    if layers is not None and not (isinstance(layers, list) and all(_is_index(layer) for layer in layers)):
        raise reader.wrong("layers_to_transform", "a layer number or a list of them")
    lists = reader.names("layers_pattern") or ()
    lists = (lists,) if isinstance(lists, str) else lists
    if not all(_LIST_NAME.fullmatch(name) for name in lists):
        raise reader.wrong("layers_pattern", "the plain name of a list of layers, such as 'layers'")
    if isinstance(modules, str) and (layers is not None or lists):
        raise AdapterRejected(
            f"{reader.where}: layers_to_transform and layers_pattern need a list of target_modules, not a pattern"
        )
    if lists and layers is None:
        raise AdapterRejected(f"{reader.where}: layers_pattern needs layers_to_transform")
    excluded = reader.names("exclude_modules") or ()
    return Targets(
        modules=_names_or_pattern(reader, "target_modules", modules),
        excluded=_names_or_pattern(reader, "exclude_modules", excluded) or (),
        layers=tuple(layers or ()),
        layer_lists=lists,
    )


def _names_or_pattern(reader: _Keys, key: str, names: tuple[str, ...] | str) -> tuple[str, ...] | ModulePattern | None:
    if not isinstance(names, str):
        return names
    if key == "target_modules" and is_all_linear(names):
        return None
    return reader.compiled(key, names, ModulePattern)


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
