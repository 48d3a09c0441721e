"""As in tests/stages: actors that a file leaves behind are gone before the next one."""

from tests.stages.conftest import no_actors_left_behind  # noqa: F401
