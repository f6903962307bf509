"""How a running sweep reports its progress: a bar in a terminal, plain lines elsewhere, or the user's function."""

import math
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from funcnet import check


class Progress(NamedTuple):
    """How far a sweep has come."""

    runs_done: int
    runs: int
    steps_done: int  # summed over the runs
    steps: int
    diverged: int
    best: float | None  # of the metric, among the runs done
    metric: str
    compiling: int  # groups whose programs are still to be compiled
    seconds: float  # since the sweep began
    pruned: int = 0

    @property
    def share(self) -> float:
        """The share of all steps that is done, in [0, 1]."""
        return self.steps_done / self.steps

    @property
    def runs_per_second(self) -> float:
        """Steps per second in units of a whole run's steps, with compilation in the time."""
        return self.runs * self.share / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float:
        """Seconds left at the pace so far; infinite before the first steps are done."""
        return self.seconds * (1 - self.share) / self.share if self.share else math.inf

    def __str__(self) -> str:
        best = "" if self.best is None else f", best {self.metric} {self.best:.4g}"
        left = "" if math.isinf(self.seconds_left) else f", {_clock(self.seconds_left)} left"
        compiling = f", {self.compiling} programs to compile" if self.compiling else ""
        return (
            f"{self.runs_done}/{self.runs} runs, {self.share:.0%} of the steps, {self.runs_per_second:.1f} runs/s{left}"
            f"{best}, {f'{self.pruned} pruned, ' if self.pruned else ''}{self.diverged} diverged{compiling}"
        )


Reporter = Callable[[Progress], None]
_SECONDS_BETWEEN_LINES = 5.0


def reporter(progress: bool | Callable[[Progress], None] | None) -> tuple[Reporter, Callable[[], None]]:
    """The function to call with each `Progress`, and one to call at the end.

    Args:
      progress: None or True for a tqdm bar if standard error is a terminal and tqdm is installed, else plain lines;
        False for silence; or the user's function of a `Progress`.
    """
    if progress is False:
        return lambda now: None, lambda: None
    if callable(progress):
        return progress, lambda: None
    check_progress(progress)
    bar = _bar() if sys.stderr.isatty() else None
    return _on_bar(bar) if bar is not None else _in_lines()


def check_progress(progress: Any) -> None:
    if not (progress is None or progress is True or progress is False or callable(progress)):
        raise TypeError(check.message("sweep", "progress must be True, False, None or a function", repr(progress)))


def _bar() -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=1.0, bar_format="{percentage:3.0f}%|{bar:24}| {desc}", file=sys.stderr, dynamic_ncols=True)


def _on_bar(bar: Any) -> tuple[Reporter, Callable[[], None]]:
    def tell(now: Progress) -> None:
        bar.n = now.share
        bar.set_description_str(str(now), refresh=True)

    return tell, bar.close


def _in_lines() -> tuple[Reporter, Callable[[], None]]:
    said = time.monotonic()

    def tell(now: Progress) -> None:
        nonlocal said
        over = now.runs_done == now.runs
        if over or time.monotonic() - said >= _SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            print(f"sweep: {now}", file=sys.stderr, flush=True)

    return tell, lambda: None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
