"""Stop strings over text that arrives in pieces. Which match counts does not depend on how the text was cut up: the one that
ends first, and among those the longest (Knuth, Morris and Pratt's automaton, one per string)."""

from __future__ import annotations


class StopMatcher:
    """Passes text through until a stop string has appeared. Text that may be the beginning of one is held back."""

    __slots__ = ("_automata", "_held", "_include", "matched")

    def __init__(self, stops: tuple[str, ...], *, include: bool = False) -> None:
        self._automata = [_Automaton(stop) for stop in stops]
        self._include = include
        self._held = ""
        self.matched: str | None = None
        """The stop string that ended the text, once one has."""

    def push(self, text: str, *, armed: bool = True) -> str:
        """The text that is certain to be part of the answer now. After a match nothing more comes.

        A match that ends in text pushed with `armed=False` does not count (`min_tokens`)."""
        if not self._automata:
            return text
        if self.matched is not None:
            return ""
        pending = self._held + text
        for position, char in enumerate(text, start=len(self._held) + 1):
            ended = [automaton for automaton in self._automata if automaton.step(char)]
            if ended and armed:
                longest = max(ended, key=lambda automaton: len(automaton.word))
                self.matched, self._held = longest.word, ""
                return pending[: position if self._include else position - len(longest.word)]
        keep = max(automaton.state for automaton in self._automata)
        self._held = pending[len(pending) - keep :]
        return pending[: len(pending) - keep]

    def finish(self) -> str:
        """What was held back and did not become a stop string."""
        held, self._held = self._held, ""
        return held


class _Automaton:
    """`state`: length of the longest beginning of `word` that the text so far ends with; after a whole match, of its border."""

    __slots__ = ("_border", "state", "word")

    def __init__(self, word: str) -> None:
        self.word = word
        self.state = 0
        self._border = [0] * (len(word) + 1)
        """border[i]: length of the longest proper prefix of word[:i] that is also its suffix."""
        length = 0
        for place in range(1, len(word)):
            while length and word[place] != word[length]:
                length = self._border[length]
            length += word[place] == word[length]
            self._border[place + 1] = length

    def step(self, char: str) -> bool:
        """Reads one character; whether `word` ends here."""
        state = self.state
        while state and self.word[state] != char:
            state = self._border[state]
        state += self.word[state] == char
        if state == len(self.word):
            self.state = self._border[state]
            return True
        self.state = state
        return False
