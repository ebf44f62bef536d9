"""Log-probabilities and sampling, on every instruction set of the machine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from manylora.kernels import Matrix, Sampler, capabilities, logprobs, oracle_sampling, sample

from .attention_cases import float32, runtime

CAPABILITIES = capabilities()
quick = settings(max_examples=60, deadline=None)
vocabularies = st.one_of(st.integers(1, 80), st.sampled_from([4095, 4096, 4097, 9001]))


def draw(
    capability: str,
    logits: NDArray[np.floating],
    uniforms: NDArray[np.float64],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    threads: int = 1,
) -> NDArray[np.int32]:
    """A token of the one row for each of the uniform numbers, all rows of one call."""
    rows = len(uniforms)
    sampler, matrix = Sampler(rows, 0), float32(np.broadcast_to(logits, (rows, len(logits))))
    sampler.temperature[:], sampler.top_k[:], sampler.top_p[:], sampler.min_p[:] = temperature, top_k, top_p, min_p
    sampler.uniform[:] = uniforms
    sample(runtime(capability, threads), rows, matrix, sampler)
    return sampler.token.copy()


@pytest.mark.parametrize("capability", CAPABILITIES)
@quick
@given(
    vocabulary=vocabularies,
    spread=st.sampled_from([0.0, 0.5, 3.0, 30.0]),
    temperature=st.sampled_from([0.1, 0.7, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 2, 7, 300, 10**6]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.31, 1e-6]),
    min_p=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    seed=st.integers(0, 999),
)
def test_tokens_follow_the_distribution(
    capability: str, vocabulary: int, spread: float, temperature: float, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    """The token is where `uniform` falls in the cumulative distribution of what the filters keep, to fp32 accuracy."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=vocabulary) * spread).astype(np.float32)
    uniforms = np.append(rng.random(6), [0.0, 1 - 2.0**-53])
    tokens = draw(capability, logits, uniforms, temperature, top_k, top_p, min_p, threads=2)
    slack = 2e-5  # of fp32 weights and sums; a filter's edge may fall on either side within it
    allowed = np.zeros((len(uniforms), vocabulary), bool)
    for edge in (-slack, 0.0, slack):
        mass, least = top_p * (1 + edge) if top_p < 1 else 1.0, min(min_p * (1 + edge), 1.0)
        p = oracle_sampling.distribution(logits, temperature, top_k, mass, least)
        last = np.cumsum(p)
        near = (last - p - slack <= uniforms[:, None]) & (uniforms[:, None] <= last + slack)
        allowed |= near & (p > 0)
    assert allowed[np.arange(len(uniforms)), tokens].all()


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(
    "filters", [{}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"top_k": 9, "top_p": 0.9, "min_p": 0.05}], ids=str
)
def test_evenly_spaced_uniforms_meet_the_distribution_exactly(capability: str, filters: dict[str, float]) -> None:
    """2,000 evenly spaced numbers give every token its share to within one count, so nothing is lost or counted twice."""
    logits = np.random.default_rng(3).normal(size=40).astype(np.float32) * 2
    count = 2000
    tokens = draw(capability, logits, (np.arange(count) + 0.5) / count, 0.9, **filters)  # type: ignore[arg-type]
    p = oracle_sampling.distribution(
        logits, 0.9, int(filters.get("top_k", 0)), filters.get("top_p", 1.0), filters.get("min_p", 0.0)
    )
    assert (np.diff(tokens) >= 0).all()
    assert (np.abs(np.cumsum(np.bincount(tokens, minlength=40)) - count * np.cumsum(p)) <= 1.0).all()
    assert set(tokens) <= set(np.flatnonzero(p))


@pytest.mark.parametrize("capability", CAPABILITIES)
@quick
@given(vocabulary=vocabularies, seed=st.integers(0, 999), levels=st.sampled_from([1, 2, 5, 10**6]))
def test_greedy_takes_the_lowest_id_of_the_largest(capability: str, vocabulary: int, seed: int, levels: int) -> None:
    """Temperature 0 is the arg max with ties to the lowest id, whatever the other parameters say."""
    logits = np.random.default_rng(seed).integers(levels, size=vocabulary).astype(np.float32)
    tokens = draw(capability, logits, np.array([0.0, 0.99]), temperature=0.0, top_k=3, top_p=0.5)
    assert (tokens == logits.argmax()).all()


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_ties_at_a_filter_go_to_the_lowest_ids(capability: str) -> None:
    """Among equal logits, top_k and top_p keep the lowest token ids, and 0.0 equals -0.0."""
    logits = np.zeros(100, np.float32)
    logits[::2] = -0.0
    uniforms = (np.arange(200) + 0.5) / 200
    assert set(draw(capability, logits, uniforms, top_k=4)) == {0, 1, 2, 3}
    assert set(draw(capability, logits, uniforms, top_p=0.095)) == set(range(10))
    assert set(draw(capability, logits, uniforms, top_p=1e-9)) == {0}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_extreme_temperatures(capability: str) -> None:
    """As the temperature falls the answer becomes the arg max; as it rises, uniform; neither overflows."""
    logits = np.array([3.0, 3.5, -2e38, 3.4, 3e38, 1.0], np.float32)
    uniforms = (np.arange(60) + 0.5) / 60
    for temperature in (1e-40, 1e-6, 1.0):
        assert (draw(capability, logits, uniforms, temperature) == 4).all()
        assert (draw(capability, logits, uniforms, temperature, top_p=0.9) == 4).all()
    logits = np.linspace(-1, 1, 6).astype(np.float32)
    assert (np.bincount(draw(capability, logits, uniforms, 1e38)) == 10).all()
    assert (np.bincount(draw(capability, logits, uniforms, 3e38, top_k=3), minlength=6) == [0, 0, 0, 20, 20, 20]).all()


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("filters", [{}, {"top_k": 50}, {"top_p": 0.99}, {"min_p": 1e-9}], ids=str)
def test_masked_tokens_are_never_drawn(capability: str, filters: dict[str, float]) -> None:
    """A logit of minus infinity has probability zero at either end of the cumulative distribution."""
    logits = np.full(5000, -np.inf, np.float32)
    logits[[17, 4099]] = [0.0, 1.0]
    tokens = draw(capability, logits, np.array([0.0, 0.2, 0.3, 1 - 2.0**-53]), **filters)  # type: ignore[arg-type]
    assert tokens.tolist() == [17, 17, 4099, 4099]


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("filters", [{}, {"top_k": 3}, {"top_p": 0.5}, {"temperature": 0.0}], ids=str)
def test_rows_without_a_distribution(capability: str, filters: dict[str, float]) -> None:
    """NaN or infinite logits never crash: the token is the largest number's, and the normalizer says NaN."""
    nan, inf = np.nan, np.inf
    rows = {
        (nan, 1.0, 2.0): 2,
        (1.0, inf, inf): 1,
        (-inf, -inf, -inf): 0,
        (nan, nan, nan): 0,
        (nan, -inf, nan): 1,
        (nan, inf, 0.0): 1,
    }
    for row, token in rows.items():
        logits = np.array(row, np.float32)
        assert (draw(capability, logits, np.array([0.0, 0.9]), **filters) == token).all()  # type: ignore[arg-type]
        sampler = Sampler(1, 3)
        sampler.top_count[0] = 3
        logprobs(runtime(capability, 1), 1, float32(logits[None]), sampler)
        assert np.isnan(sampler.normalizer[0])
        assert sorted(sampler.top_tokens[0]) == [0, 1, 2]


@pytest.mark.parametrize("capability", CAPABILITIES)
@quick
@given(
    vocabulary=vocabularies,
    spread=st.sampled_from([0.0, 0.5, 3.0, 60.0]),
    top=st.sampled_from([0, 1, 5, 20]),
    masked=st.booleans(),
    seed=st.integers(0, 999),
)
def test_logprobs(capability: str, vocabulary: int, spread: float, top: int, masked: bool, seed: int) -> None:
    """Normalizers are good to 1e-5 nats; the most likely tokens come in order, ties by id, and -1 past the vocabulary."""
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(size=(3, vocabulary)) * spread, 1).astype(np.float32)
    if masked:
        logits[:, rng.random(vocabulary) < 0.8] = -np.inf
        logits[:, 0] = 0.0
    sampler = Sampler(4, 20)
    sampler.top_count[:3] = [top, 0, top]
    sampler.top_tokens[:] = -7
    logprobs(runtime(capability, 2), 3, float32(logits), sampler)
    for row in range(3):
        exact = oracle_sampling.normalizer(logits[row])
        assert abs(sampler.normalizer[row] - exact) <= 1e-5 + 2.0**-23 * abs(exact)
        count = min(sampler.top_count[row], vocabulary)
        best = oracle_sampling.most_likely_first(logits[row])[:count]
        np.testing.assert_array_equal(sampler.top_tokens[row, :count], best)
        np.testing.assert_array_equal(sampler.top_logprobs[row, :count], logits[row, best] - sampler.normalizer[row])
        assert (sampler.top_tokens[row, count : sampler.top_count[row]] == -1).all()
        assert (sampler.top_tokens[row, sampler.top_count[row] :] == -7).all()


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_row_samples_alone_as_it_does_in_a_batch(capability: str) -> None:
    """Neighbours, their parameters, the place in the batch and the threads change no bit of a row's results."""
    rng = np.random.default_rng(0)
    rows, vocabulary = 24, 9001
    logits = (rng.normal(size=(rows, vocabulary)) * 2).astype(np.float32)
    columns = {
        "temperature": rng.choice([0.0, 0.5, 1.3], rows),
        "top_k": rng.choice([0, 1, 40], rows),
        "top_p": rng.choice([1.0, 0.9, 0.2], rows),
        "min_p": rng.choice([0.0, 0.1], rows),
        "uniform": rng.random(rows),
        "top_count": rng.choice([0, 5], rows),
    }

    def results(chosen: NDArray[np.integer], threads: int) -> list[NDArray[np.generic]]:
        sampler, matrix = Sampler(rows, 5), float32(logits[chosen])
        for name, values in columns.items():
            getattr(sampler, name)[: len(chosen)] = values[chosen]
        for operation in (sample, logprobs):
            operation(runtime(capability, threads), len(chosen), matrix, sampler)
        arrays = (sampler.token, sampler.normalizer, sampler.top_tokens, sampler.top_logprobs)
        return [array[: len(chosen)].copy() for array in arrays]

    together = results(np.arange(rows), 2)
    for order, threads in ((rng.permutation(rows), 2), (rng.permutation(rows)[:5], 1), (np.array([7]), 2)):
        for array, expected in zip(results(order, threads), together, strict=True):
            np.testing.assert_array_equal(array, expected[order])


def test_parameters_are_checked() -> None:
    """A parameter out of range raises ValueError with its name and row; shapes must fit."""
    pool, logits = runtime("scalar", 1), Matrix(2, 10, "float32")
    wrong = {
        "temperature": [-1.0, np.nan, np.inf],
        "top_p": [0.0, -1.0, np.nan],
        "min_p": [-0.1, 1.1, np.nan],
        "uniform": [-0.1, 1.0],
    }
    for name, values in wrong.items():
        for value in values:
            sampler = Sampler(2, 1)
            getattr(sampler, name)[1] = value
            with pytest.raises(ValueError, match=rf"{name}\[1\]"):
                sample(pool, 2, logits, sampler)
    for count in (-1, 2):
        sampler = Sampler(2, 1)
        sampler.top_count[1] = count
        with pytest.raises(ValueError, match=r"top_count\[1\]"):
            logprobs(pool, 2, logits, sampler)
    with pytest.raises(ValueError, match="max_rows"):
        sample(pool, 3, Matrix(3, 10, "float32"), Sampler(2, 0))
    with pytest.raises(ValueError, match="logits must be"):
        sample(pool, 2, Matrix(1, 10, "float32"), Sampler(2, 0))
    with pytest.raises(ValueError, match="max_rows"):
        Sampler(0, 0)
