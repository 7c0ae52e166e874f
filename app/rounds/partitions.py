"""Which node holds which partition: a node is bound to the first that it claims.

A claim is a number in a client's own reply. It decides the order of the average and a client's label, so a client
could take another's place with it. The client that answers under another number than before is left out. One that
claims what another holds keeps its place among those without a number, and the log says so.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from logging import WARNING

from flwr.common.logger import log


@dataclass
class Partitions:
    """The partitions of a run's nodes.

    Attributes:
        of: partition id by node id; the run's state keeps it.
        left: whether the first node is gone for good and the second may be the same client: without a key a client
            gets a new node id at each start.
        label: what people call a node.
    """

    of: dict[int, int]
    left: Callable[[int, int], bool]
    label: Callable[[int], str]
    _disputed: set[int] = field(default_factory=set)

    def claim(self, node: int, partition: int) -> str:
        """Take a node's word for its partition id; why its reply cannot be used, empty where it can."""
        before = self.of.get(node)
        if before is not None:
            return "" if before == partition else f"it claims partition {partition}, after {before} before"
        holder = next((other for other, held in self.of.items() if held == partition), None)
        if holder is not None and not self.left(holder, node):
            if node not in self._disputed:
                self._disputed.add(node)
                told = "%s claims partition %d, which %s holds"
                log(WARNING, told, self.label(node), partition, self.label(holder))
            return ""
        if holder is not None:
            del self.of[holder]
        self.of[node] = partition
        return ""
