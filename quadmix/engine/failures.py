"""How an exception travels from a worker to the driver: its type when it pickles, its traceback as a note."""

from __future__ import annotations

import pickle
import traceback
from dataclasses import dataclass

from quadmix.errors import ResourceError

MAX_ATTEMPTS = 4


@dataclass(frozen=True)
class Failure:
    """An exception that a task raised. `pickled` is None when the exception does not survive a round trip."""

    pickled: bytes | None
    text: str
    trace: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Take down `error` while its traceback is at hand."""
        trace = "".join(traceback.format_exception(error))
        try:
            pickled: bytes | None = pickle.dumps(error)
            pickle.loads(pickled or b"")  # an exception with its own __init__ may pickle and yet not come back
        except Exception:
            pickled = None
        return cls(pickled, f"{type(error).__name__}: {error}", trace)

    def error(self, label: str, index: int) -> Exception:
        """The exception to raise here: the original type where it survived, else RuntimeError with its text."""
        error: Exception
        if self.pickled is None:
            error = RuntimeError(self.text)
        else:
            loaded = pickle.loads(self.pickled)
            error = loaded if isinstance(loaded, Exception) else RuntimeError(self.text)
        error.add_note(f"raised by item {index} of '{label}' in a worker:\n{self.trace.rstrip()}")
        return error


def lost_worker(label: str, index: int | None, how: str, advice: str) -> ResourceError:
    """The error after the last attempt: every worker that took the item died with it."""
    item = "an item" if index is None else f"item {index}"
    return ResourceError(
        f"{label}: {item} lost its worker {MAX_ATTEMPTS} times in a row ({how}); wanted: a result. "
        f"Most often the machine ran out of memory: {advice}. "
        "Nothing was published; the same command resumes from what is finished"
    )
