"""`Plan`: what `plan` predicts of a sweep, and how it prints."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

_MOST_SHOWN = 20  # programs in a printed table
_LONG = 28  # letters of a value in it


class Seconds(NamedTuple):
    """How long the parts of a sweep take, in seconds."""

    rehearse: float  # calling the recipe for every variant and tracing it, as measured just now
    compile: float  # on this machine, in a process that has compiled none of it
    train: float  # with the evaluations

    @property
    def total(self) -> float:
        return self.rehearse + self.compile + self.train


class PlannedProgram(NamedTuple):
    """One program of a plan, and what the runs that share it take."""

    static: dict[str, Any]  # the hyperparameters that pick the program
    batch_size: int | None
    runs: int
    lanes: int  # of each chunk
    chunks: int
    bytes_needed: int  # memory that one chunk takes while it trains
    flops: float  # of all chunks to their ends, including unused lanes
    bytes_moved: float  # of all chunks to their ends: to and from memory, as the compiler counts them
    seconds: float  # the longest that a chunk takes to its end, while others train on the other slots


@dataclass(frozen=True, repr=False)
class Plan:
    """What a sweep will take, as `plan` predicts it.

    Attributes:
      programs: what each program takes, in the order in which the sweep compiles them. Runs share a program if their
        hyperparameters differ only in numbers and traced names.
      runs: rows of the result's table.
      compilations: how many functions a new process compiles: each program has one that initializes, one that draws, one that takes
        steps and one that evaluates, and programs share those that are the same. The sweep's `timing["programs"]` counts the same.
      slots: how many chunks train at a time.
      device: what the plan is for.
      budget: bytes that one chunk may take.
      seconds: `Seconds`: rehearse, compile, train, and their total.
      measured: whether `seconds.train` comes from steps that were timed on the device. If not, it is a roofline estimate:
        operations at the chip's peak rate, or bytes at its memory bandwidth.
      at_most: whether the sweep has a rule that may end runs early; all figures are those without early ends.
      notes: for traced numbers that decide shapes, such as a width: whether their sizes share a program, and why.
    """

    programs: tuple[PlannedProgram, ...]
    runs: int
    compilations: int
    slots: int
    device: str
    budget: int
    seconds: Seconds
    measured: bool
    at_most: bool
    notes: tuple[str, ...] = ()

    @property
    def lane_widths(self) -> list[int]:
        """How many lanes a chunk of each program has, as the sweep's `timing["lane_widths"]`."""
        return [program.lanes for program in self.programs]

    @property
    def chunks(self) -> int:
        return sum(program.chunks for program in self.programs)

    @property
    def bytes_needed(self) -> int:
        """The most memory that chunks take together, as many as train at a time."""
        largest = sorted((program.bytes_needed for program in self.programs for _ in range(min(program.chunks, self.slots))), reverse=True)
        return sum(largest[: self.slots])

    @property
    def flops(self) -> float:
        return sum(program.flops for program in self.programs)

    @property
    def bytes_moved(self) -> float:
        return sum(program.bytes_moved for program in self.programs)

    def __repr__(self) -> str:
        facts, headers, cells = self._shown()
        first = max(len(name) for name, _ in facts)
        lines = [f"{name.ljust(first)}  {words}" for name, words in facts]
        widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
        lines += ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in [headers, *cells]]
        left = len(self.programs) - len(cells)
        return "\n".join([*lines, *([f"and {left} more"] if left else [])])

    def _repr_html_(self) -> str:
        facts, headers, cells = self._shown()

        def line(tag: str, row: Sequence[str]) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in row) + "</tr>"

        summary = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(words)}</td></tr>" for name, words in facts)
        body, left = "".join(line("td", row) for row in cells), len(self.programs) - len(cells)
        more = f"<p>and {left} more</p>" if left else ""
        return f"<table>{summary}</table><table><thead>{line('th', headers)}</thead><tbody>{body}</tbody></table>{more}"

    def _shown(self) -> tuple[list[tuple[str, str]], list[str], list[list[str]]]:
        """What is printed: facts, headers, and a line for each of the first `_MOST_SHOWN` programs."""
        at_most, seconds = "at most " if self.at_most else "", self.seconds
        how = "as timed here" if self.measured else "by a roofline, not a measurement"
        parts = f"{_duration(seconds.rehearse)} to rehearse, {_duration(seconds.compile)} to compile"
        counts = [_count(self.runs, "run"), _count(len(self.programs), "program"), _count(self.compilations, "compilation")]
        facts = [
            ("plan", f"{counts[0]} in {counts[1]}, {counts[2]}"),
            ("on", f"{self.device}, {_count(self.slots, 'chunk')} at a time"),
            ("memory", f"{_scaled(self.bytes_needed, 'B')} of {_scaled(self.budget * self.slots, 'B')}, beside the data"),
            ("work", f"{at_most}{_scaled(self.flops, 'FLOP')}, {_scaled(self.bytes_moved, 'B')} moved"),
            ("time", f"{at_most}{_duration(seconds.total)}: {parts}, {_duration(seconds.train)} to train, {how}"),
        ]
        facts += [("sizes", note) for note in self.notes]
        names = list(dict.fromkeys(name for program in self.programs for name in program.static))
        batches = len({program.batch_size for program in self.programs}) > 1
        headers = [*names, *(["batch_size"] if batches else []), "runs", "lanes", "chunks", "memory", "FLOP", "moved", "a chunk's time"]
        cells = [
            [
                *(_cell(program.static[name]) if name in program.static else "" for name in names),
                *([str(program.batch_size)] if batches else []),
                *(f"{count:,}" for count in (program.runs, program.lanes, program.chunks)),
                _scaled(program.bytes_needed, "B"),
                _scaled(program.flops, ""),
                _scaled(program.bytes_moved, "B"),
                _duration(program.seconds),
            ]
            for program in self.programs[:_MOST_SHOWN]
        ]
        return facts, headers, cells


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _scaled(number: float, unit: str) -> str:
    """A number with three digits and a prefix for a power of a thousand.

    Example:
      >>> _scaled(1234567, "B"), _scaled(12, "FLOP"), _scaled(2.5e17, "")
      ('1.23 MB', '12 FLOP', '250 P')
    """
    for power, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= power:
            return f"{number / power:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit}".rstrip()


def _duration(seconds: float) -> str:
    """A duration: seconds with two digits, or, from 100 s on, minutes and seconds, or hours and minutes.

    Example:
      >>> _duration(0.00123), _duration(12.34), _duration(754), _duration(100_000)
      ('0.0012 s', '12 s', '12 min 34 s', '27 h 46 min')
    """
    if seconds < 100:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def _cell(value: Any) -> str:
    """A value as one short line of text."""
    words = f"{value:.4g}" if isinstance(value, float) else getattr(value, "__name__", None) or str(value)
    words = " ".join(words.split())
    return words if len(words) <= _LONG else words[: _LONG - 3] + "..."
