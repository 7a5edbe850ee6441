"""The Lua scripts that tell of many: the census, the list of nodes, who consumes a queue."""

from restmq.broker.keys import CENSUS, LIVE_NODES, queue_keys
from restmq.broker.scripts import Argument, Call, Script, load_script


class CensusScripts:
    """The scripts of the census and of the lists of nodes, bound to the name of one node."""

    def __init__(self, node: str) -> None:
        self.clock_seconds: float | None = None
        """Set by tests: the time that scripts believe in, instead of Redis's own clock."""
        self._node = node
        self._state = load_script("census_state")
        self._nodes = load_script("census_nodes")
        self._presence = load_script("census_presence")

    def all(self) -> list[Script]:
        """Return every script, for loading them into Redis."""
        return [self._state, self._nodes, self._presence]

    def look(self) -> Call:
        """Read the latest result, and note that somebody asks."""
        return self._on_census("look")

    def claim(self, seconds: float) -> Call:
        """Take the walk upon this node for so long, unless another node has it."""
        return self._on_census("claim", seconds)

    def store(self, result: bytes) -> Call:
        """Make a result known to all, unless the walk is another node's by now."""
        return self._on_census("store", result)

    def leave(self) -> Call:
        """Let another node take the walk."""
        return self._on_census("leave")

    def tell_node(self, lifetime_seconds: float, told: bytes) -> Call:
        """Say that this node lives for so long, and what it tells of itself."""
        return self._on_nodes("call", self._node, lifetime_seconds, told)

    def forget_node(self) -> Call:
        """Say that this node is gone."""
        return self._on_nodes("leave", self._node)

    def list_nodes(self) -> Call:
        """Read what the live nodes tell."""
        return self._on_nodes("list")

    def presence(self, queue: str) -> Call:
        """Read which nodes have consumers of a queue, and the time by which to judge that."""
        keys = queue_keys(queue, "")
        return Call(self._presence, (2, keys.nodes, keys.listeners, self._clock))

    def _on_census(self, *own: Argument) -> Call:
        return Call(self._state, (1, CENSUS, self._clock, self._node, *own))

    def _on_nodes(self, *own: Argument) -> Call:
        return Call(self._nodes, (1, LIVE_NODES, self._clock, *own))

    @property
    def _clock(self) -> str:
        return "" if self.clock_seconds is None else repr(self.clock_seconds)
