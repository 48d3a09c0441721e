"""Where things lie inside a run's folder."""

from __future__ import annotations

SPEC = "spec.yaml"
PUBLIC_IMAGES = "images/public"
PRIVATE_IMAGES = "images/private"
TEST_IMAGES = "images/test"
PRETRAIN = "pretrain"
KNOWLEDGE_BASE = "knowledge_base"
LEDGER = "ledger"  # inside the folder of the private dataset: a budget belongs to a dataset, not to a run
TRAIN = "train"
SAMPLES = "samples/private"
PUBLIC_SAMPLES = "samples/public_only"
EVALUATION = "evaluation"
OWNER_LOG = "private/seconds.json"  # how long stages took; of class private, so it lies beside them and not in them
FOLDERS = (
    PUBLIC_IMAGES,
    PRIVATE_IMAGES,
    TEST_IMAGES,
    PRETRAIN,
    KNOWLEDGE_BASE,
    TRAIN,
    SAMPLES,
    PUBLIC_SAMPLES,
    EVALUATION,
)
