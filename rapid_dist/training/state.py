"""What a private checkpoint says of itself, and what must be true before training may go on from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from rapid_dist.errors import ArtifactError, PrivacyError
from rapid_dist.privacy.ledger import PaidSteps
from rapid_dist.privacy.plan import PrivacyPlan
from rapid_dist.privacy.statement import not_private_reasons
from rapid_dist.storage.store import Store


class TrainState:
    """A model under training with Adam (Kingma and Ba 2015) and an exponential moving average of its weights."""

    def __init__(self, model: torch.nn.Module, *, learning_rate: float, ema_decay: float, adam_epsilon: float = 1e-8):
        self.model = model
        self.optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, eps=adam_epsilon)
        self.learning_rate, self.ema_decay = learning_rate, ema_decay
        self.average = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.step = 0

    def set_gradients(self, flat: torch.Tensor) -> None:
        """Puts a flat gradient on the parameters, in their order and dtype. flat: (number of parameters,)."""
        start = 0
        for p in self.model.parameters():
            p.grad = flat[start : start + p.numel()].reshape(p.shape).to(p.dtype)
            start += p.numel()

    def apply(self, *, learning_rate_factor: float = 1.0) -> None:
        """One optimiser step from the gradients on the parameters, then the average, then the step count.

        The average's decay warms up as min(ema_decay, (1 + step) / (10 + step)), so that a short run does not
        keep its starting weights.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * learning_rate_factor
        self.optimizer.step()
        decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                self.average[name].lerp_(parameter, 1 - decay)
        self.step += 1

    def averaged_weights(self) -> dict[str, torch.Tensor]:
        """The averaged parameters beside the model's buffers, as a state dict on the CPU."""
        state = {name: t.detach().cpu().contiguous() for name, t in self.model.state_dict().items()}
        state.update({name: t.cpu().contiguous() for name, t in self.average.items()})
        return state

    def to_bytes(self, notes: Mapping[str, str] | None = None) -> bytes:
        """The state as one safetensors file. notes: short texts that travel in its header."""
        tensors = {f"model.{n}": t.detach().cpu().contiguous() for n, t in self.model.state_dict().items()}
        tensors |= {f"average.{n}": t.cpu().contiguous() for n, t in self.average.items()}
        for name, parameter in self.model.named_parameters():
            for moment, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"adam.{moment}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
        return save_tensors(tensors, metadata={**(notes or {}), "step": str(self.step)})

    def load_bytes(self, data: bytes) -> None:
        """Restores what to_bytes saved. Raises ArtifactError when the tensors are of another model."""
        tensors = load_tensors(data)
        self.step = int(checkpoint_notes(data)["step"])
        device = next(self.model.parameters()).device
        try:
            self.model.load_state_dict({n: tensors[f"model.{n}"] for n in self.model.state_dict()})
            self.average = {n: tensors[f"average.{n}"].to(device) for n in self.average}
        except (KeyError, RuntimeError):
            raise ArtifactError("a checkpoint holds another model than the spec describes; use a new folder") from None
        self.optimizer.state.clear()
        for name, parameter in self.model.named_parameters():
            moments = {}
            for moment in ("step", "exp_avg", "exp_avg_sq"):
                value = tensors.get(f"adam.{moment}.{name}")
                if value is not None:
                    moments[moment] = value if moment == "step" else value.to(device)
            if moments:
                self.optimizer.state[parameter] = moments


def checkpoint_notes(data: bytes) -> dict[str, str]:
    """The texts in the header of a checkpoint, its step among them."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(header["__metadata__"])


class CheckpointFolder:
    """Checkpoints of one training phase in a folder: step-NNNNNNNN.safetensors, then a digest in a .json beside it."""

    def __init__(self, store: Store, *, keep: int = 2):
        self.store, self.keep = store, keep

    def save(self, state: TrainState, notes: Mapping[str, str] | None = None) -> None:
        """Writes the state whole, with the notes in its header, and deletes all but the newest `keep`."""
        data, name = state.to_bytes(notes), f"step-{state.step:08d}"
        self.store.write_bytes(f"{name}.safetensors", data)
        sidecar = {"step": state.step, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        self.store.write_bytes(f"{name}.json", json.dumps(sidecar).encode())
        for old in self._names()[: -self.keep]:
            self.store.delete(f"{old}.json")
            self.store.delete(f"{old}.safetensors")

    def latest(self) -> bytes | None:
        """The newest whole checkpoint, or None. Raises ArtifactError when it does not match its digest."""
        names = self._names()
        if not names:
            return None
        sidecar = json.loads(self.store.read_bytes(f"{names[-1]}.json"))
        data = self.store.read_bytes(f"{names[-1]}.safetensors")
        if hashlib.sha256(data).hexdigest() != sidecar["sha256"]:
            raise ArtifactError(
                f"{self.store.uri}/{names[-1]}.safetensors does not match its digest; delete it and its .json "
                "to go on from the checkpoint before it"
            )
        return data

    def _names(self) -> list[str]:
        files = self.store.list_files()
        return [f.removesuffix(".json") for f in files if f.startswith("step-") and f.endswith(".json")]


def release_stamp(plan: PrivacyPlan, job: str, statement: str = "") -> dict[str, str]:
    """Returns texts for the header of what was made from a job's releases: the job, and what it may not be called.

    Args:
        plan: What the releases were made by.
        job: The job's name in the ledger.
        statement: The privacy statement in one line, for whoever gets the file alone. Training never reads it back:
            what was spent is the ledger's to say.
    """
    said = json.loads(statement)["not_private_reasons"] if statement else ()
    return {
        "job": job,
        "has_secret_noise": str(plan.is_private),
        "not_private": "; ".join(dict.fromkeys((*not_private_reasons(plan), *said))),
        "statement": statement,
    }


def checkpoint_stamp(plan: PrivacyPlan, job: str, paid: PaidSteps, statement: str = "") -> dict[str, str]:
    """Returns release_stamp and, with it, the ledger entry that paid for the last steps.

    Args:
        plan: What the steps were made by.
        job: The job's name in the ledger.
        paid: The receipt of the last steps.
        statement: As release_stamp takes it.
    """
    return {**release_stamp(plan, job, statement), "ledger_entry": paid.entry, "attempt": str(paid.attempt)}


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
