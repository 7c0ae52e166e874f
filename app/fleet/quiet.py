"""Saying a thing once a minute: what outsiders do must not fill the disk."""

import time
from collections.abc import Callable

QUIET_S = 60.0
MOST = 1000  # sentences, and kinds, remembered
MOST_OF_A_PEER, MOST_OF_ALL = 10, 100  # new sentences within a minute


class Budget:
    """At most so many of a kind within a minute."""

    def __init__(
        self, most: int, clock: Callable[[], float] = time.monotonic, within_s: float = QUIET_S
    ) -> None:
        self.most = most
        self._clock, self._within_s = clock, within_s
        self._taken: dict[str, tuple[float, int]] = {}  # when the minute began, and how many since

    def take(self, kind: str) -> int:
        """Which one of this kind this is within the minute, from 1; 0 where there were enough."""
        now = self._clock()
        began, taken = self._taken.get(kind, (now, 0))
        if now - began >= self._within_s:
            began, taken = now, 0
        elif taken >= self.most:
            return 0
        if kind not in self._taken and len(self._taken) >= MOST:
            self._taken = {each: of for each, of in self._taken.items() if now - of[0] < self._within_s}
            if len(self._taken) >= MOST:
                return 0
        self._taken[kind] = began, taken + 1
        return taken + 1


class Quiet:
    """Remembers what was logged lately. Whoever makes a new sentence each time is heard a few times a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, quiet_s: float = QUIET_S) -> None:
        self._clock, self._quiet_s = clock, quiet_s
        self._logged: dict[str, float] = {}
        self._by_peer, self._all = Budget(MOST_OF_A_PEER, clock, quiet_s), Budget(MOST_OF_ALL, clock, quiet_s)

    def is_new(self, sentence: str, peer: str = "") -> bool:
        """Whether ``sentence`` about ``peer`` is to be logged: not within the last minute, and not too many of them."""
        now = self._clock()
        if now - self._logged.get(sentence, -self._quiet_s) < self._quiet_s:
            return False
        if (peer and not self._by_peer.take(peer)) or not self._all.take(""):
            return False
        if len(self._logged) >= MOST:
            self._logged.clear()
        self._logged[sentence] = now
        return True
