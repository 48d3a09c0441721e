"""What one job, or all jobs of one study, did to a dataset, read off the dataset's ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rapid_dist.privacy.charges import AnyCharge

if TYPE_CHECKING:
    from rapid_dist.privacy.ledger_book import Ledger


class JobLedger:
    """The attempts and charges of one job, what it inherited included, read off the ledger of its dataset."""

    def __init__(self, ledger: Ledger, job: str):
        self._ledger, self.job = ledger, job

    @property
    def head(self) -> str:
        """Digest of the last entry of the whole ledger."""
        return self._ledger.head

    @property
    def charges(self) -> tuple[AnyCharge, ...]:
        """The job's charges, of all its attempts."""
        return self._ledger.charges_of(self.job)

    @property
    def attempts(self) -> tuple[dict[str, Any], ...]:
        """The plans of the job's attempts."""
        return self._ledger.attempts_of(self.job)

    def refresh(self) -> None:
        """Reads what was added since."""
        self._ledger.refresh()


class StudyLedger:
    """The attempts and charges of all jobs of one study, as JobLedger has those of one job."""

    def __init__(self, ledger: Ledger, study: str):
        self._ledger, self.study = ledger, study

    @property
    def head(self) -> str:
        """Digest of the last entry of the whole ledger."""
        return self._ledger.head

    @property
    def charges(self) -> tuple[AnyCharge, ...]:
        """The study's charges, of all attempts of all its jobs, each once."""
        return self._ledger.charges_of_study(self.study)

    @property
    def attempts(self) -> tuple[dict[str, Any], ...]:
        """The plans of the study's attempts."""
        return self._ledger.attempts_of_study(self.study)

    def refresh(self) -> None:
        """Reads what was added since."""
        self._ledger.refresh()
