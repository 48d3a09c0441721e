"""Study specs for tests, in a few lines."""

from __future__ import annotations

from rapid_dist.specs.study import StudySpec, parse_study

TEXT = """
name: letters
data: {private: p, public: q, num_classes: 4}
privacy: {target_epsilon: 4, target_delta: 1e-4, sample_rate: 0.1, nominal_size: 1000, spare_steps: 2}
schedule: {num_train_timesteps: 100, split_step: 60, query_step: 75}
training: {steps: 20, checkpoint_every: 5}
tune: {space: {training.learning_rate: {log: [1e-4, 1e-2]}}, num_trials: 3}
"""


def make_study(*overrides: str) -> StudySpec:
    """A study of 1000 nominal records, 20 steps and 2 spare ones, with some settings replaced."""
    return parse_study(TEXT, overrides=overrides)
