"""A knowledge-base search whose calls are counted and timed: for queries that no private record made."""

from __future__ import annotations

from typing import Any

from rapid_dist.metrics import catalog
from rapid_dist.metrics.recorder import Recorder


class MeasuredSearch:
    """Answers as the search inside does. source: who asks, as a label.

    Guarantee: made only around searches whose queries come from public data or from released models; how many
    queries private training makes, and how long they take, is a function of its private batches.
    """

    def __init__(self, search: Any, recorder: Recorder, source: str):
        self._search, self._recorder, self._source = search, recorder, source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._search, name)

    def __len__(self) -> int:
        return len(self._search)

    def query(self, queries: Any, **arguments: Any) -> Any:
        """As KnowledgeBaseSearch.query."""
        return self._measured(self._search.query, queries, arguments)

    def query_within(self, queries: Any, **arguments: Any) -> Any:
        """As KnowledgeBaseSearch.query_within."""
        return self._measured(self._search.query_within, queries, arguments)

    def _measured(self, call: Any, queries: Any, arguments: dict[str, Any]) -> Any:
        with self._recorder.timed(catalog.QUERY_SECONDS, source=self._source):
            found = call(queries, **arguments)
        self._recorder.add(catalog.QUERIES, len(queries), source=self._source)
        return found
