"""Calls that may fail without ending a run: the error becomes data, and only then is memory given back.

Guarantees that nothing of a failed call is alive when the next one starts, since a traceback holds every tensor of its
frames; and that a device which no longer computes ends the run instead of failing one question after another.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from harness.errors import RunError, UserError
from harness.inference.types import Fault

T = TypeVar("T")
_RESUME = "what was answered is kept, --resume goes on in a new process"

_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cublas_status_alloc_failed")
# Errors after which every further call on the device fails, in the words of the CUDA and HIP runtimes.
_LOST = (
    *("device-side assert", "illegal memory access", "illegal address", "misaligned address", "illegal instruction"),
    *("unspecified launch failure", "launch timed out", "uncorrectable ecc", "hardware stack error"),
    *("invalid program counter", "nvlink error", "device is lost", "fallen off the bus"),
)


@dataclass(frozen=True)
class Failed:
    """A call that raised.

    Attributes:
        fault: the exception, as text.
        memory: whether there was too little memory for it.
    """

    fault: Fault
    memory: bool


def attempted(call: Callable[[], T]) -> T | Failed:
    """Returns what `call` returns, or why it failed; by then everything that the failed call held is given back.

    Raises:
        UserError: as raised by `call`.
        RunError: as raised by `call`, or the device no longer computes.
    """
    try:
        return call()
    except (UserError, RunError):
        raise
    except Exception as error:
        end_if_device_is_lost(error)
        failed = Failed(fault_of(error), short_of_memory(error))
    # Only now has the exception let go of the frames in which it was raised.
    free_memory()
    return failed


def fault_of(error: Exception) -> Fault:
    """Describes an exception."""
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__)[-3:])
    return Fault(type(error).__name__, str(error)[:1000], trace[-2000:])


def short_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may succeed, because there was too little memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


@contextmanager
def ending_with_the_device(advice: str = _RESUME) -> Iterator[None]:
    """Turns the error of a device that no longer computes into one sentence; other errors pass.

    Args:
        advice: what is left and what to do.
    """
    try:
        yield
    except (UserError, RunError):
        raise
    except Exception as error:
        end_if_device_is_lost(error, advice)
        raise


def end_if_device_is_lost(error: BaseException, advice: str = _RESUME) -> None:
    """Ends the run where an error, or one that it follows from, says that the device no longer computes.

    Raises:
        RunError: it does not.
    """
    for cause in _chain(error):
        if _is_lost(cause):
            raise RunError(
                f"The device no longer computes ({type(cause).__name__}: {' '.join(str(cause).split())[:200]}); "
                f"{advice}."
            ) from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    follows: BaseException | None = error
    while follows is not None and id(follows) not in seen:
        yield follows
        seen.add(id(follows))
        follows = follows.__cause__ or follows.__context__


def _is_lost(error: BaseException) -> bool:
    if not isinstance(error, RuntimeError) or short_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or any(words in str(error).lower() for words in _LOST)


def free_memory() -> None:
    """Gives back what nobody holds any more, objects in reference cycles included.

    Raises:
        RunError: the device no longer computes.
    """
    gc.collect()
    if torch.cuda.is_available():
        try:
            torch.cuda.empty_cache()
        except RuntimeError as error:
            end_if_device_is_lost(error)
            raise
