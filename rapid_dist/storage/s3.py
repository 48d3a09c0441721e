"""How S3 is spoken to: timeouts, retries with back-off, parts for large objects, and errors in one line.

A request is retried by botocore (connection lost, no answer in time, 5xx, throttled), each time after a longer pause;
AWS_MAX_ATTEMPTS and AWS_RETRY_MODE override how often and how. What only shows after an answer began, or needs the
whole call again, is retried here.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from rapid_dist.errors import StorageError

Value = TypeVar("Value")

CONNECT_SECONDS = 10
READ_SECONDS = 60  # without a byte
ATTEMPTS = 5  # of one request, with pauses of up to 1, 2, 4, 8 s between them
PAUSES_SECONDS = (0.2, 1.0, 4.0)  # between whole calls
# Objects of two parts and more are written in parts, several at a time; each is sent again by itself.
PART_BYTES = 16 * 2**20

_AGAIN_CODES = {
    "ConditionalRequestConflict",  # two conditional writes at once: neither was refused, one must ask again
    "OperationAborted",
    "NoSuchUpload",  # parts were put together, but the answer was lost and the request came again
    "XAmzContentSHA256Mismatch",
}
_BROKEN_ANSWERS = {"ClientPayloadError", "IncompleteRead", "IncompleteReadError", "ResponseStreamingError"}
_DENIED_CODES = {"403", "AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "InvalidToken"}
_DENIED_CODES |= {"SignatureDoesNotMatch", "Forbidden", "AccountProblem", "401", "Unauthorized"}
_EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestTimeTooSkewed"}
_FULL_CODES = {"QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "507"}
_SLOW_CODES = {"SlowDown", "SlowDownRead", "SlowDownWrite", "Throttling", "ThrottlingException", "RequestTimeout"}
_SLOW_CODES |= {"503", "ServiceUnavailable", "504", "429", "TooManyRequests", "RequestLimitExceeded"}
_TIMEOUTS = {"ReadTimeoutError", "ConnectTimeoutError", "FSTimeoutError", "TimeoutError", "ServerTimeoutError"}
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"}


def open_s3() -> Any:
    """The s3fs file system of the endpoint and credentials in the environment."""
    import fsspec

    retries: dict[str, Any] = {}
    if not os.environ.get("AWS_RETRY_MODE"):
        retries["mode"] = "standard"
    if not os.environ.get("AWS_MAX_ATTEMPTS"):
        retries["total_max_attempts"] = ATTEMPTS
    config: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
    if retries:
        config["retries"] = retries
    # Named here so that it is part of fsspec's cache key: another endpoint is another file system.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    fs = fsspec.filesystem("s3", use_listings_cache=False, endpoint_url=endpoint, config_kwargs=config)
    fs.retries = 2  # s3fs tries again by itself, around botocore's tries: only for a streamed answer that breaks off
    return fs


def retried(fn: Callable[[], Value]) -> Value:
    """fn(), called again after a pause while it fails in a way that may pass; fn must be safe to repeat."""
    for pause in PAUSES_SECONDS:
        try:
            return fn()
        except Exception as error:
            if not _may_pass(error):
                raise
        time.sleep(pause)
    return fn()


def is_refused_creation(error: BaseException) -> bool:
    """Whether a conditional write was refused because the object exists, however the service words it."""
    return _code(error) in ("PreconditionFailed", "412")


def explained(uri: str, error: BaseException) -> StorageError:
    """The one line for what a service answered or did not answer; it holds no part of the answer but its code."""
    code, name = _code(error), _names(error)
    if name & _NO_CREDENTIALS:
        return StorageError(
            f"{uri} refused: no AWS credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "a profile or a role"
        )
    if code in _EXPIRED_CODES:
        return StorageError(f"{uri} refused: credentials are no longer valid ({code}); renew them, check the clock")
    if code in _DENIED_CODES or isinstance(error, PermissionError):
        return StorageError(
            f"{uri} refused: access denied ({code or name_of(error)}); the credentials need to read, write, list and "
            "delete under this prefix"
        )
    if code in _FULL_CODES or getattr(error, "errno", None) == errno.ENOSPC:
        return StorageError(f"no space left at {uri} ({code}); free some space and run the same line again")
    if code in _SLOW_CODES or name & _TIMEOUTS:
        return StorageError(
            f"{uri} is too slow ({code or name_of(error)}) and several tries did not help; run the same line again "
            "to go on, or raise AWS_MAX_ATTEMPTS"
        )
    if code:
        return StorageError(f"{uri} refused: {code}; check the bucket, AWS credentials and AWS_ENDPOINT_URL")
    return StorageError(
        f"{uri} refused: {name_of(error)}; check that the service runs, AWS_ENDPOINT_URL, bucket and credentials"
    )


def is_about_s3(error: BaseException) -> bool:
    """Whether an error that is no OSError came from the service or the way to it, and is no bug."""
    modules = {type(e).__module__.split(".")[0] for e in _chain(error)}
    return bool(modules & {"aiobotocore", "aiohttp", "botocore", "fsspec", "urllib3"})


def name_of(error: BaseException) -> str:
    """The class name of an error, and no text of it."""
    return type(error).__name__


def _may_pass(error: BaseException) -> bool:
    return _code(error) in _AGAIN_CODES or bool(_names(error) & _BROKEN_ANSWERS)


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what it was raised from: s3fs puts its own error over the service's."""
    cause = error.__cause__
    return [error] if cause is None else [error, cause]


def _names(error: BaseException) -> set[str]:
    return {name_of(e) for e in _chain(error)}


def _code(error: BaseException) -> str:
    """The service's code, where it answered with one made of letters and digits."""
    for e in _chain(error):
        answer = getattr(e, "response", None)
        code = str(answer.get("Error", {}).get("Code", "")) if isinstance(answer, dict) else ""
        if re.fullmatch(r"[A-Za-z0-9]{1,40}", code):
            return code
    return ""
