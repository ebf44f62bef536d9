"""Whose turn it is: virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024)."""

from __future__ import annotations

from collections.abc import Iterable

PROMPT_WEIGHT = 1
OUTPUT_WEIGHT = 2
"""An output token costs more than a prompt token: the weights of the paper."""


class TokenCounters:
    """Service each tenant has had, in weighted tokens. The tenant with the least goes first.

    A tenant that was idle is lifted to the least of the active ones when it returns, so idleness saves no credit."""

    def __init__(self) -> None:
        self._served: dict[str, int] = {}

    def activate(self, tenant: str, active: Iterable[str]) -> None:
        """The tenant has work again; `active` are those that have some already."""
        floor = min((self._served[other] for other in active if other != tenant), default=None)
        served = self._served.get(tenant, 0)
        self._served[tenant] = served if floor is None else max(served, floor)

    def charge(self, tenant: str, prompt: int = 0, output: int = 0) -> None:
        """Adds tokens computed for the tenant."""
        self._served[tenant] += PROMPT_WEIGHT * prompt + OUTPUT_WEIGHT * output

    def served(self, tenant: str) -> int:
        """Weighted tokens so far."""
        return self._served[tenant]

    def reset(self) -> None:
        """Nobody has work: nobody is ahead of anybody."""
        self._served.clear()
