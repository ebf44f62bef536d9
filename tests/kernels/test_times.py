"""What operations say of the time they take, on every instruction set of the machine."""

from __future__ import annotations

import time

import numpy as np
import pytest

from manylora.kernels import Matrix, Runtime, capabilities, rms_norm

from .linear_cases import Kernel, Shape, draw_case

CASE = draw_case(
    Shape(576, (192, 96), ((16, 0), (4, 7)), 33, ((0, 9, 0), (9, 10, 1), (20, 33, 0)), False, False, False, 1), False
)


@pytest.mark.parametrize("capability", capabilities())
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_products_are_charged_to_base_and_adapters(capability: str, threads: int, quantization: str) -> None:
    """Both have a share when adapters take part, and adapters none when they do not; together no more than passed. What is
    measured computes the same bits."""
    kernel = Kernel(CASE, capability, threads, quantization)
    unmeasured = kernel.run()
    kernel.runtime = Runtime(threads, capability)
    kernel.runtime.measure()
    began = time.perf_counter_ns()
    assert np.array_equal(kernel.run(), unmeasured)
    passed, times = time.perf_counter_ns() - began, kernel.runtime.take_times()
    assert times["base"] > 0 < times["lora"]
    assert sum(times.values()) <= passed
    kernel.run(spans=())
    times = kernel.runtime.take_times()
    assert times["base"] > 0 == times["lora"] == times["attention"] == times["elementwise"]


def test_nothing_is_measured_unasked() -> None:
    """An engine without a step log looks at no clock; with one, each look at the times begins anew."""
    runtime = Runtime(1, capabilities()[-1])
    x, weight, y = Matrix(4, 64, "float32"), Matrix(1, 64, "float32"), Matrix(4, 64, "bfloat16")
    rms_norm(runtime, 4, x, weight, 1e-5, y)
    nothing = {"base": 0, "lora": 0, "attention": 0, "elementwise": 0}
    assert runtime.take_times() == nothing
    runtime.measure()
    rms_norm(runtime, 4, x, weight, 1e-5, y)
    assert runtime.take_times()["elementwise"] > 0
    assert runtime.take_times() == nothing
