"""The knowledge base of public trajectories: built, changed, searched and looked into.

>>> from rapid_dist import knowledge_base
>>> base = knowledge_base.open(folder)          # of a run, or of the base itself
>>> found = base.query(features, num_neighbors=3)
>>> found.ids.shape, found.distances.shape, found.labels.shape
((2, 3), (2, 3), (2, 3))
>>> found.values.shape                          # of each neighbour: its latent where the private model takes over
(2, 3, 1, 8, 8)

`open` and its answers are imported when they are first used.
"""

from typing import TYPE_CHECKING

from rapid_dist.lazy import lazy_names

if TYPE_CHECKING:
    from rapid_dist.knowledge_base.library import KnowledgeBase as KnowledgeBase
    from rapid_dist.knowledge_base.library import QueryResult as QueryResult
    from rapid_dist.knowledge_base.library import open_base as open
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "KnowledgeBase": "rapid_dist.knowledge_base.library:KnowledgeBase",
            "QueryResult": "rapid_dist.knowledge_base.library:QueryResult",
            "open": "rapid_dist.knowledge_base.library:open_base",
        },
    )

__all__ = ["KnowledgeBase", "QueryResult", "open"]
