"""PEFT folders into checked, content-addressed adapters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from manylora.adapters.config import LoraSettings, parse_config
from manylora.adapters.files import WEIGHTS_FILE, read_files
from manylora.adapters.loaded import LoadedAdapter, LowRankPair, content_hash, in_canonical_order
from manylora.errors import AdapterRejected
from manylora.types.adapter import AdapterVersion
from manylora.types.model import PROJECTIONS, ModelShape, module_name

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": _BFLOAT16}
_PREFIX = "base_model.model."
_TENSOR = re.compile(
    r"model\.layers\.(0|[1-9]\d{0,5})\.(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)\.lora_([AB])\.weight"
)
_FOREIGN = (
    ("lora_magnitude_vector", "DoRA is not implemented"),
    ("lora_embedding_", "adapters on embeddings are not implemented"),
    ("embed_tokens", "adapters on embed_tokens are not implemented"),
    ("lm_head", "adapters on lm_head are not implemented"),
    ("modules_to_save", "fully trained modules are not implemented"),
    (".bias", "trained biases are not implemented"),
)


@dataclass(frozen=True, slots=True)
class AdapterLimits:
    """What an adapter may ask of this machine."""

    max_rank: int = 512
    max_weight_bytes: int = 2 << 30
    """Size of adapter_model.safetensors, which is read into memory whole."""
    max_config_bytes: int = 1 << 20


def read_adapter(
    folder: Path | str, shape: ModelShape, limits: AdapterLimits | None = None, base_name: str | None = None
) -> LoadedAdapter:
    """Reads and checks the PEFT folder for a base model of `shape`. `base_name` is how the served base is called, to compare with
    what the trainer recorded (a difference is a warning). float32 and float16 tensors are rounded once to bfloat16; a warning
    says so where that changed a value.

    Raises AdapterRejected with one line that names what is wrong. Nothing is ever half accepted: every tensor must land on a
    module that the config targets, with the rank and shape it asks for, and every targeted module must have its two tensors."""
    folder, limits = Path(folder), limits or AdapterLimits()
    where = str(folder)
    config, weights = read_files(folder, limits.max_config_bytes, limits.max_weight_bytes)
    settings = parse_config(config, where, limits.max_rank)
    modules = _targeted_modules(settings, shape, where)
    tensors, rounded = _parse_tensors(weights, where)
    _check_landing(tensors, modules, where)
    pairs = in_canonical_order(_pair(tensors, settings, shape, key, where) for key in modules.values())
    if not any(_acts(pair) for pair in pairs.values()):
        raise AdapterRejected(f"{where}: changes nothing: every product scale * B A is zero, so it was never trained")
    warnings = [*_base_warnings(settings, base_name)]
    if rounded:
        warnings.append(f"{rounded} tensors were rounded to bfloat16, the precision that adapters are served in")
    return LoadedAdapter(_version(pairs, settings, tuple(warnings)), pairs)


_Key = tuple[int, str]
_Tensors = Mapping[tuple[int, str, str], NDArray[Any]]
"""Keyed by (layer, projection, 'A' or 'B')."""


def _targeted_modules(settings: LoraSettings, shape: ModelShape, where: str) -> dict[str, _Key]:
    for module in ("lm_head", "model.embed_tokens"):
        if module in settings.targets:
            name = module.removeprefix("model.")
            raise AdapterRejected(f"{where}: target_modules names {name}: adapters on {name} are not implemented")
    every = {module_name(layer, projection): (layer, projection) for layer in range(shape.layers) for projection in PROJECTIONS}
    found = {module: key for module, key in every.items() if module in settings.targets}
    if not found:
        raise AdapterRejected(
            f"{where}: target_modules matches nothing in this base model ({shape.family}, {shape.layers} layers)"
        )
    return found


def _parse_tensors(content: bytes, where: str) -> tuple[_Tensors, int]:
    """(tensors in bfloat16, how many of them lost precision)."""
    try:
        entries: list[tuple[str, dict[str, Any]]] = deserialize(content)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise AdapterRejected(f"{where}: {WEIGHTS_FILE} is damaged ({error}): copy it again") from error
    tensors: dict[tuple[int, str, str], NDArray[Any]] = {}
    rounded = 0
    for name, entry in entries:
        match = _TENSOR.fullmatch(name.removeprefix(_PREFIX))
        if match is None:
            raise AdapterRejected(f"{where}: tensor {name[:120]!r} {_foreign_reason(name)}")
        key = (int(match[1]), name.split(".")[-3], match[2])
        if key in tensors:
            raise AdapterRejected(f"{where}: tensor {name!r} is there twice, with and without {_PREFIX!r}")
        tensors[key], changed = _to_bfloat16(name, entry, where)
        rounded += changed
    return tensors, rounded


def _foreign_reason(name: str) -> str:
    for part, reason in _FOREIGN:
        if part in name:
            return f"cannot be served: {reason}"
    return "lands on no module of this base model"


def _to_bfloat16(name: str, entry: Mapping[str, Any], where: str) -> tuple[NDArray[Any], bool]:
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise AdapterRejected(f"{where}: tensor {name!r} is {entry['dtype']}: only {', '.join(_DTYPES)} are supported")
    values = np.frombuffer(entry["data"], dtype=dtype).reshape(entry["shape"])
    with np.errstate(over="ignore"):
        stored = values.astype(_BFLOAT16)
    # After rounding, because the largest float32 values become infinite there.
    if not np.isfinite(stored.astype(np.float32)).all():
        raise AdapterRejected(f"{where}: tensor {name!r} holds NaN or infinity (in bfloat16)")
    changed = dtype != _BFLOAT16 and not np.array_equal(stored.astype(np.float32), values.astype(np.float32))
    return stored, changed


def _check_landing(tensors: _Tensors, modules: Mapping[str, _Key], where: str) -> None:
    targeted = set(modules.values())
    for layer, projection, _ in tensors:
        if (layer, projection) not in targeted:
            name = module_name(layer, projection)
            raise AdapterRejected(f"{where}: there are tensors for {name}, which this base lacks or the config does not target")
    for module, (layer, projection) in modules.items():
        missing = [side for side in "AB" if (layer, projection, side) not in tensors]
        if missing:
            raise AdapterRejected(f"{where}: {module}.lora_{missing[0]}.weight is missing: the config targets that module")


def _pair(tensors: _Tensors, settings: LoraSettings, shape: ModelShape, key: _Key, where: str) -> LowRankPair:
    layer, projection = key
    module = module_name(layer, projection)
    rank = int(settings.rank.of(module))
    columns, depth = shape.projection_shape(projection)
    for side, wanted in (("A", (rank, depth)), ("B", (columns, rank))):
        found = tensors[layer, projection, side].shape
        if found != wanted:
            raise AdapterRejected(
                f"{where}: {module}.lora_{side}.weight has shape {list(found)}; rank {rank} on this base needs {list(wanted)}"
            )
    a, b = tensors[layer, projection, "A"], tensors[layer, projection, "B"]
    return LowRankPair(layer, projection, rank, settings.scale(module, where), a, b)


def _acts(pair: LowRankPair) -> bool:
    # A rank whose row of A or whose column of B is zero adds nothing, whatever the other side holds.
    return pair.scale != 0 and bool((pair.a.any(axis=1) & pair.b.any(axis=0)).any())


def _base_warnings(settings: LoraSettings, base_name: str | None) -> list[str]:
    recorded = settings.base_model
    if base_name is None or recorded is None or _last_part(recorded) == _last_part(base_name):
        return []
    return [f"trained on {recorded!r}, served on {base_name!r}"]


def _last_part(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower()


def _version(pairs: Mapping[_Key, LowRankPair], settings: LoraSettings, warnings: tuple[str, ...]) -> AdapterVersion:
    present = {pair.projection for pair in pairs.values()}
    return AdapterVersion(
        hash=content_hash(pairs),
        bytes=sum(pair.a.nbytes + pair.b.nbytes for pair in pairs.values()),
        ranks=tuple(sorted({pair.rank for pair in pairs.values()})),
        projections=tuple(projection for projection in PROJECTIONS if projection in present),
        modules=len(pairs),
        base_model=settings.base_model,
        warnings=warnings,
    )
