"""The floors against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from manylora.roofline.cost import Cost, ModelCosts, StepLoad, adapter_bytes
from manylora.roofline.loads import ClosedLoop, decode, floors
from manylora.roofline.machine import Machine, Rate, best_of
from manylora.types.model import ModelShape

SMOLLM2 = ModelShape("llama", 49152, 576, 1536, 30, 9, 3, 64, 8192, 1e-5, 1e5, tied_embeddings=True)
MODEL = ModelCosts(SMOLLM2)
LAYERS = 30 * (576 * 576 * 2 + 576 * 192 * 2 + 3 * 576 * 1536)  # q and o, k and v, the three of the MLP: 106.2 M
HEAD = 49152 * 576  # 28.3 M
KV = 2 * 3 * 64 * 2 * 30  # 23,040 bytes a token
ADAPTER = adapter_bytes(SMOLLM2, 16)


def machine(bandwidth: float, bf16: float, int8: float) -> Machine:
    return Machine("scalar", 1, *(Rate(rate, rate / 2) for rate in (bandwidth, bf16, int8)))


EVEN = machine(20e9, 1e12, 2e12)
MEMORY_BOUND = machine(1e9, 1e18, 1e18)
ARITHMETIC_BOUND = machine(1e18, 1e9, 1e9)


def test_the_size_of_the_demo_model() -> None:
    """269 MB of weights, 9.8 MB for an adapter of rank 16 on all projections, 156 MB for 16 of them, 0.269 GFLOP a row."""
    assert (MODEL.layer_weights, MODEL.head_weights, MODEL.token_bytes) == (LAYERS, HEAD, KV)
    assert MODEL.layer_bytes + MODEL.head_bytes == pytest.approx(269e6, rel=1e-3)
    assert ADAPTER == 30 * 16 * (1152 + 768 + 768 + 1152 + 3 * 2112) * 2 == 9_768_960
    sixteen = MODEL.step(StepLoad(1, 1, 0, 1, adapters=16, adapter_bytes=ADAPTER)).bytes - MODEL.step(StepLoad(1, 1, 0, 1)).bytes
    assert sixteen == pytest.approx(156.3e6, rel=1e-3)
    row = MODEL.step(StepLoad(rows=1, samples=1, context=0, attended=0))
    assert row.bf16_operations == pytest.approx(0.269e9, rel=1e-3)


def test_an_adapter_at_its_true_rank_and_targets() -> None:
    """Nothing is padded: not the rank, and no module that the adapter leaves alone."""
    assert adapter_bytes(SMOLLM2, 1, ["q_proj", "v_proj"]) == 30 * (576 + 576 + 192 + 576) * 2


def test_a_step_by_hand() -> None:
    """3 rows of which 2 are sampled, one adapter on 2 rows: every term of the formula once."""
    load = StepLoad(rows=3, samples=2, context=100, attended=106, adapters=1, adapter_bytes=ADAPTER, adapted_rows=2)
    cost = MODEL.step(load)
    assert cost.bytes == 2 * (LAYERS + HEAD) + ADAPTER + 103 * KV
    assert cost.bf16_operations == 2 * (3 * LAYERS + 2 * HEAD) + 4 * 9 * 64 * 30 * 106 + 2 * ADAPTER
    assert MODEL.step(replace(load, samples=0)).bytes == 2 * LAYERS + ADAPTER + 103 * KV
    assert cost.seconds(MEMORY_BOUND) == cost.bytes / 1e9
    assert cost.seconds(ARITHMETIC_BOUND) == cost.bf16_operations / 1e9


def test_int8_halves_the_weights_and_nothing_else() -> None:
    """A byte a weight, eight a column for its scale and the start of its sums; adapters and attention stay in bfloat16, and their
    time adds to that of int8."""
    load = StepLoad(rows=3, samples=2, context=100, attended=106, adapters=1, adapter_bytes=ADAPTER, adapted_rows=2)
    cost = ModelCosts(SMOLLM2, "int8").step(load)
    columns = 8 * (30 * (2 * 576 + 2 * 192 + 2 * 1536 + 576) + 49152)
    assert cost.bytes == LAYERS + HEAD + columns + ADAPTER + 103 * KV
    assert cost.int8_operations == 2 * (3 * LAYERS + 2 * HEAD)
    assert cost.bf16_operations == 4 * 9 * 64 * 30 * 106 + 2 * ADAPTER
    assert Cost(0, 1e9, 4e9).seconds(machine(1, 1e9, 2e9)) == 3.0


def test_a_closed_loop_bound_by_memory() -> None:
    """32 in flight over 16 adapters: decodes read everything once for 32 tokens, prefill steps hold four prompts of 128."""
    load = ClosedLoop(32, 128, 64, 512, (ADAPTER,) * 16)
    found = floors(MODEL, MEMORY_BOUND, load)
    weights = 2 * (LAYERS + HEAD)
    assert found.decode_step == (weights + 16 * ADAPTER + 32 * 160 * KV) / 1e9
    assert found.prefill == (weights + 4 * ADAPTER + 512 * KV) / 1e9 / 4
    assert found.output_tokens_per_second == pytest.approx(64 / (found.prefill + 63 * found.decode_step / 32))
    prompts = 32 / 63  # a step of decodes takes in so many
    step = (weights + 16 * ADAPTER + (32 * 159 + 32 + prompts * 128) * KV) / 1e9
    assert found.mixed_tokens_per_second == pytest.approx((32 + prompts) / step)


def test_a_lone_prompt_longer_than_a_step() -> None:
    """Its chunks follow one another; each reads the layers and what was known, only the last one lm_head."""
    found = floors(MODEL, MEMORY_BOUND, ClosedLoop(1, 700, 64, 512))
    assert found.lone_ttft == pytest.approx((2 * LAYERS + 512 * KV + 2 * (LAYERS + HEAD) + (512 + 188) * KV) / 1e9)
    arithmetic = floors(MODEL, ARITHMETIC_BOUND, ClosedLoop(1, 700, 64, 512)).lone_ttft
    assert arithmetic == pytest.approx((2 * (700 * LAYERS + HEAD) + 4 * 9 * 64 * 30 * 700 * 701 / 2) / 1e9)


def test_one_stream_reads_one_adapter() -> None:
    """Whatever the number of adapters that take turns."""
    found = floors(MODEL, MEMORY_BOUND, ClosedLoop(8, 128, 64, 512, (ADAPTER, 3 * ADAPTER)))
    assert found.lone_tpot == (2 * (LAYERS + HEAD) + 2 * ADAPTER + 160 * KV) / 1e9
    assert decode(ClosedLoop(8, 128, 64, 512, (ADAPTER, 3 * ADAPTER)), 8).adapters == 2


def test_a_load_without_decodes() -> None:
    """An answer of one token comes from the prompt's own step."""
    found = floors(MODEL, EVEN, ClosedLoop(4, 128, 1, 512))
    assert found.output_tokens_per_second == found.mixed_tokens_per_second == 1 / found.prefill


def test_mixing_hides_reads_behind_arithmetic() -> None:
    """Decodes wait for memory while prompts compute: apart their times add, mixed the arithmetic of both is all there is."""
    found = floors(MODEL, EVEN, ClosedLoop(8, 128, 9, 512))  # so that a step of 8 decodes takes in 1 prompt
    reads = 2 * (LAYERS + HEAD) + 8 * 132.5 * KV
    prompt = 2 * (128 * LAYERS + HEAD) + 4 * 9 * 64 * 30 * 128 * 129 / 2
    decodes = 8 * (2 * (LAYERS + HEAD) + 4 * 9 * 64 * 30 * 132.5)
    assert found.output_tokens_per_second == pytest.approx(9 / (prompt / 1e12 + reads / 20e9))
    assert found.mixed_tokens_per_second == pytest.approx(9 / ((prompt + decodes) / 1e12))
    assert found.mixed_tokens_per_second > 1.4 * found.output_tokens_per_second


def test_the_example_of_the_page() -> None:
    """docs/roofline.md works the demo's load out for a machine of 20 GB/s and 3 TFLOP/s."""
    found = floors(MODEL, machine(20e9, 3e12, 3e12), ClosedLoop(32, 128, 64, 512, (ADAPTER,) * 16))
    assert found.decode_step == pytest.approx(27.2e-3, rel=0.005)
    assert found.prefill == pytest.approx(9.7e-3, rel=0.005)
    assert found.output_tokens_per_second == pytest.approx(1013, rel=0.001)
    assert found.mixed_tokens_per_second == pytest.approx(1194, rel=0.001)


def test_the_best_of_two_probes() -> None:
    """Neighbours slow a machine down; nothing makes it faster than it is."""
    both = best_of(machine(1, 5, 3), machine(2, 4, 3))
    assert (both.bandwidth.best, both.bf16_peak.best, both.int8_peak.best) == (2, 5, 3)
