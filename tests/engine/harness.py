"""Real engine cores in this process, real adapters, and a way to play arrivals to them step by step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from manylora import kernels
from manylora.adapters import read_adapter
from manylora.engine.assemble import assemble
from manylora.engine.config import EngineConfig
from manylora.engine.core import EngineCore
from manylora.engine.image import write_image
from manylora.types.model import PROJECTIONS, ModelShape, module_name
from manylora.types.request import Request, RequestOutput, SamplingParams

CAPABILITIES = kernels.capabilities()
TIMEOUT_NS = 10**12


@dataclass
class Engine:
    """An engine core with the adapters it was given, by name, and its own clock."""

    core: EngineCore
    shape: ModelShape
    extent_bytes: int
    images: Path
    versions: dict[str, str] = field(default_factory=dict)
    now: int = 0

    def load(self, name: str, folder: Path) -> str:
        """Reads, packs and attaches an adapter; its version."""
        adapter = read_adapter(folder, self.shape)
        image = write_image(adapter, self.shape, self.extent_bytes, self.images / f"{adapter.version.hash}.image")
        self.core.attach(image, self.now, TIMEOUT_NS)
        self.versions[name] = adapter.version.hash
        return adapter.version.hash

    def step(self) -> list[RequestOutput]:
        """One step, a millisecond after the last."""
        self.now += 1_000_000
        return self.core.step(self.now)

    def add(self, request: Request) -> None:
        """Adds a request whose `adapter` is a name."""
        adapter = None if request.adapter is None else self.versions[request.adapter]
        self.core.add(Request(request.id, request.prompt, request.sampling, adapter, request.adapter or ""), self.now)


@dataclass
class Answer:
    """Everything one request got."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    prompt_logprobs: list[Any] | None = None
    finish_reason: str | None = None
    terminal_outputs: int = 0

    def take(self, output: RequestOutput) -> None:
        """Adds an output."""
        assert self.finish_reason is None, "an output after the terminal one"
        self.tokens += output.tokens
        self.logprobs += output.logprobs or []
        self.prompt_logprobs = output.prompt_logprobs or self.prompt_logprobs
        self.finish_reason = output.finish_reason
        self.terminal_outputs += output.finish_reason is not None


def play(engine: Engine, arrivals: Iterable[tuple[int, Request]], limit: int = 5000) -> dict[str, Answer]:
    """Adds each request at its step, steps until idle, checks conservation; the answers by id."""
    waiting = sorted(arrivals, key=lambda arrival: arrival[0])
    answers = {request.id: Answer() for _, request in waiting}
    for step in range(limit):
        while waiting and waiting[0][0] <= step:
            engine.add(waiting.pop(0)[1])
        for output in engine.step():
            answers[output.id].take(output)
        if not waiting and not engine.core.busy:
            engine.core.check()
            assert all(answer.terminal_outputs == 1 for answer in answers.values())
            return answers
    raise AssertionError(f"not idle after {limit} steps")


def start(model: Path, images: Path, *, capability: str | None = None, threads: int = 2, **options: Any) -> Engine:
    """A core for a model folder; `options` are EngineConfig's."""
    sizes: dict[str, Any] = {"memory_bytes": 64 << 20, "max_model_len": 256, "max_num_seqs": 8, "max_num_batched_tokens": 64}
    config = EngineConfig(model=model, threads=threads, **(sizes | options))
    core, info, extent_bytes = assemble(config, capability or CAPABILITIES[-1], lambda stage, done, total: None)
    return Engine(core, info.shape, extent_bytes, images)


def greedy(id: str, prompt: list[int], adapter: str | None = None, max_tokens: int | None = 8, **sampling: Any) -> Request:
    """A request that is greedy and records log-probabilities unless told otherwise."""
    return Request(
        id, prompt, SamplingParams(**({"temperature": 0.0, "logprobs": 2, "max_tokens": max_tokens} | sampling)), adapter
    )


def write_lora(
    folder: Path, shape: ModelShape, rank: int, targets: Iterable[str] = PROJECTIONS, seed: int = 0, **config: Any
) -> Path:
    """A PEFT folder with random weights large enough to change answers. `config` adds to adapter_config.json."""
    random = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    patterns: Mapping[str, int] = config.get("rank_pattern", {})
    for layer in range(shape.layers):
        for name in targets:
            columns, depth = shape.projection_shape(name)
            own = patterns.get(name, rank)
            path = f"base_model.model.{module_name(layer, name)}"
            a = random.standard_normal((own, depth)) / np.sqrt(depth)
            b = random.standard_normal((columns, own)) * 0.15 / np.sqrt(own)
            tensors[f"{path}.lora_A.weight"] = a.astype(ml_dtypes.bfloat16)
            tensors[f"{path}.lora_B.weight"] = b.astype(ml_dtypes.bfloat16)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    written = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(targets), **config}
    (folder / "adapter_config.json").write_text(json.dumps(written))
    return folder


def write_llama(folder: Path, seed: int = 0, **sizes: int) -> Path:
    """A random Llama in Hugging Face layout: large enough for grouped heads and several panels, small enough for many steps."""
    shape = {
        "vocab_size": 320, "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 2048,
    } | sizes  # fmt: skip
    random = np.random.default_rng(seed)
    hidden, wide, head = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
    query, key = shape["num_attention_heads"] * head, shape["num_key_value_heads"] * head
    sides = {
        "self_attn.q_proj": (query, hidden), "self_attn.k_proj": (key, hidden), "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, query), "mlp.gate_proj": (wide, hidden), "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
    }  # fmt: skip
    tensors = {
        "model.embed_tokens.weight": random.standard_normal((shape["vocab_size"], hidden)),
        "model.norm.weight": np.ones(hidden),
        # Not tied: a random model would only ever repeat its input.
        "lm_head.weight": random.standard_normal((shape["vocab_size"], hidden)) * 2 / np.sqrt(hidden),
    }
    for layer in range(shape["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, (columns, depth) in sides.items():
            tensors[f"{prefix}{name}.weight"] = random.standard_normal((columns, depth)) / np.sqrt(depth)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{name}.weight"] = 1 + random.standard_normal(hidden) * 0.1
    folder.mkdir(parents=True)
    save_file({name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}, folder / "model.safetensors")
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rms_norm_eps": 1e-5, "rope_theta": 10000.0}
    config |= {"hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16", "eos_token_id": 2}
    (folder / "config.json").write_text(json.dumps(config | shape))
    return folder
