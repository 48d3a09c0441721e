"""What a private checkpoint says of itself, and what must be true before training may go on from it."""

from __future__ import annotations

import json
from collections.abc import Callable

from rapid_dist.errors import PrivacyError
from rapid_dist.privacy.paid import PaidSteps
from rapid_dist.privacy.plan import PrivacyPlan
from rapid_dist.privacy.statement import not_private_reasons
from rapid_dist.training.state import checkpoint_notes


def checkpoint_stamp(plan: PrivacyPlan, job: str, paid: PaidSteps, statement: str = "") -> dict[str, str]:
    """Returns texts for the header: the job, the ledger entry that paid for the last steps, what it may not be called.

    Args:
        plan: What the steps were made by.
        job: The job's name in the ledger.
        paid: The receipt of the last steps.
        statement: The privacy statement in one line, for whoever gets the file alone. Training never reads it back:
            what was spent is the ledger's to say.
    """
    said = json.loads(statement)["not_private_reasons"] if statement else ()
    return {
        "job": job,
        "ledger_entry": paid.entry,
        "attempt": str(paid.attempt),
        "has_secret_noise": str(plan.is_private),
        "not_private": "; ".join(dict.fromkeys((*not_private_reasons(plan), *said))),
        "statement": statement,
    }


def check_stamp(checkpoint: bytes, *, plan: PrivacyPlan, job: str, require_counted: Callable[..., None]) -> None:
    """Refuses a checkpoint whose steps this run's ledger does not count for this job.

    require_counted(digest, job=...): that of Ledger.
    Guarantee: training that resumes from a checkpoint states an epsilon that covers the steps within it.
    Raises PrivacyError for a checkpoint of another job, of a debugging run, or from behind a cut ledger.
    """
    notes = checkpoint_notes(checkpoint)
    if notes["has_secret_noise"] != str(plan.is_private):
        made = f"NOT PRIVATE ({notes['not_private']})" if plan.is_private else "made with a secret key, the run is not"
        raise PrivacyError(f"the checkpoint is {made}; use a new folder")
    require_counted(notes["ledger_entry"], job=job)
