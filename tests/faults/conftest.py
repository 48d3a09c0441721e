"""The S3 endpoint that the faults of the ledger's store need."""

from tests.s3.conftest import s3, s3_server  # noqa: F401
