"""Where things lie inside a run's folder."""

from __future__ import annotations

SPEC = "spec.yaml"
PUBLIC_IMAGES = "images/public"
PRIVATE_IMAGES = "images/private"
TEST_IMAGES = "images/test"
PRETRAIN = "pretrain"
KNOWLEDGE_BASE = "knowledge_base"
LEDGER = "ledger"
TRAIN = "train"
SAMPLES = "samples/private"
PUBLIC_SAMPLES = "samples/public_only"
EVALUATION = "evaluation"
FOLDERS = (
    PUBLIC_IMAGES,
    PRIVATE_IMAGES,
    TEST_IMAGES,
    PRETRAIN,
    KNOWLEDGE_BASE,
    LEDGER,
    TRAIN,
    SAMPLES,
    PUBLIC_SAMPLES,
    EVALUATION,
)
