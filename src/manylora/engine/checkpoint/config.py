"""config.json of the supported families, read into a ModelShape and written from one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manylora.engine.checkpoint.base import Checkpoint, check_heads
from manylora.errors import ModelError
from manylora.types.model import ModelShape, RopeScaling

SUPPORTED = "Llama 2/3.x, SmolLM2 (llama), Mistral (mistral), Qwen2/2.5 (qwen2), Qwen3 dense (qwen3)"
_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
# What transformers assumes when a config leaves the key out.
_KV_HEADS = {"mistral": 8, "qwen2": 32, "qwen3": 32}
_MAX_POSITION = {"llama": 2048, "mistral": 131072, "qwen2": 32768, "qwen3": 32768}
_MAX_SIZE, _MAX_LAYERS = 1 << 24, 1024
"""Beyond these no such model exists, and a damaged config would make us count tensors until memory ends."""
_WINDOW = {"mistral": 4096, "qwen2": 4096, "qwen3": 4096}


def read_config(config: Mapping[str, Any], source: str) -> ModelShape:
    """The shape that a config.json describes. Raises ModelError, naming the key, for anything that is not supported."""
    try:
        shape = _read_shape(config, source)
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ModelError(f"{source}: config.json holds a value of the wrong type ({error})") from error
    check_heads(source, shape)
    return shape


def _read_shape(config: Mapping[str, Any], source: str) -> ModelShape:
    family = str(config.get("model_type"))
    _refuse_unsupported(config, family, source)
    size = {key: _positive(config, key, source) for key in _REQUIRED}
    heads = size["num_attention_heads"]
    implied = {"head_dim": 128 if family == "qwen3" else size["hidden_size"] // heads}
    implied["num_key_value_heads"] = _KV_HEADS.get(family, heads)
    given = {key: config[key] for key in implied if config.get(key) is not None}
    head_dim, kv_heads = (_positive({**implied, **given}, key, source) for key in implied)
    attention_bias = bool(config.get("attention_bias", False)) and family in ("llama", "qwen3")
    theta, scaling = read_rope(config, source)
    return ModelShape(
        family=family,
        vocab=size["vocab_size"],
        hidden=size["hidden_size"],
        intermediate=size["intermediate_size"],
        layers=size["num_hidden_layers"],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        max_position=_max_position(config, family, source),
        rms_eps=float(config.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_scaling=scaling,
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=attention_bias or family == "qwen2",
        output_bias=attention_bias,
        mlp_bias=bool(config.get("mlp_bias", False)) and family == "llama",
        qk_norm=family == "qwen3",
    )


def _refuse_unsupported(config: Mapping[str, Any], family: str, source: str) -> None:
    if family not in _ARCHITECTURES:
        raise ModelError(f"{source}: model_type {family!r} is not supported (supported: {SUPPORTED})")
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "unnamed") if isinstance(quantization, Mapping) else quantization
        raise ModelError(f"{source}: quantised weights ({method}) are not supported: use the bfloat16 checkpoint, or GGUF")
    for architecture in config.get("architectures") or []:
        if architecture != _ARCHITECTURES[family]:
            raise ModelError(f"{source}: architecture {architecture} is not supported, only {_ARCHITECTURES[family]}")
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ModelError(f"{source}: hidden_act {activation!r} is not supported, only 'silu'")


def _positive(config: Mapping[str, Any], key: str, source: str) -> int:
    value = config.get(key)
    limit = _MAX_LAYERS if key == "num_hidden_layers" else _MAX_SIZE
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= limit:
        raise ModelError(f"{source}: config.json must give {key} as an integer from 1 to {limit}, not {str(value)[:40]!r}")
    return value


def _max_position(config: Mapping[str, Any], family: str, source: str) -> int:
    """Full attention equals sliding-window attention up to the window, so a windowed model serves that many positions."""
    default = {"max_position_embeddings": _MAX_POSITION[family]}
    given = {key: config[key] for key in default if config.get(key) is not None}
    positions = _positive({**default, **given}, "max_position_embeddings", source)
    windowed = family == "mistral" or (family in ("qwen2", "qwen3") and bool(config.get("use_sliding_window", False)))
    window = config.get("sliding_window", _WINDOW[family]) if windowed else None
    return positions if window is None else min(positions, _positive({"sliding_window": window}, "sliding_window", source))


def read_rope(config: Mapping[str, Any], source: str) -> tuple[float, RopeScaling]:
    """(theta, scaling) from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before)."""
    rope: dict[str, Any] = dict(config.get("rope_scaling") or {})
    rope.update(config.get("rope_parameters") or {})
    if "full_attention" in rope or "sliding_attention" in rope:
        raise ModelError(f"{source}: rotary embeddings that differ by layer are not supported")
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    partial = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if partial not in (None, 1, 1.0):
        raise ModelError(f"{source}: partial_rotary_factor {partial} is not supported, only 1.0")
    kind = rope.get("rope_type", rope.get("type", "default"))
    try:
        if kind in (None, "default"):
            return theta, RopeScaling()
        if kind == "linear":
            return theta, RopeScaling("linear", float(rope["factor"]))
        if kind == "llama3":
            return theta, RopeScaling(
                "llama3",
                float(rope["factor"]),
                float(rope["low_freq_factor"]),
                float(rope["high_freq_factor"]),
                int(rope["original_max_position_embeddings"]),
            )
    except KeyError as error:
        raise ModelError(f"{source}: rope scaling {kind!r} needs {error} in config.json") from error
    raise ModelError(f"{source}: rope scaling {kind!r} is not supported (supported: default, linear, llama3)")


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config.json of `checkpoint`, in the spelling that transformers 4 and 5 both read."""
    shape = checkpoint.shape
    config: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[shape.family]],
        "model_type": shape.family,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.max_position,
        "rms_norm_eps": shape.rms_eps,
        "rope_theta": shape.rope_theta,
        "rope_scaling": _rope_scaling_json(shape.rope_scaling),
        "tie_word_embeddings": shape.tied_embeddings,
        "use_cache": True,
    }
    if shape.family in ("llama", "qwen3"):
        config["attention_bias"] = shape.output_bias
    if shape.family == "llama":
        config["mlp_bias"] = shape.mlp_bias
    if shape.family == "mistral":
        config["sliding_window"] = None
    if shape.family in ("qwen2", "qwen3"):
        config["use_sliding_window"] = False
    tokenizer = checkpoint.tokenizer()
    for key in ("bos", "eos", "pad"):
        token = checkpoint.special_tokens.get(f"{key}_token")
        if token is not None:
            config[f"{key}_token_id"] = tokenizer.token_to_id(token)
    return config


def _rope_scaling_json(scaling: RopeScaling) -> dict[str, Any] | None:
    if scaling.kind == "none":
        return None
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_position,
    }
