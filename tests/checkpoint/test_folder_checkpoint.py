"""Hugging Face folders as checkpoints: every family, every way they can be broken."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from manylora import kernels
from manylora.engine.checkpoint import Checkpoint, open_checkpoint
from manylora.engine.checkpoint.config import read_config
from manylora.errors import ModelError
from tests.checkpoint.tiny_models import FAMILIES, SIZES, save_tiny
from tests.checkpoint.tiny_tokenizers import TEMPLATE, save_tokenizer


def assert_holds(checkpoint: Checkpoint, state: dict[str, torch.Tensor]) -> None:
    """Every tensor of the model, rounded once to bfloat16, bit for bit, and no other."""
    expected = {name: tensor.to(torch.bfloat16).view(torch.int16).numpy() for name, tensor in state.items()}
    if checkpoint.shape.tied_embeddings:
        del expected["lm_head.weight"]
    assert set(checkpoint.names()) == set(expected)
    for name, bits in expected.items():
        tensor = checkpoint.tensor(name)
        assert tensor.dtype == ml_dtypes.bfloat16
        assert tensor.flags.c_contiguous
        np.testing.assert_array_equal(tensor.view(np.int16), bits, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_family_is_read_as_transformers_wrote_it(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Weights arrive unchanged but for one rounding to bfloat16; biases, head norms and tying are where the family has them."""
    model = save_tiny(family, tmp_path, dtype)
    checkpoint = open_checkpoint(tmp_path)
    assert_holds(checkpoint, model.state_dict())
    config, shape = model.config, checkpoint.shape
    assert (shape.layers, shape.heads, shape.kv_heads, shape.hidden) == (2, 4, 2, 64)
    assert shape.head_dim == (32 if family == "qwen3" else 16)
    assert shape.rope_theta == config.rope_parameters["rope_theta"]
    assert shape.rope_scaling.kind == config.rope_parameters["rope_type"].replace("default", "none")
    assert shape.rms_eps == config.rms_norm_eps


def test_shards_are_one_model(tmp_path: Path) -> None:
    """Large models come in many files with an index."""
    model = save_tiny("qwen3", tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_holds(open_checkpoint(tmp_path), model.state_dict())


def test_a_window_limits_the_context(tmp_path: Path) -> None:
    """Full attention equals sliding-window attention only up to the window, so no more than that is served."""
    save_tiny("mistral", tmp_path)
    assert open_checkpoint(tmp_path).shape.max_position == 48


def test_a_window_that_is_switched_off_does_not(tmp_path: Path) -> None:
    """Qwen2 configs name a window that is not used."""
    save_tiny("qwen2", tmp_path)
    edit_config(tmp_path, sliding_window=16, use_sliding_window=False)
    assert open_checkpoint(tmp_path).shape.max_position == 128
    edit_config(tmp_path, use_sliding_window=True)
    assert open_checkpoint(tmp_path).shape.max_position == 16


def test_configs_of_older_transformers_are_read(tmp_path: Path) -> None:
    """Before transformers 5, rope_theta and rope_scaling stood beside each other; 'type' was the older name of 'rope_type'."""
    save_tiny("llama", tmp_path)
    edit_config(tmp_path, rope_parameters=None, rope_theta=20000.0, rope_scaling={"type": "linear", "factor": 2.0})
    shape = open_checkpoint(tmp_path).shape
    assert (shape.rope_theta, shape.rope_scaling.kind, shape.rope_scaling.factor) == (20000.0, "linear", 2.0)


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_what_a_config_leaves_out_is_what_transformers_assumes(family: str) -> None:
    """Old configs are short: key/value heads, head size, context, window and rotary base have defaults that differ by family."""
    config_class = FAMILIES[family][0]
    short = {
        "model_type": family,
        "vocab_size": 100,
        "hidden_size": 4096,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 32,
    }
    assert read_config(short, "test") == read_config(config_class(**short).to_dict(), "test")


_JUNK = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)


@given(key=st.sampled_from(sorted(FAMILIES["llama"][0]().to_dict())), value=_JUNK | st.dictionaries(st.text(max_size=5), _JUNK))
@settings(max_examples=300, deadline=None)
def test_junk_in_a_config_is_refused_or_means_nothing(key: str, value: Any) -> None:
    """Any value under any key gives a shape or one ModelError; never another exception."""
    with contextlib.suppress(ModelError):
        assert read_config({**_CONFIG, key: value}, "test").head_dim > 0


_CONFIG = FAMILIES["llama"][0](**SIZES).to_dict()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "gemma2"}, "'gemma2' is not supported"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "'yarn' is not supported"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 4.0}}, "low_freq_factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_hidden_layers": 3}, r"model\.layers\.2\.input_layernorm\.weight.*missing"),
        ({"num_hidden_layers": 1}, r"model\.layers\.1\.\S+ \(and 8 more\) does not belong"),
        ({"intermediate_size": 47}, r"gate_proj\.weight has shape \[48, 64\], the config asks for \[47, 64\]"),
        ({"tie_word_embeddings": True}, "ties the embeddings"),
        ({"head_dim": 24}, r"heads of 24 elements \(head_dim\) are not supported, only multiples of 16 up to 256"),
        ({"head_dim": 100}, "heads of 100 elements"),
        ({"head_dim": 272}, "heads of 272 elements"),
        ({"num_key_value_heads": 3}, "4 query heads on 3 key/value heads are not supported, only 1 to 16 on each"),
        ({"num_key_value_heads": 8}, "4 query heads on 8 key/value heads"),
        ({"num_attention_heads": 34, "head_dim": 16}, "34 query heads on 2 key/value heads"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_by_name(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """A model that would be computed wrongly never starts, and the message names the key or the tensor."""
    save_tiny("llama", tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(ModelError, match=reason):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("head_dim", [8, 16, 24, 48, 96, 100, 256, 264, 272])
def test_head_sizes_are_refused_exactly_where_the_kernels_do(head_dim: int) -> None:
    """What opens must run: a limit that differs from the kernels' would end the start, or every request, without a reason."""
    opens = refusal(head_dim=head_dim) is None
    try:
        kernels.kv_block_bytes(1, 1, head_dim)
    except ValueError:
        assert not opens
    else:
        assert opens


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (3, 2), (16, 1), (17, 1), (32, 1), (32, 2), (34, 2), (2, 4)])
def test_head_groups_are_refused_exactly_where_the_kernels_do(heads: int, kv_heads: int) -> None:
    """The same for query heads that share a key/value head."""
    opens = refusal(head_dim=16, num_attention_heads=heads, num_key_value_heads=kv_heads) is None
    runtime, batch = kernels.Runtime(1, "scalar"), kernels.Batch(1, 1, 1, 1)
    batch.sequence_starts[1], batch.block_tables[0, 0] = 1, 0
    batch.begin(1, 1)
    cache = kernels.KvCache(kernels.Arena(kernels.kv_block_bytes(1, kv_heads, 16)), 1, kv_heads, 16)
    query, out = (kernels.Matrix(1, heads * 16, "bfloat16") for _ in range(2))
    try:
        kernels.attention(runtime, batch, query, cache, 0, out)
    except ValueError:
        assert not opens
    else:
        assert opens


def refusal(**changes: Any) -> ModelError | None:
    try:
        read_config({**_CONFIG, **changes}, "test")
    except ModelError as error:
        return error
    return None


def test_buffers_of_old_checkpoints_are_no_tensors_of_the_model(tmp_path: Path) -> None:
    """Old Llama files carry rotary buffers; they hold nothing that config.json does not say."""
    save_tiny("llama", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    save_file(weights, tmp_path / "model.safetensors")
    assert not open_checkpoint(tmp_path).has("model.layers.0.self_attn.rotary_emb.inv_freq")


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    """Unpickling runs code."""
    save_tiny("llama", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle"):
        open_checkpoint(tmp_path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    """A truncated download fails at start with its file name, not later with wrong answers."""
    save_tiny("llama", tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot be read"):
        open_checkpoint(tmp_path)


def test_a_shard_cannot_be_outside_of_the_folder(tmp_path: Path) -> None:
    """The index comes with the model; it does not decide which files of this machine are opened."""
    save_tiny("llama", tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../../etc/passwd"}}))
    with pytest.raises(ModelError, match="not a plain file name"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("files", "reason"),
    [({}, "no config.json"), ({"adapter_config.json": "{}"}, "it is an adapter"), ({"config.json": "[]"}, "object")],
)
def test_what_is_not_a_model_is_said_to_be_none(files: dict[str, str], reason: str, tmp_path: Path) -> None:
    """A wrong path is the commonest mistake; the message says what was found."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ModelError, match=reason):
        open_checkpoint(tmp_path)


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    """As above, for a path that does not exist."""
    with pytest.raises(ModelError, match="no such model"):
        open_checkpoint(tmp_path / "absent")


@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.parametrize("flag", [None, True, False])
def test_text_is_tokenised_as_transformers_does(flag: bool | None, in_file: bool, tmp_path: Path) -> None:
    """tokenizer.json alone decides about a first token; `add_bos_token` of tokenizer_config.json says nothing beside it."""
    save_tiny("llama", tmp_path)
    save_tokenizer(tmp_path, adds_bos=in_file)
    if flag is not None:
        path = tmp_path / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "add_bos_token": flag}))
    reference = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer = open_checkpoint(tmp_path).tokenizer()
    for text in ("the quick fox", "", " the</s>dog", "naïve 日本"):
        assert tokenizer.encode(text).ids == reference(text)["input_ids"]
        assert tokenizer.encode(text, add_special_tokens=False).ids == reference(text, add_special_tokens=False)["input_ids"]


def test_text_conventions_are_those_of_transformers(tmp_path: Path) -> None:
    """Chat templates see the same special tokens; answers end at the same tokens."""
    save_tiny("llama", tmp_path)
    save_tokenizer(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.special_tokens == AutoTokenizer.from_pretrained(tmp_path).special_tokens_map
    assert checkpoint.chat_template == TEMPLATE
    (tmp_path / "chat_template.jinja").write_text("newer")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.chat_template == "newer"
    assert checkpoint.eos_token_ids == (1, 2)
    (tmp_path / "generation_config.json").write_text("{}")
    edit_config(tmp_path, eos_token_id=None)
    assert open_checkpoint(tmp_path).eos_token_ids == (1,)
