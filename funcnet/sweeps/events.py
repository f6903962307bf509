"""What is worth a line while a sweep trains: to Python's logging under the name "funcnet", and to the store's event log."""

import json
import logging
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

LOG = logging.getLogger("funcnet")
LOG.addHandler(logging.NullHandler())  # a library says nothing unless asked: Python's last resort would print warnings and errors
EVENTS = "events.jsonl"  # in a store: one JSON object a line, appended


class Evaluation(NamedTuple):
    """What a callback is told of: rows that were measured after the same step. All arrays are NumPy's, one entry for each row."""

    step: int
    rows: np.ndarray  # (n,), int: of the result's table
    variants: np.ndarray  # (n,), int
    replicates: np.ndarray  # (n,), int
    metrics: dict[str, np.ndarray]  # (n,) each, such as "validation/loss"; NaN where a run has diverged
    folds: np.ndarray | None = None  # (n,), int: of the data


Callback = Callable[[Evaluation], None]


class Teller(Protocol):
    """Takes note of an event."""

    def __call__(self, event: str, /, **values: Any) -> None: ...


_LEVELS = {
    "ended": logging.DEBUG,
    "stored": logging.DEBUG,
    "damaged": logging.WARNING,
    "out of memory": logging.WARNING,
    "device failed": logging.WARNING,
    "worker failed": logging.WARNING,
    "worker died": logging.WARNING,
    "failed": logging.ERROR,
    "compiled": logging.DEBUG,
}


def log(event: str, /, **values: Any) -> None:
    """To Python's logging: warnings for what went wrong, information on the whole sweep; its details are for debugging."""
    level = _LEVELS.get(event, logging.INFO)
    if LOG.isEnabledFor(level):
        LOG.log(level, "sweep: %s%s", event, "".join(f", {name} {value}" for name, value in values.items()))


def to_file(folder: str | os.PathLike[str]) -> Teller:
    """To a store's event log too, which may be followed while it grows."""
    path = os.path.join(folder, EVENTS)
    _end_line(path)

    def tell(event: str, /, **values: Any) -> None:
        log(event, **values)
        line = json.dumps({"time": round(time.time(), 3), "event": event, **values}, default=_plain)
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:  # the sweep's own results are more important, and say themselves when they can't be written
            LOG.warning("sweep: store: the event log can't be written: %s", error)

    return tell


def _end_line(path: str) -> None:
    """Where a process died in the middle of a line, the next event begins one of its own."""
    try:
        with open(path, "rb+") as file:
            if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_CUR) >= 0 and file.read() != b"\n":
                file.write(b"\n")
    except OSError:  # there is none yet; or it says so when it is written to
        pass


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
