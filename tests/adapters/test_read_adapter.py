"""PEFT semantics: what is accepted means exactly what PEFT makes of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from peft import LoraConfig

from manylora.adapters import LoadedAdapter, read_adapter
from manylora.adapters.config import KNOWN_KEYS
from manylora.types.model import PROJECTIONS, module_name
from tests.adapters.peft_folders import bits, edit_config, edit_tensors, save_adapter, shape_of
from tests.checkpoint.tiny_models import FAMILIES

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all seven": {"target_modules": list(PROJECTIONS), "r": 3, "lora_alpha": 7},
    "rslora": {"use_rslora": True, "r": 5, "lora_alpha": 16},
    "whole names": {"target_modules": ["model.layers.1.mlp.up_proj", "self_attn.o_proj"]},
    "regex": {"target_modules": r".*\.(0|1)\.(self_attn\.[qk]_proj|mlp\.down_proj)"},
    "all-linear": {"target_modules": "all-linear"},
    "one layer": {"layers_to_transform": 1},
    "layers": {"layers_to_transform": [0], "layers_pattern": "layers"},
    "excluded": {"target_modules": list(PROJECTIONS), "exclude_modules": ["mlp.up_proj", "model.layers.0.self_attn.q_proj"]},
    "excluded by regex": {"target_modules": "all-linear", "exclude_modules": r".*\.1\..*"},
    "rank pattern": {
        "target_modules": list(PROJECTIONS),
        "rank_pattern": {"q_proj": 2, r"^model\.layers\.1\..*up_proj": 6, "1.mlp.down_proj": 9},
    },
    "alpha pattern": {"alpha_pattern": {"layers.0.self_attn.q_proj": 3, "v_proj": 2.5}},
    "both patterns, rslora": {
        "target_modules": list(PROJECTIONS),
        "use_rslora": True,
        "rank_pattern": {r".*\.0\.self_attn\..*": 7, "self_attn.q_proj": 2},
        "alpha_pattern": {r"[kv]_proj": 20, r"mlp\..*": 1},
    },
    "harmless options": {"lora_dropout": 0.3, "init_lora_weights": "gaussian", "revision": "main"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
}


def assert_same_deltas(adapter: LoadedAdapter, model: Any) -> None:
    """Acts on exactly the modules PEFT adapts, with PEFT's scale and PEFT's delta weight."""
    adapted = {name: module for name, module in model.base_model.model.named_modules() if hasattr(module, "lora_A")}
    assert {module_name(*key) for key in adapter.pairs} == set(adapted)
    for key, pair in adapter.pairs.items():
        module = adapted[module_name(*key)]
        assert pair.scale == module.scaling["default"]
        assert pair.rank == module.r["default"]
        a, b = (matrix["default"].weight.detach() for matrix in (module.lora_A, module.lora_B))
        np.testing.assert_array_equal(bits(pair.a), a.view(torch.uint16).numpy())
        np.testing.assert_array_equal(bits(pair.b), b.view(torch.uint16).numpy())
        expected = module.float().get_delta_weight("default").detach().numpy()
        np.testing.assert_allclose(adapter.delta(*key), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_ranks_scales_and_deltas_are_those_of_peft(name: str, tmp_path: Path) -> None:
    """rsLoRA, rank_pattern, alpha_pattern, layer and module selection: each as PEFT does it, on the same files."""
    model = save_adapter(tmp_path, **CONFIGS[name])
    assert_same_deltas(read_adapter(tmp_path, shape_of()), model)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_family_takes_adapters(family: str, tmp_path: Path) -> None:
    """Grouped heads and explicit head sizes give other shapes per projection."""
    model = save_adapter(tmp_path, family, target_modules=list(PROJECTIONS))
    adapter = read_adapter(tmp_path, shape_of(family))
    assert_same_deltas(adapter, model)
    assert adapter.version.modules == 14
    assert adapter.version.projections == PROJECTIONS


def test_every_option_of_peft_has_been_considered() -> None:
    """A new PEFT release may bring options that change the answer; each must be read, refused or known to be harmless."""
    assert {field.name for field in dataclasses.fields(LoraConfig)} == KNOWN_KEYS


def test_the_version_tells_what_the_adapter_is(tmp_path: Path) -> None:
    """Bytes at true rank, ranks, projections and the recorded base are what people plan and debug with."""
    save_adapter(tmp_path, rank_pattern={"q_proj": 2})
    edit_config(tmp_path, base_model_name_or_path="org/Base-1B")
    version = read_adapter(tmp_path, shape_of()).version
    assert (version.ranks, version.projections, version.modules) == ((2, 4), ("q_proj", "v_proj"), 4)
    assert version.bytes == 2 * 2 * (2 * (64 + 64) + 4 * (64 + 32))
    assert (version.base_model, version.warnings) == ("org/Base-1B", ())


@pytest.mark.parametrize(
    ("served", "warns"),
    [("/models/base-1b/", False), ("Base-1B", False), ("other/Base-1B", False), ("org/Base-3B", True), (None, False)],
)
def test_another_base_is_a_warning(served: str | None, warns: bool, tmp_path: Path) -> None:
    """Shapes can fit the wrong model; the trainer's record is all there is to tell."""
    save_adapter(tmp_path)
    edit_config(tmp_path, base_model_name_or_path="org/Base-1B")
    warnings = read_adapter(tmp_path, shape_of(), base_name=served).version.warnings
    assert warnings == ((f"trained on 'org/Base-1B', served on {served!r}",) if warns else ())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_wider_tensors_are_rounded_once_and_said_to_be(dtype: torch.dtype, tmp_path: Path) -> None:
    """Trainers often save float32. It is served in bfloat16, to nearest even, with a warning if that changed anything."""
    model = save_adapter(tmp_path, dtype=dtype)
    adapter = read_adapter(tmp_path, shape_of())
    weight = model.base_model.model.model.layers[1].self_attn.v_proj.lora_B["default"].weight.detach()
    np.testing.assert_array_equal(bits(adapter.pairs[1, "v_proj"].b), weight.bfloat16().view(torch.uint16).numpy())
    assert adapter.version.warnings == ("8 tensors were rounded to bfloat16, the precision that adapters are served in",)
    edit_tensors(tmp_path, lambda tensors: {name: tensor.bfloat16().to(dtype) for name, tensor in tensors.items()})
    exact = read_adapter(tmp_path, shape_of()).version
    assert (exact.warnings, exact.hash) == ((), adapter.version.hash)


def test_arrays_are_ready_for_the_kernels(tmp_path: Path) -> None:
    """Row-major bfloat16, A [rank, in] and B [out, rank], in canonical order of modules."""
    save_adapter(tmp_path, target_modules=list(PROJECTIONS))
    adapter = read_adapter(tmp_path, shape_of())
    assert list(adapter.pairs) == [(layer, projection) for layer in range(2) for projection in PROJECTIONS]
    for (_, projection), pair in adapter.pairs.items():
        columns, depth = shape_of().projection_shape(projection)
        assert (pair.a.shape, pair.b.shape) == ((4, depth), (columns, 4))
        for matrix in (pair.a, pair.b):
            assert matrix.dtype == ml_dtypes.bfloat16
            assert matrix.flags.c_contiguous


def test_names_without_the_wrapper_prefix_are_the_same_adapter(tmp_path: Path) -> None:
    """Some tools save bare module names; they mean the same modules."""
    save_adapter(tmp_path)
    before = read_adapter(tmp_path, shape_of()).version
    edit_tensors(tmp_path, lambda tensors: {name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()})
    assert read_adapter(tmp_path, shape_of()).version == before


def test_a_switched_off_option_of_the_future_is_harmless(tmp_path: Path) -> None:
    """Each PEFT release writes keys for its new features, off by default, into every adapter."""
    save_adapter(tmp_path)
    edit_config(tmp_path, use_something_new=False, new_config=None, new_list=[], new_map={})
    read_adapter(tmp_path, shape_of())


def test_the_hash_is_of_the_content(tmp_path: Path) -> None:
    """Two folders that compute the same are one version: key order, defaults, metadata and pattern spelling do not matter."""
    save_adapter(tmp_path / "one", rank_pattern={"v_proj": 4}, r=4)
    save_adapter(tmp_path / "two", lora_alpha=8, lora_dropout=0.5)
    config = json.loads((tmp_path / "two/adapter_config.json").read_text())
    (tmp_path / "two/adapter_config.json").write_text(json.dumps(dict(reversed(config.items())), indent=7))
    edit_tensors(tmp_path / "two", lambda tensors: dict(reversed(tensors.items())))
    one, two = (read_adapter(tmp_path / name, shape_of()).version for name in ("one", "two"))
    assert one.hash == two.hash
    assert len(one.hash) == 64


@pytest.mark.parametrize("change", ["alpha", "rslora", "one bit", "a module less"])
def test_the_hash_changes_with_the_answer(change: str, tmp_path: Path) -> None:
    """The hash salts the prefix cache: whatever changes the answer changes it."""
    save_adapter(tmp_path)
    before = read_adapter(tmp_path, shape_of()).version.hash
    if change == "alpha":
        edit_config(tmp_path, lora_alpha=9)
    elif change == "rslora":
        edit_config(tmp_path, use_rslora=True)
    elif change == "one bit":
        edit_tensors(tmp_path, flip_last_bit)
    else:
        edit_config(tmp_path, exclude_modules=["model.layers.1.self_attn.q_proj"])
        edit_tensors(tmp_path, lambda tensors: {k: v for k, v in tensors.items() if "layers.1.self_attn.q_proj" not in k})
    assert read_adapter(tmp_path, shape_of()).version.hash != before


def flip_last_bit(tensors: dict[str, torch.Tensor]) -> None:
    tensor = tensors["base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"]
    tensor.view(torch.int16)[-1, -1] ^= 1


def test_the_hash_is_stable_across_releases(tmp_path: Path) -> None:
    """Hashes are in audit records and manifests, so the canonical form is frozen; this value was computed when it was."""
    save_adapter(tmp_path)

    def fill(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            shape = (4, 32) if "lora_A" in name else (32 if "q_proj" in name else 16, 4)
            values = torch.arange(shape[0] * shape[1]).reshape(shape) % 7 - (3 if "lora_A" in name else 2)
            tensors[name] = values.to(torch.bfloat16)

    edit_tensors(tmp_path, fill)
    shape = dataclasses.replace(shape_of(), hidden=32, head_dim=8)
    assert read_adapter(tmp_path, shape).version.hash == "2e8d43780329a7e831edbe6beb2cd5ff08e552cc019677bdd38b611417d826c0"
