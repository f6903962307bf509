"""Logs the events of a sweep: to Python's logger "funcnet", and to the store's event log."""

import json
import logging
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

LOG = logging.getLogger("funcnet")
LOG.addHandler(logging.NullHandler())  # silent by default: without a handler Python would print warnings and errors
EVENTS = "events.jsonl"  # in a store: one JSON object a line, appended


class Evaluation(NamedTuple):
    """What a callback gets: metrics of rows that were measured after the same step. Arrays are NumPy's, with one entry per row."""

    step: int
    rows: np.ndarray  # (n,), int: of the result's table
    variants: np.ndarray  # (n,), int
    replicates: np.ndarray  # (n,), int
    metrics: dict[str, np.ndarray]  # (n,) each, such as "validation/loss"; NaN if a run has diverged
    folds: np.ndarray | None = None  # (n,), int: of the data


Callback = Callable[[Evaluation], None]


class Teller(Protocol):
    """A function that records an event."""

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
    """Logs an event with Python's logging: problems as warnings or errors, details as DEBUG, the rest as INFO."""
    level = _LEVELS.get(event, logging.INFO)
    if LOG.isEnabledFor(level):
        LOG.log(level, "sweep: %s%s", event, "".join(f", {name} {value}" for name, value in values.items()))


def to_file(folder: str | os.PathLike[str]) -> Teller:
    """Returns a `Teller` that logs events and appends them to a store's event log, which can be read while it grows."""
    path = os.path.join(folder, EVENTS)
    _end_line(path)

    def tell(event: str, /, **values: Any) -> None:
        log(event, **values)
        line = json.dumps({"time": round(time.time(), 3), "event": event, **values}, default=_plain)
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:  # no reason to end the sweep: if its results can't be written, the store raises
            LOG.warning("sweep: store: the event log can't be written: %s", error)

    return tell


def _end_line(path: str) -> None:
    """Ends a line that a dying process left incomplete, so that the next event starts on a new one."""
    try:
        with open(path, "rb+") as file:
            if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_CUR) >= 0 and file.read() != b"\n":
                file.write(b"\n")
    except OSError:  # there is no log yet; any other problem shows when it is written to
        pass


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
