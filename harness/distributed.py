"""Evaluation over several processes: the rank of each, and the messages between them.

Guarantees that a single process imports nothing for it and waits for no other; that an error in one process ends all of
them, with one sentence reported once; and that a process that is gone ends the others instead of leaving them waiting.
They communicate over gloo on the CPU, also where the models run on GPUs, and only between stretches of work.

Usually each process answers a share. Where every layer of a model is split over all of them they go in step: each is
asked everything, and the first one's answers are kept.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from harness.errors import RunError, UserError

if TYPE_CHECKING:
    from harness.inference.batching import Turns

T = TypeVar("T")


_MEETING, _PATIENCE = timedelta(minutes=10), timedelta(days=30)

_STOPPED = "harness/stopped"


class Stopped(Exception):
    """Another process has met an error; ends this one's stretch of work, see `Ranks.together`."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run.

    Attributes:
        rank: number over all nodes, from 0; the first owns the run's folder and speaks.
        world: how many there are.
        local_rank: number on this node, which is that of its GPU.
        in_step: whether all of them compute every answer together.
        group: of `torch.distributed`; None for a single process.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    in_step: bool = False
    group: Any = field(default=None, repr=False, compare=False)

    @property
    def first(self) -> bool:
        """Whether this process writes the record and speaks."""
        return self.rank == 0

    @property
    def keeps(self) -> bool:
        """Whether this process's answers count."""
        return self.first or not self.in_step

    def share(self, pieces: int) -> int:
        """About how many of so many pieces are this process's."""
        return pieces if self.in_step else -(-pieces // self.world)

    def stepping(self, in_step: bool) -> Ranks:
        """The same processes, all of which compute every answer together, or not."""
        return replace(self, in_step=in_step and self.world > 1)

    def turns(self) -> Turns:
        """A new deal, starting with the first process; in step every piece is everybody's."""
        from harness.inference.batching import Turns

        return Turns() if self.in_step else Turns(self.rank, self.world)

    def device(self, asked: str) -> str:
        """The device for ``auto`` or ``cuda``: each process of a node takes a GPU of its own while there are enough."""
        if self.world == 1 or asked not in ("auto", "cuda"):
            return asked
        import torch

        if not torch.cuda.is_available():
            return asked
        number = self.local_rank % torch.cuda.device_count()
        torch.cuda.set_device(number)
        return f"cuda:{number}"

    def gather(self, value: T) -> list[T]:
        """Brings every process's value to the first one, in order of rank; the others get an empty list.

        Raises:
            RunError: a process is gone.
        """
        if self.world == 1:
            return [value]
        from torch import distributed

        found: list[Any] | None = [None] * self.world if self.first else None
        with _gone():
            distributed.gather_object(value, found, dst=0, group=self.group)
        return found or []

    def everywhere(self, value: T) -> list[T]:
        """Every process's value on every process, in order of rank.

        Raises:
            RunError: a process is gone.
        """
        if self.world == 1:
            return [value]
        from torch import distributed

        found: list[Any] = [None] * self.world
        with _gone():
            distributed.all_gather_object(found, value, group=self.group)
        return found

    def together(self, work: Callable[[], T]) -> T:
        """Does a stretch of work on every process and waits for all of them.

        An error of one is raised by all: as soon as they have done what they are at where they call `check`, otherwise
        at the end of the stretch.

        Raises:
            UserError: what some process found wrong.
            RunError: why some process cannot go on, or that it is gone.
        """
        if self.world == 1:
            return work()
        error: UserError | RunError | None = None
        try:
            result = work()
        except (UserError, RunError) as own:
            error = own
            self._announce()
        except Stopped:
            pass
        own_error = None if error is None else (type(error), str(error))
        for rank, told in enumerate(self.everywhere(own_error)):
            if told is not None:
                kind, text = told
                raised = kind(text if rank == 0 else f"Rank {rank} of {self.world}: {text}")
                raised.silent = not self.first
                raise raised
        return result

    def check(self) -> None:
        """Ends this process's stretch of work where another has met an error.

        Raises:
            Stopped: one has.
            RunError: the process or launcher that keeps the others together is gone.
        """
        if self.world > 1 and not self.in_step:  # in step all meet an error at the same place, or wait for each other
            with _gone():
                stopped = _store().check([_STOPPED])
            if stopped:
                raise Stopped

    def dealt(self, names: Sequence[str], work: Callable[[str], T]) -> dict[str, T]:
        """Does `work` for every name, each on one process, and tells the results to all; in step all do all.

        Raises:
            UserError: see `together`.
            RunError: see `together`.
        """
        share = names if self.in_step else names[self.rank :: self.world]
        own = self.together(lambda: {name: work(name) for name in share})
        if self.in_step:
            return own
        found = {name: value for part in self.everywhere(own) for name, value in part.items()}
        return {name: found[name] for name in names}

    def _announce(self) -> None:
        with _gone():
            _store().set(_STOPPED, str(self.rank))


def join(splits: Callable[[], bool] = lambda: False) -> Ranks:
    """Meets the other processes where the environment says that there are any.

    Args:
        splits: says whether models are split over the processes, which then exchange tensors as well; may raise.

    Raises:
        UserError: the environment speaks of several processes that cannot find each other.
    """
    said = os.environ.get("WORLD_SIZE", "1")
    if said.strip() in ("", "0", "1"):
        return Ranks()
    from accelerate import PartialState
    from torch import cuda, distributed

    import_module("torch.distributed.nn")  # later, the default arguments of its functions would keep our group alive
    tensors = False
    with suppress(UserError):  # is told by `together`, to which the others have to be there
        tensors = splits()
    try:
        if tensors and cuda.is_available():
            distributed.init_process_group("cpu:gloo,cuda:nccl", timeout=_MEETING)
        state = PartialState(cpu=True, backend="gloo", timeout=_MEETING)
        # Once everybody is there, one process may compute for days before it meets the others again.
        group = distributed.new_group(timeout=_PATIENCE, backend="gloo")
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"WORLD_SIZE is {said!r}, but the processes do not find each other "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); start all of them with torchrun or "
            "accelerate launch, or unset WORLD_SIZE."
        ) from error
    return Ranks(state.process_index, state.num_processes, state.local_process_index, group=group)


def leave() -> None:
    """Ends what `join`, or a training, has with the other processes; nothing to a process that met nobody.

    The threads of a process group that is still there when the interpreter ends may abort it, and turn an exit code
    of 0 into a crash.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
        gc.collect()  # errors hold on to a group in cycles; of a split model torch itself keeps one, which is idle


def _store() -> Any:
    """What the processes met through: unlike a collective it can be asked without waiting for anybody."""
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()


@contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo and the store have no narrower class in common
        raise RunError(
            f"Another process of this run is gone ({' '.join(str(error).split())[:120]}); what was answered is kept, "
            "--resume goes on with any number of processes."
        ) from error
