"""The adapters the repository ships: small, of the shapes promised, trained by its own recipes, as good as its README says."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from demo.data import CUSTOMERS, NAMES, STYLES
from demo.recipes import BASE_MODEL, RECIPES
from demo.report import BASE, table

DEMO = Path(__file__).resolve().parents[2] / "demo"


def config(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DEMO / "adapters" / name / "adapter_config.json").read_text())
    return loaded


def tensors(name: str) -> dict[str, np.ndarray[Any, Any]]:
    with safe_open(DEMO / "adapters" / name / "adapter_model.safetensors", framework="numpy") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def results() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DEMO / "results.json").read_text())
    return loaded


def test_sizes_stay_within_what_a_repository_may_carry() -> None:
    """At most 5 MB an adapter and 16 MB together; nothing but the two files of a PEFT folder."""
    sizes = {}
    for name in NAMES:
        files = sorted(path.name for path in (DEMO / "adapters" / name).iterdir())
        assert files == ["adapter_config.json", "adapter_model.safetensors"]
        sizes[name] = (DEMO / "adapters" / name / "adapter_model.safetensors").stat().st_size
    assert max(sizes.values()) <= 5_000_000, sizes
    assert sum(sizes.values()) <= 16_000_000, sizes


@pytest.mark.parametrize("name", NAMES)
def test_shipped_configuration_is_the_recipe(name: str) -> None:
    """What is shipped is what the script trains: every setting of the recipe stands in the adapter's configuration."""
    shipped = config(name)
    for key, value in RECIPES[name].lora.items():
        assert shipped[key] == value, key
    assert shipped["base_model_name_or_path"] == BASE_MODEL
    assert shipped["task_type"] == "CAUSAL_LM"
    assert shipped["peft_type"] == "LORA"


@pytest.mark.parametrize("name", NAMES)
def test_tensors_are_bfloat16_of_the_promised_ranks(name: str) -> None:
    """The file holds one finite, non-zero bfloat16 pair per adapted projection and layer, at the rank its configuration says."""
    lora = RECIPES[name].lora
    layers = lora.get("layers_to_transform", range(30))
    found = tensors(name)
    assert len(found) == 2 * len(layers) * len(lora["target_modules"])
    for key, tensor in found.items():
        match = re.fullmatch(r"base_model\.model\.model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.lora_(A|B)\.weight", key)
        assert match, key
        assert int(match[1]) in layers, key
        assert match[2] in lora["target_modules"], key
        rank = lora.get("rank_pattern", {}).get(match[2], lora["r"])
        assert tensor.shape[0 if match[3] == "A" else 1] == rank, key
        assert tensor.dtype == ml_dtypes.bfloat16, key
        values = tensor.astype(np.float32)
        assert np.isfinite(values).all(), key
        assert values.any(), key


def test_the_set_covers_what_the_demo_is_to_exercise() -> None:
    """Ranks from 4 to 32, all seven projections in one, rsLoRA, patterns and a subset of layers: the demo meets each of them."""
    recipes = [recipe.lora for recipe in RECIPES.values()]
    assert set(RECIPES) == set(NAMES)
    assert len(CUSTOMERS) == 4
    assert len(STYLES) == 2
    assert {lora["r"] for lora in recipes} >= {4, 8, 16, 32}
    assert any(len(lora["target_modules"]) == 7 for lora in recipes)
    assert len({tuple(sorted(lora["target_modules"])) for lora in recipes}) >= 5
    for feature in ("use_rslora", "rank_pattern", "alpha_pattern", "layers_to_transform"):
        assert any(lora.get(feature) for lora in recipes), feature


def test_recorded_accuracy_keeps_the_promise() -> None:
    """Held-out answers: at least 90 % right with the adapter asked for, at most 10 % with any other or none."""
    right = results()["right"]
    assert set(right) == {BASE, *NAMES}
    for asked in NAMES:
        own = right[asked][asked]
        assert own["of"] >= 100, asked
        assert own["right"] >= 0.9 * own["of"], asked
        for answering in set(right) - {asked}:
            cell = right[answering][asked]
            assert cell["of"] >= 30, (answering, asked)
            assert cell["right"] <= 0.1 * cell["of"], (answering, asked)


@pytest.mark.parametrize("name", NAMES)
def test_results_are_of_the_shipped_bytes(name: str) -> None:
    """An adapter trained again must be measured again: the results name the hash of the very file that is shipped."""
    shipped = (DEMO / "adapters" / name / "adapter_model.safetensors").read_bytes()
    assert results()["sha256"][name] == hashlib.sha256(shipped).hexdigest()


def test_readme_shows_the_recorded_table() -> None:
    """The README's numbers are the recorded ones, not a memory of them."""
    assert table(results()) in (DEMO / "README.md").read_text()
    for answer in results()["shared_prompt"]["answers"].values():
        assert answer.split("\n")[0] in (DEMO / "README.md").read_text()
