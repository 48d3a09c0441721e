"""What the store does when S3 loses, delays or refuses requests: it tries again, or says why in one line."""

from __future__ import annotations

import itertools
import threading

import pytest

from rapid_dist.errors import PrivacyError, StorageError
from rapid_dist.ingest.units import open_file
from rapid_dist.privacy.charges import Charge
from rapid_dist.privacy.ledger import has_ledger, join_ledger, open_ledger, read_ledger
from rapid_dist.storage import s3 as speech
from rapid_dist.storage.store import Store
from tests.s3.proxy import HALF_ANSWER, LOSE_ANSWER, LOSE_REQUEST, SILENCE, FaultyEndpoint

SECRETS = ("test-access", "test-secret-never-shown")
BUSY, BROKEN = (503, "SlowDown"), (500, "InternalError")


@pytest.fixture(scope="module")
def proxy(s3_server):
    endpoint = FaultyEndpoint(s3_server)
    yield endpoint
    endpoint.close()


@pytest.fixture
def faulty(s3, proxy, monkeypatch):
    """The proxy in front of the endpoint, without faults; pauses between tries are cut to next to nothing."""
    proxy.faults.clear()
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.01)
    monkeypatch.setattr(speech, "PAUSES_SECONDS", (0.01, 0.01, 0.01))
    return proxy


_folders = itertools.count()


@pytest.fixture
def store(faulty, s3):
    """A folder of its own, with the file `kept` in it."""
    store = Store(f"{s3}/faulty-{next(_folders)}")
    store.write_bytes("kept", b"kept bytes")
    faulty.seen.clear()
    return store


@pytest.mark.parametrize("fault", [LOSE_REQUEST, LOSE_ANSWER, BUSY, BROKEN])
def test_what_fails_twice_is_sent_a_third_time_and_the_caller_sees_nothing(store, faulty, fault):
    faulty.fail("PUT", "/new", fault, fault)
    store.write_bytes("new", b"new bytes")
    assert faulty.count("PUT", "/new") == 3
    faulty.fail("GET", "/new", fault, fault)
    assert store.read_bytes("new") == b"new bytes"
    faulty.fail("HEAD", "/new", LOSE_REQUEST, fault)
    assert store.exists("new")
    assert faulty.faults == []


def test_an_answer_that_breaks_off_is_fetched_again_whole(store, faulty):
    faulty.fail("GET", "/kept", HALF_ANSWER, HALF_ANSWER)
    assert store.read_bytes("kept") == b"kept bytes"
    faulty.fail("GET", "/kept", HALF_ANSWER)
    with open_file(f"{store.uri}/kept") as file:
        assert file.read() == b"kept bytes"
    assert faulty.faults == []


def test_a_create_whose_answer_was_lost_may_say_exists_and_the_bytes_tell_whose_it_is(store, faulty):
    faulty.fail("PUT", "/entry", LOSE_ANSWER)
    assert not store.create_exclusive("entry", b"mine")
    assert faulty.count("PUT", "/entry") == 2
    assert store.read_bytes("entry") == b"mine"
    faulty.fail("PUT", "/entry", LOSE_REQUEST)
    assert not store.create_exclusive("entry", b"another writer's")
    assert store.read_bytes("entry") == b"mine"
    faulty.fail("PUT", "/second", LOSE_REQUEST)
    assert store.create_exclusive("second", b"lost before it arrived, then made")


@pytest.mark.parametrize("answer", [(409, "ConditionalRequestConflict"), (409, "OperationAborted")])
def test_two_creates_at_once_that_the_service_sends_away_are_asked_again(store, faulty, answer):
    faulty.fail("PUT", "/entry", answer, answer)
    assert store.create_exclusive("entry", b"mine")
    assert faulty.count("PUT", "/entry") == 3


def test_a_refused_create_in_other_words_is_still_refused(store, faulty):
    faulty.fail("PUT", "/kept", (412, "PreconditionFailed"))
    assert not store.create_exclusive("kept", b"x")


@pytest.mark.parametrize("fault", [LOSE_ANSWER, LOSE_REQUEST, BROKEN])
def test_a_ledger_entry_is_written_once_whatever_was_lost(faulty, s3, fault):
    charge = Charge(
        mechanism="poisson_gaussian", noise_multiplier=2.0, sample_rate=0.1, num_steps=10, purpose="training"
    )
    store = Store(f"{s3}/ledger-{next(_folders)}")
    ledger = open_ledger(store, target_epsilon=10.0, target_delta=1e-5)
    faulty.fail("PUT", "/000001.json", fault)
    attempt = ledger.begin_attempt({})
    faulty.fail("PUT", "/000002.json", fault, fault)
    ledger.charge(charge, attempt=attempt, first_step=0)
    assert faulty.faults == []
    again = read_ledger(store)
    assert len(again.attempts) == 1
    assert again.spent_steps == 10


PROBE = "/.create-if-absent"


def test_a_service_that_ignores_create_if_absent_gets_no_ledger(faulty, s3):
    """Two writers at once would both hold a receipt for the same entry, and one charge would be lost."""
    store = Store(f"{s3}/unconditional-{next(_folders)}")
    faulty.ignores_conditions = True
    try:
        for make in (open_ledger, join_ledger):
            with pytest.raises(
                PrivacyError, match=r"ignores create-if-absent .*; keep the dataset on a service"
            ) as caught:
                make(store, target_epsilon=10.0, target_delta=1e-5)
            assert "\n" not in str(caught.value)
    finally:
        faulty.ignores_conditions = False
    assert store.list_files() == [".create-if-absent"]
    assert not has_ledger(store)


def test_a_service_that_honours_create_if_absent_is_asked_once_a_time(faulty, s3):
    store = Store(f"{s3}/conditional-{next(_folders)}")
    faulty.seen.clear()
    for asked in (2, 3, 4):
        ledger = join_ledger(store, target_epsilon=10.0, target_delta=1e-5)
        assert faulty.count("PUT", PROBE) == asked
    assert ledger.begin_attempt({}) == 1
    read_ledger(store)
    assert faulty.count("PUT", PROBE) == 4
    assert store.list_files() == [".create-if-absent", "000000.json", "000001.json"]


@pytest.mark.parametrize("fault", [LOSE_ANSWER, LOSE_REQUEST, BROKEN])
def test_a_bad_line_is_not_taken_for_a_service_that_ignores_the_condition(faulty, s3, fault):
    store = Store(f"{s3}/bad-line-{next(_folders)}")
    faulty.fail("PUT", PROBE, fault, fault)
    assert join_ledger(store, target_epsilon=10.0, target_delta=1e-5).is_empty is False
    assert faulty.faults == []


def test_a_large_object_goes_in_parts_each_sent_again_by_itself(store, faulty, monkeypatch):
    monkeypatch.setattr(speech, "PART_BYTES", 5 * 2**20)
    data = bytes(range(256)) * (12 * 2**20 // 256)
    faulty.fail("PUT", "partNumber=2", LOSE_ANSWER, BUSY)
    store.write_bytes("large", data)
    assert faulty.count("PUT", "partNumber=1") == 1
    assert faulty.count("PUT", "partNumber=2") == 3
    assert store.read_bytes("large") == data


@pytest.mark.parametrize("creates", [True, False])
def test_parts_put_together_whose_answer_was_lost_are_not_taken_for_an_absent_bucket(
    store, faulty, monkeypatch, creates
):
    monkeypatch.setattr(speech, "PART_BYTES", 5 * 2**20)
    data = b"0123456789abcdef" * (10 * 2**20 // 16)
    faulty.fail("POST", "uploadId=", (404, "NoSuchUpload"))
    if creates:
        assert store.create_exclusive("large", data)
    else:
        store.write_bytes("large", data)
    assert store.read_bytes("large") == data


def test_an_upload_that_fails_for_good_leaves_the_old_object_and_no_parts(store, faulty, monkeypatch, s3_server):
    import boto3

    monkeypatch.setattr(speech, "PART_BYTES", 5 * 2**20)
    faulty.fail("PUT", "partNumber=2", (507, "InsufficientStorage"), *[(507, "InsufficientStorage")] * 9)
    with pytest.raises(StorageError, match="no space left"):
        store.write_bytes("kept", b"x" * (10 * 2**20))
    faulty.faults.clear()
    assert store.read_bytes("kept") == b"kept bytes"
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1")
    assert not client.list_multipart_uploads(Bucket="bucket").get("Uploads")
    client.close()


FOREVER = 40


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ((403, "AccessDenied"), "refused: access denied (AccessDenied); the credentials need to read, write, list"),
        ((403, "InvalidAccessKeyId"), "refused: access denied (InvalidAccessKeyId)"),
        ((403, "SignatureDoesNotMatch"), "refused: access denied (SignatureDoesNotMatch)"),
        ((400, "ExpiredToken"), "refused: credentials are no longer valid (ExpiredToken); renew them"),
        ((404, "NoSuchBucket"), "refused: its bucket does not exist; create the bucket first"),
        ((507, "InsufficientStorage"), "(InsufficientStorage); free some space and run the same line again"),
        ((403, "QuotaExceeded"), "(QuotaExceeded); free some space and run the same line again"),
        (BUSY, "is too slow (SlowDown) and several tries did not help"),
        (BROKEN, "refused: InternalError; check the bucket"),
        (LOSE_REQUEST, "refused: "),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else None,
)
def test_what_does_not_pass_is_one_line_that_says_why_and_holds_no_secret(store, faulty, answer, line):
    for write in (store.write_bytes, store.create_exclusive):
        faulty.faults.clear()
        faulty.fail("PUT", "/new", *[answer] * FOREVER)
        with pytest.raises(StorageError) as caught:
            write("new", b"x")
        text = str(caught.value)
        assert line in text
        assert text.startswith((store.uri, f"no space left at {store.uri}"))
        assert "\n" not in text
        assert not any(secret in text for secret in SECRETS)
    faulty.faults.clear()
    assert store.list_files() == ["kept"]


def test_reads_that_are_denied_say_so_and_do_not_pass_for_absent(store, faulty):
    for call in (store.read_bytes, store.exists, store.size, store.list_files, store.delete):
        faulty.faults.clear()
        for method in ("GET", "HEAD", "DELETE", "POST"):
            faulty.fail(method, "", *[(403, "AccessDenied")] * FOREVER)
        with pytest.raises(StorageError, match="access denied"):
            call("kept")


def test_a_service_that_says_nothing_is_given_up_and_called_slow(s3, s3_server, monkeypatch):
    monkeypatch.setattr(speech, "READ_SECONDS", 0.2)
    monkeypatch.setattr(speech, "PAUSES_SECONDS", ())
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    endpoint = FaultyEndpoint(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint.url)
    try:
        endpoint.fail("PUT", "/new", SILENCE)
        Store(f"{s3}/silent").write_bytes("new", b"x")  # once is no harm
        endpoint.fail("PUT", "/new", *[SILENCE] * FOREVER)
        with pytest.raises(StorageError, match=r"too slow \(ReadTimeoutError\).*raise AWS_MAX_ATTEMPTS"):
            Store(f"{s3}/silent").write_bytes("new", b"x")
    finally:
        endpoint.close()


def test_without_credentials_the_line_says_which_are_missing(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setattr(speech, "CONNECT_SECONDS", 9)  # a file system of its own, not one that has credentials
    with pytest.raises(StorageError, match="no AWS credentials found; set AWS_ACCESS_KEY_ID"):
        Store(f"{s3}/nobody").write_bytes("x", b"1")


def test_of_many_writers_over_a_bad_line_no_two_believe_they_made_it(store, faulty):
    faulty.fail("PUT", "/race", *[LOSE_ANSWER, BUSY, LOSE_REQUEST] * 4)
    answers = {}

    def create(i: int) -> None:
        answers[i] = Store(store.uri).create_exclusive("race", f"writer {i}".encode())

    threads = [threading.Thread(target=create, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winner = store.read_bytes("race")
    made = [i for i, was_made in answers.items() if was_made]
    assert len(answers) == 6
    assert made in ([], [int(winner.split()[1])])
