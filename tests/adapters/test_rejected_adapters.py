"""What is refused, and that the one line says why."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manylora.adapters import AdapterLimits, read_adapter
from manylora.errors import AdapterRejected
from tests.adapters.peft_folders import Tensors, edit_config, edit_tensors, save_adapter, shape_of

_SHAPE = shape_of()
_Q = "base_model.model.model.layers.0.self_attn.q_proj"


def assert_rejected(folder: Path, reason: str, **options: Any) -> None:
    """Refused with one line that names the folder and matches `reason`."""
    with pytest.raises(AdapterRejected, match=reason) as caught:
        read_adapter(folder, shape_of(), **options)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)
    str(caught.value).encode()  # it is sent and logged


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"peft_type": ...}, "peft_type None"),
        ({"task_type": "SEQ_CLS"}, "task_type 'SEQ_CLS'"),
        ({"use_dora": True}, r"use_dora \(DoRA\)"),
        ({"bias": "lora_only"}, "bias 'lora_only'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"alora_invocation_tokens": [1, 2]}, "aLoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [5]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"target_parameters": ["mlp.experts"]}, "target_parameters"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"megatron_config": {"a": 1}}, "megatron_config"),
        ({"use_qalora": True}, "QALoRA"),
        ({"arrow_config": {"top_k": 3}}, "Arrow"),
        ({"corda_config": {"x": 1}}, "CorDA"),
        ({"loftq_config": {"loftq_bits": 4}}, "LoftQ"),
        ({"use_bdlora": {"nblocks": 2}}, "block-diagonal"),
        ({"init_lora_weights": "pissa_niter_16"}, "pissa_niter_16.*changes the base"),
        ({"init_lora_weights": "olora"}, "changes the base"),
        ({"init_lora_weights": "loftq"}, "changes the base"),
        ({"init_lora_weights": "something"}, "unknown"),
        ({"use_something_new": True}, "'use_something_new' is unknown"),
        ({"target_modules": ["q_proj", "lm_head"]}, "adapters on lm_head are not implemented"),
        ({"target_modules": "(.*)"}, "adapters on lm_head"),
        ({"target_modules": ["embed_tokens"]}, "adapters on embed_tokens"),
        ({"target_modules": ["c_attn"]}, "matches nothing"),
        ({"target_modules": None}, "target_modules must be given"),
        ({"target_modules": []}, "target_modules must be given"),
        ({"target_modules": [1]}, "target_modules must be a string or a list"),
        ({"target_modules": "(unclosed"}, "not a valid regular expression"),
        ({"target_modules": r"(q_proj)\1"}, "bounded time"),
        ({"rank_pattern": {"(?=q)q_proj": 4}}, "bounded time"),
        ({"rank_pattern": {"x": "4"}}, "rank_pattern must be"),
        ({"rank_pattern": [1]}, "rank_pattern must be"),
        ({"alpha_pattern": {"x": None}}, "alpha_pattern must be"),
        ({"r": 0}, "r must be a positive integer, not '0'"),
        ({"r": 4.0}, "r must be a positive integer"),
        ({"r": True}, "r must be a positive integer"),
        ({"r": 100000}, "rank 100000 is over the limit of 512"),
        ({"rank_pattern": {"q_proj": 513}}, "rank 513 is over the limit"),
        ({"lora_alpha": "16"}, "lora_alpha must be a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a number, not 'nan'"),
        ({"lora_alpha": 0}, "changes nothing"),
        ({"lora_alpha": 1e-60}, r"lora_alpha 1e-60 at rank 4 scales \S+q_proj by 2\.5e-61: outside of 1e-06 to 10000"),
        ({"lora_alpha": 1e29}, r"lora_alpha 1e\+29 at rank 4 .* outside"),
        ({"alpha_pattern": {"v_proj": -1e29}}, r"lora_alpha -1e\+29 at rank 4 scales \S+v_proj"),
        ({"base_model_name_or_path": "x\ud800y"}, "'base_model_name_or_path' holds what is not valid Unicode"),
        ({"revision": ["\udfff"]}, "'revision' holds what is not valid Unicode"),
        ({"alpha_pattern": {"\ud800": 1}}, "'alpha_pattern' holds what is not valid Unicode"),
        ({"\ud800": None}, r"'\\ud800' holds what is not valid Unicode"),
        ({"use_rslora": "yes"}, "use_rslora must be true or false"),
        ({"layers_to_transform": ["0"]}, "layers_to_transform must be"),
        ({"layers_to_transform": [7]}, "matches nothing"),
        ({"layers_pattern": "layers"}, "layers_pattern needs layers_to_transform"),
        ({"layers_to_transform": [0], "layers_pattern": ["(a+)+"]}, "layers_pattern must be the plain name"),
        ({"target_modules": "all-linear", "layers_to_transform": [0]}, "need a list of target_modules"),
        ({"r": 8}, r"q_proj\.lora_A\.weight has shape \[4, 64\]; rank 8 on this base needs \[8, 64\]"),
        ({"target_modules": ["q_proj"]}, r"v_proj, which this base lacks or the config does not target"),
        ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, r"o_proj\.lora_A\.weight is missing"),
    ],
)
def test_a_config_that_cannot_be_honoured_is_refused_by_name(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """Never ignored: an option that is not implemented, unknown, malformed, or at odds with the tensors."""
    save_adapter(tmp_path)
    edit_config(tmp_path, **changes)
    assert_rejected(tmp_path, reason)


def set_tensor(name: str, value: torch.Tensor) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: value})


def fill_all(part: str, value: float) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            if part in name:
                tensor.fill_(value)

    return edit


def part_ranks(tensors: Tensors) -> None:
    """A acts in ranks 0 and 1 only, B in ranks 2 and 3 only: neither is zero, all their products are."""
    for name, tensor in tensors.items():
        if "lora_A" in name:
            tensor[2:] = 0
        else:
            tensor[:, :2] = 0


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda tensors: [tensors.pop(f"{_Q}.lora_B.weight")].clear(), r"0\.self_attn\.q_proj\.lora_B\.weight is missing"),
        (set_tensor(f"{_Q}.lora_A.weight", torch.zeros(4, 63)), r"shape \[4, 63\]; rank 4 on this base needs \[4, 64\]"),
        (set_tensor(f"{_Q}.lora_A.weight", torch.zeros(128)), r"shape \[128\]"),
        (set_tensor(f"{_Q}.lora_A.weight", torch.zeros(4, 64, dtype=torch.int32)), "is I32"),
        (set_tensor("base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight", torch.ones(4, 64)), "layers.2.*base lacks"),
        (set_tensor("base_model.model.model.layers.0.self_attn.c_attn.lora_A.weight", torch.ones(4, 64)), "lands on no module"),
        (set_tensor(f"{_Q}.lora_A.default.weight", torch.ones(4, 64)), "lands on no module"),
        (set_tensor(_Q.removeprefix("base_model.model.") + ".lora_A.weight", torch.ones(4, 64)), "is there twice"),
        (set_tensor(f"{_Q}.lora_magnitude_vector", torch.ones(64)), "DoRA is not implemented"),
        (set_tensor(f"{_Q}.lora_B.bias", torch.ones(64)), "trained biases are not implemented"),
        (set_tensor("base_model.model.lm_head.weight", torch.ones(96, 64)), "adapters on lm_head"),
        (set_tensor("base_model.model.model.embed_tokens.lora_embedding_A", torch.ones(4, 96)), "adapters on embeddings"),
        (fill_all("layers.1.self_attn.v_proj.lora_B", float("nan")), r"v_proj\.lora_B\.weight' holds NaN or infinity"),
        (fill_all("layers.1.self_attn.v_proj.lora_A", float("inf")), "holds NaN or infinity"),
        (set_tensor(f"{_Q}.lora_A.weight", torch.full((4, 64), 3.4e38)), "NaN or infinity"),
        (fill_all("lora_B", 0.0), "changes nothing"),
        (fill_all("lora_A", 0.0), "changes nothing"),
        (part_ranks, "changes nothing"),
    ],
)
def test_a_tensor_that_is_wrong_is_refused_by_name(edit: Callable[[Tensors], None], reason: str, tmp_path: Path) -> None:
    """Every tensor lands on a module with its rank and shape, is finite, and together they change something."""
    save_adapter(tmp_path)
    edit_tensors(tmp_path, edit)
    assert_rejected(tmp_path, reason)


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("unpickled",))


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter.pt", "adapter_model.safetensors"])
def test_pickles_are_never_opened(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpickling runs code; neither a pickle by name nor one in disguise is unpickled."""
    monkeypatch.chdir(tmp_path)
    save_adapter(tmp_path / "adapter")
    (tmp_path / "adapter/adapter_model.safetensors").unlink()
    (tmp_path / "adapter" / name).write_bytes(pickle.dumps(_Bomb()))
    assert_rejected(tmp_path / "adapter", "damaged" if name.endswith("safetensors") else f"{name} is a pickle")
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_links_out_of_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    """An adapter folder must not make the server read other files of the machine; links within the folder are fine."""
    save_adapter(tmp_path / "adapter")
    inside, outside = tmp_path / "adapter" / f"real-{name}", tmp_path / name
    (tmp_path / "adapter" / name).rename(inside)
    (tmp_path / "adapter" / name).symlink_to(inside.name)
    read_adapter(tmp_path / "adapter", shape_of())
    inside.rename(outside)
    (tmp_path / "adapter" / name).unlink()
    (tmp_path / "adapter" / name).symlink_to(f"../{name}")
    assert_rejected(tmp_path / "adapter", "link that leads out of the folder")


@pytest.mark.parametrize("loop", [True, False])
def test_links_to_nowhere_are_refused(loop: bool, tmp_path: Path) -> None:
    """Broken and circular links are one clear line too."""
    save_adapter(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.unlink()
    weights.symlink_to(weights.name if loop else "absent")
    assert_rejected(tmp_path, "cannot be read|no adapter_model.safetensors")


def test_pipes_and_folders_are_refused(tmp_path: Path) -> None:
    """A pipe in place of a file would hang the loader for good."""
    save_adapter(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.unlink()
    os.mkfifo(weights)
    assert_rejected(tmp_path, "not a regular file")
    weights.unlink()
    weights.mkdir()
    assert_rejected(tmp_path, "not a regular file|cannot be read")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_missing_files_are_named(name: str, tmp_path: Path) -> None:
    """An incomplete copy says which file it lacks."""
    save_adapter(tmp_path)
    (tmp_path / name).unlink()
    assert_rejected(tmp_path, f"no {name}")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """A wrong path says so."""
    assert_rejected(tmp_path / "absent", "no such folder")


def test_sizes_are_limited_before_they_are_read(tmp_path: Path) -> None:
    """A sparse file of a terabyte costs nothing to make; it must cost nothing to refuse."""
    save_adapter(tmp_path)
    os.truncate(tmp_path / "adapter_model.safetensors", 1 << 40)
    assert_rejected(tmp_path, "1099511627776 bytes, the limit is")
    assert_rejected(tmp_path, "adapter_config.json: has .* the limit is 10", limits=AdapterLimits(max_config_bytes=10))


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"', "\xff", "[" * 100_000, '{"r": ' + "1" * 10_000 + "}"])
def test_configs_that_are_no_config_are_refused(text: str, tmp_path: Path) -> None:
    """Garbage, deep nesting and huge numbers end in the same one line."""
    save_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_bytes(text.encode("latin-1"))
    assert_rejected(tmp_path, "adapter_config.json|peft_type")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One good adapter; tests write variants of it elsewhere."""
    folder = tmp_path_factory.mktemp("good")
    save_adapter(folder)
    return folder


@given(cut=st.floats(0, 1, exclude_max=True))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_truncated_files_are_refused(cut: float, adapter: Path, tmp_path: Path) -> None:
    """Wherever a copy stopped, it is refused."""
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    write(tmp_path, (adapter / "adapter_config.json").read_bytes(), weights[: int(cut * len(weights))])
    assert_rejected(tmp_path, "damaged")


_ENTRIES = st.text() | st.sampled_from(["dtype", "shape", "data_offsets", f"{_Q}.lora_A.weight"])
_HEADERS = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(_ENTRIES, inner | st.lists(inner)), max_leaves=8
)


@given(
    header=st.binary(max_size=200) | _HEADERS.map(lambda value: json.dumps(value).encode()),
    length=st.none() | st.integers(0, 2**64 - 1),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_headers_of_junk_are_refused(header: bytes, length: int | None, adapter: Path, tmp_path: Path) -> None:
    """Whatever the header says, the answer is AdapterRejected and nothing else: no other exception, no huge allocation."""
    content = struct.pack("<Q", len(header) if length is None else length) + header
    write(tmp_path, (adapter / "adapter_config.json").read_bytes(), content)
    with pytest.raises(AdapterRejected):
        read_adapter(tmp_path, _SHAPE)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


_KEYS = [
    "r",
    "lora_alpha",
    "target_modules",
    "exclude_modules",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "layers_to_transform",
    "layers_pattern",
    "init_lora_weights",
    "bias",
    "task_type",
    "peft_type",
    "base_model_name_or_path",
    "use_dora",
    "modules_to_save",
    "never_heard_of",
]


@given(key=st.sampled_from(_KEYS), value=_JSON)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_junk_in_a_config_is_refused_or_means_nothing(key: str, value: Any, adapter: Path, tmp_path: Path) -> None:
    """Any value under any key is either understood or one AdapterRejected; nothing else ever comes out."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    write(tmp_path, json.dumps({**config, key: value}).encode(), (adapter / "adapter_model.safetensors").read_bytes())
    with contextlib.suppress(AdapterRejected):
        assert read_adapter(tmp_path, _SHAPE).version.modules == 4


def write(folder: Path, config: bytes, weights: bytes) -> None:
    (folder / "adapter_config.json").write_bytes(config)
    (folder / "adapter_model.safetensors").write_bytes(weights)
