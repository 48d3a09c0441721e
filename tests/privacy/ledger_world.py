"""A simulated store that writers reach one call at a time, and the histories that a choice of turns and faults makes.

The real ledger code runs in threads, but only one at any time: each storage call waits until the history gives it its
turn and its fate. A history is a list of choices, so it can be made again, and all short ones can be made in turn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rapid_dist.errors import InputError, RapidDistError, StorageError

# What may happen to one storage call. All but the first are faults.
OK, REFUSED, LOST_ANSWER, REPEATED, LATE, CRASH_BEFORE, CRASH_AFTER = range(7)
READ_FATES = (OK, REFUSED, CRASH_BEFORE)
CREATE_FATES = (OK, REFUSED, LOST_ANSWER, REPEATED, LATE, CRASH_BEFORE, CRASH_AFTER)


class Crashed(BaseException):
    """The writer's process is gone: nothing of it runs on, not even a handler of Exception."""


class Choices:
    """The decisions of one history: a prefix that is given, then what draw says, all written down."""

    def __init__(self, prefix: Sequence[int], draw: Callable[[int], int] = lambda options: 0):
        self._prefix, self._draw = prefix, draw
        self.made: list[tuple[int, int]] = []  # (choice, number of options)

    def choose(self, options: int) -> int:
        """A number below options."""
        place = len(self.made)
        choice = self._prefix[place] if place < len(self._prefix) else self._draw(options)
        self.made.append((choice, options))
        return choice


def all_histories(run: Callable[[Choices], None]) -> Iterator[Choices]:
    """Runs every history, depth first: the last choice that has an option left takes it, what follows starts anew."""
    prefix: list[int] = []
    while True:
        choices = Choices(prefix)
        run(choices)
        yield choices
        made = list(choices.made)
        while made and made[-1][0] + 1 == made[-1][1]:
            made.pop()
        if not made:
            return
        prefix = [choice for choice, _ in made[:-1]] + [made[-1][0] + 1]


def random_choices(seed: int, *, fault_share: float) -> tuple[Choices, Callable[[], bool]]:
    """A long history: turns uniform, faults as often as fault_share says."""
    rng = np.random.default_rng(seed)
    return Choices((), lambda options: int(rng.integers(options))), lambda: bool(rng.random() < fault_share)


@dataclass
class Writer:
    """One process: its program, the call it waits with, and how it ended."""

    name: str
    program: Callable[[Any], None]
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    call: tuple[str, str, bytes | None] | None = None
    answer: Callable[[], Any] | None = None
    outcome: BaseException | None = None
    is_done: bool = False


class World:
    """Files that several writers share, with create-if-absent, and the clock that lets one call happen at a time."""

    uri = "simulated://ledger"

    def __init__(self, choices: Choices, *, max_faults: int, wants_fault: Callable[[], bool] | None = None):
        self.files: dict[str, bytes] = {}
        self.late: list[tuple[str, bytes]] = []
        self._choices, self._faults_left, self._wants_fault = choices, max_faults, wants_fault
        self._control = threading.Semaphore(0)

    def run(self, programs: dict[str, Callable[[Any], None]]) -> dict[str, BaseException | None]:
        """Lets all programs run to their ends, in one history; what each raised, None when it finished."""
        writers = [Writer(name, program) for name, program in programs.items()]
        for writer in writers:
            threading.Thread(target=self._live, args=(writer,), daemon=True).start()
            self._control.acquire()
        while waiting := [w for w in writers if not w.is_done]:
            pick = self._choices.choose(len(waiting) + len(self.late))
            if pick >= len(waiting):
                name, data = self.late.pop(pick - len(waiting))
                self.files.setdefault(name, data)
                continue
            writer = waiting[pick]
            writer.answer = self._decide(writer.call)
            writer.turn.release()
            self._control.acquire()
        return {w.name: w.outcome for w in writers}

    def _live(self, writer: Writer) -> None:
        try:
            writer.program(SimulatedStore(self, writer))
        except (Crashed, RapidDistError) as error:
            writer.outcome = error
        except BaseException as error:  # a bug: the test looks at it
            writer.outcome = error
        writer.is_done = True
        self._control.release()

    def wait_for_turn(self, writer: Writer, call: tuple[str, str, bytes | None]) -> Any:
        """Called in the writer's thread: says what it wants, sleeps, and then does what the history decided."""
        writer.call = call
        self._control.release()
        writer.turn.acquire()
        return writer.answer()

    def _decide(self, call: tuple[str, str, bytes | None]) -> Callable[[], Any]:
        kind, name, data = call
        fate = self._fate(CREATE_FATES if kind == "create" else READ_FATES)
        if fate == LATE:
            self.late.append((name, data))
        if fate in (REFUSED, LATE):
            return lambda: _raise(StorageError("the store did not answer"))
        if fate == CRASH_BEFORE:
            return lambda: _raise(Crashed())
        result = self._apply(kind, name, data)
        if fate == REPEATED:
            result = self._apply(kind, name, data)
        if fate == LOST_ANSWER:
            return lambda: _raise(StorageError("the answer was lost"))
        if fate == CRASH_AFTER:
            return lambda: _raise(Crashed())
        return result if callable(result) else lambda: result

    def _fate(self, fates: tuple[int, ...]) -> int:
        if self._faults_left == 0 or (self._wants_fault is not None and not self._wants_fault()):
            return OK
        first = 0 if self._wants_fault is None else 1
        fate = fates[first + self._choices.choose(len(fates) - first)]
        self._faults_left -= fate != OK
        return fate

    def _apply(self, kind: str, name: str, data: bytes | None) -> Any:
        if kind == "list":
            return sorted(self.files)
        if kind == "read":
            found = self.files.get(name)
            return found if found is not None else lambda: _raise(InputError(f"{name} does not exist"))
        if name in self.files:
            return False
        self.files[name] = data
        return True


class SimulatedStore:
    """What the ledger asks of a Store, for one writer of a world."""

    def __init__(self, world: World, writer: Writer):
        self._world, self._writer, self.uri = world, writer, world.uri

    def list_files(self, relative: str = "") -> list[str]:
        return self._world.wait_for_turn(self._writer, ("list", relative, None))

    def read_bytes(self, relative: str) -> bytes:
        return self._world.wait_for_turn(self._writer, ("read", relative, None))

    def refuses_to_create_twice(self, relative: str) -> bool:
        return True

    def create_exclusive(self, relative: str, data: bytes) -> bool:
        return self._world.wait_for_turn(self._writer, ("create", relative, data))


class FinalStore:
    """The files as they are, for whoever looks when all is over."""

    def __init__(self, files: dict[str, bytes]):
        self._files, self.uri = dict(files), World.uri

    def list_files(self, relative: str = "") -> list[str]:
        return sorted(self._files)

    def read_bytes(self, relative: str) -> bytes:
        return self._files[relative]

    def refuses_to_create_twice(self, relative: str) -> bool:
        return True

    def create_exclusive(self, relative: str, data: bytes) -> bool:
        if relative in self._files:
            return False
        self._files[relative] = data
        return True


def _raise(error: BaseException) -> Any:
    raise error
