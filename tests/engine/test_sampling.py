"""Penalties, biases, masks and randomness: everything between logits and a token that is not a kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manylora import kernels
from manylora.engine.sampling import Sampler, uniform
from manylora.engine.track import Track
from manylora.types.request import Request, SamplingParams
from tests.engine.harness import CAPABILITIES

VOCAB = 50


def track(prompt: list[int], generated: list[int], **sampling: Any) -> Track:
    params = SamplingParams(**({"temperature": 0.0, "logprobs": 3} | sampling))
    result = Track(Request("r", prompt, params), None, len(prompt) + len(generated) + 1)
    for token in generated:
        result.append(token)
    return result


def sample(tracks: list[Track], logits: np.ndarray) -> list[Any]:
    runtime = kernels.Runtime(1, CAPABILITIES[-1])
    matrix = kernels.Matrix(len(tracks), VOCAB, "float32")
    matrix.array[:] = logits
    return Sampler(runtime, len(tracks)).sample(matrix, tracks)


def flat(**values: float) -> np.ndarray:
    """Logits of zero but for tokens t3=..., t7=..."""
    logits = np.zeros((1, VOCAB), np.float32)
    for name, value in values.items():
        logits[0, int(name[1:])] = value
    return logits


def test_uniform_is_a_function_of_its_arguments_in_the_unit_interval() -> None:
    """Randomness depends on (seed, choice, position) and nothing else, and fills [0, 1) evenly."""
    draws = np.array([uniform(seed, choice, place) for seed in range(20) for choice in range(5) for place in range(100)])
    assert uniform(3, 1, 7) == uniform(3, 1, 7)
    assert len(set(draws.tolist())) == len(draws)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts, _ = np.histogram(draws, 20, (0, 1))
    assert abs(counts - len(draws) / 20).max() < 5 * np.sqrt(len(draws) / 20)


@given(st.integers(-(2**63), 2**64), st.integers(0, 127), st.integers(0, 2**20))
def test_uniform_takes_any_seed(seed: int, choice: int, position: int) -> None:
    """Whatever 64-bit seed a caller sends, the result stays in range."""
    assert 0 <= uniform(seed, choice, position) < 1


def test_each_position_draws_its_own_number() -> None:
    """A request whose random numbers did not depend on the position would pick the same place of the distribution for ever."""
    tokens = [sample([track([1], [2] * length, temperature=1.0, seed=11)], flat())[0][0] for length in range(30)]
    assert len(set(tokens)) > 10


@given(
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=20),
    st.lists(st.integers(0, VOCAB - 1), max_size=20),
    st.sampled_from([0.0, 0.5, -0.3]),
    st.sampled_from([0.0, 0.25]),
    st.sampled_from([1.0, 1.3, 0.8]),
)
def test_penalties_equal_their_definition(
    prompt: list[int], answer: list[int], presence: float, frequency: float, repetition: float
) -> None:
    """Against the formulas of the OpenAI API and of CTRL, written out token by token."""
    logits = np.random.default_rng(3).standard_normal((1, VOCAB)).astype(np.float32)
    wanted = logits[0].astype(np.float64)
    for token in {*prompt, *answer}:
        wanted[token] = wanted[token] / repetition if wanted[token] > 0 else wanted[token] * repetition
    for token in set(answer):
        wanted[token] -= frequency * answer.count(token) + presence
    penalties = {"presence_penalty": presence, "frequency_penalty": frequency, "repetition_penalty": repetition}
    chosen = sample([track(prompt, answer, **penalties)], logits)[0][0]
    assert wanted[chosen] >= wanted.max() - 1e-5


def test_presence_and_frequency_look_at_the_answer_and_not_at_the_prompt() -> None:
    """As the OpenAI API defines them."""
    logits = flat(t3=1.0, t7=0.9)
    assert sample([track([3, 3, 3], [], presence_penalty=2.0, frequency_penalty=2.0)], logits)[0][0] == 3
    assert sample([track([1], [3], presence_penalty=0.2)], logits)[0][0] == 7
    assert sample([track([1], [3], frequency_penalty=0.06)], logits)[0][0] == 3
    assert sample([track([1], [3, 3], frequency_penalty=0.06)], logits)[0][0] == 7


def test_repetition_looks_at_prompt_and_answer_and_pushes_both_signs_down() -> None:
    """Positive logits are divided, negative ones multiplied (CTRL)."""
    assert sample([track([3], [], repetition_penalty=1.2)], flat(t3=1.0, t7=0.9))[0][0] == 7
    logits = np.full((1, VOCAB), -9.0, np.float32)
    logits[0, [3, 7]] = (-1.0, -1.1)
    assert sample([track([3], [], repetition_penalty=1.2)], logits)[0][0] == 7


def test_bias_moves_a_token_and_minimum_masks_the_stops() -> None:
    """logit_bias adds to a logit; before min_tokens no stop token can be chosen."""
    assert sample([track([1], [], logit_bias={9: 5.0})], flat(t3=1.0))[0][0] == 9
    stops = {"stop_token_ids": (3, 4), "min_tokens": 2}
    assert sample([track([1], [5], **stops)], flat(t3=2.0, t7=1.0))[0][0] == 7
    assert sample([track([1], [5, 5], **stops)], flat(t3=2.0, t7=1.0))[0][0] == 3


def test_logprobs_are_those_of_the_raw_logits() -> None:
    """Penalties and biases change what is chosen, not what is reported; the top list is best first, ties by token id."""
    logits = np.random.default_rng(1).standard_normal((1, VOCAB)).astype(np.float32)
    expected = logits[0] - np.log(np.exp(logits[0].astype(np.float64)).sum())
    token, reported = sample([track([1], [2], logit_bias={9: 50.0}, presence_penalty=1.0)], logits)[0]
    assert token == reported.token == 9
    assert reported.logprob == pytest.approx(expected[9], abs=1e-5)
    assert [entry[0] for entry in reported.top] == np.argsort(-logits[0], kind="stable")[:3].tolist()


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    """Penalties and random numbers of one request never reach another's row."""
    logits = np.random.default_rng(2).standard_normal((4, VOCAB)).astype(np.float32)

    def tracks() -> list[Track]:
        return [
            track([1, 2], [3, 3], presence_penalty=1.0, temperature=0.9, seed=5),
            track([4], [], temperature=1.0, top_p=0.8, seed=6),
            track([5], [6], repetition_penalty=1.5),
            track([7], [], temperature=2.0, top_k=4, min_p=0.1, seed=7, choice=2),
        ]

    together = sample(tracks(), logits)
    assert together == [sample([each], logits[row : row + 1])[0] for row, each in enumerate(tracks())]
