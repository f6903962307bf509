"""What `python -m funcnet show` prints: a description of a stored sweep, and its new events."""

import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from funcnet import check
from funcnet.sweeps.events import EVENTS
from funcnet.sweeps.files import Owner, read_owner, written_at
from funcnet.sweeps.shown import Rule, Stored, read_stored

_WHERE = "show"
ENDS = ("finished", "out of time", "failed", "stopped")  # the events with which a call of sweep ends
GONE = "gone"  # the call ended without such an event
_SECONDS = 0.5  # between two reads of the event log
_MOST_ENTRIES = 6  # of a list in an event
_MOST_RUNGS = 20
_MOST_LETTERS = 160  # of a list of names


class View(NamedTuple):
    """A stored sweep as read at one moment."""

    path: str
    stored: Stored | None  # None if nothing has been stored yet
    last: dict[str, Any] | None  # the last event
    after: int  # bytes of the event log that have been read
    owner: Owner | None  # who has the folder open, or died with it open
    written: float | None  # when the newest snapshot was written, in seconds since 1970
    now: float  # when all this was read, in seconds since 1970

    @property
    def state(self) -> str:
        """Whether the sweep is running, finished or something else, in a few words."""
        if self.owner is not None and self.owner.alive:
            return "running"
        if self.stored is not None and self.stored.finished:
            return "finished"
        if self.owner is not None and self.owner.alive is None:
            return "open on another host"
        if self.owner is not None:
            return "its process has died; the same call goes on from the last snapshot"
        return "not running; the same call goes on from the last snapshot"

    @property
    def over(self) -> bool:
        """Whether the sweep has finished, so that no events follow unless it is called again."""
        return self.state == "finished"


def look(path: str | os.PathLike[str]) -> View:
    """Reads the sweep in a folder, and changes nothing.

    Raises:
      ValueError: the folder holds no sweep, nothing but damaged snapshots, or one that a newer version of funcnet wrote.
      OSError: there is no such folder, or it can't be read.
    """
    owner = read_owner(path) if os.fspath(path) else None
    events, after = read_events(path, 0)
    stored = read_stored(path, where=_WHERE)
    if stored is None and not events:
        rule = f"{os.fspath(path)!s} must be the folder of a stored sweep"
        got = "one without a snapshot" if os.listdir(path) else "an empty one"
        raise ValueError(check.message(_WHERE, rule, got, "sweep(..., store=folder) makes one"))
    return View(os.fsdecode(path), stored, events[-1] if events else None, after, owner, written_at(path), time.time())


def read_events(path: str | os.PathLike[str], after: int) -> tuple[list[dict[str, Any]], int]:
    """The events in a store's log after that many bytes, and the number of bytes read by now.

    A line without its end is still being written and is left for the next call. Lines that are no events are skipped.

    Example:
      >>> import tempfile
      >>> path = tempfile.mkdtemp()
      >>> with open(os.path.join(path, EVENTS), "w") as file:
      ...     _ = file.write('{"time": 1.5, "event": "begun", "runs": 2}\\n{"time": 2.5, "ev')
      >>> read_events(path, 0)
      ([{'time': 1.5, 'event': 'begun', 'runs': 2}], 43)
    """
    try:
        with open(os.path.join(os.fsdecode(path), EVENTS), "rb") as file:
            if after > os.fstat(file.fileno()).st_size:  # the log has been replaced by another
                after = 0
            file.seek(after)
            whole = file.read()
    except OSError:  # a sweep goes on without its log, so this does too
        return [], after
    whole = whole[: whole.rfind(b"\n") + 1]
    events = []
    for line in whole.splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str) and type(event.get("time")) in (int, float):
            events.append(event)
    return events, after + len(whole)


def facts(view: View) -> list[tuple[str, str]]:
    """The facts of a sweep to show: names, each with a text."""
    found = [("state", view.state)]
    stored = view.stored
    if stored is None:
        found.append(("stored", "nothing yet"))
    else:
        table, names = stored.result.table, stored.result.hyperparameter_names
        runs, variants = len(stored.result), len(stored.result) // stored.runs
        each = "" if stored.runs == 1 else f", {stored.runs} runs each"
        over = f" over {_some(names)}" if names else ""
        found.append(("variants", f"{variants:,}{over}{each}"))
        counts = Counter(table["status"].tolist())
        found.append(("runs", f"{runs:,}: {', '.join(f'{count:,} {status}' for status, count in sorted(counts.items()))}"))
        most = int(stored.steps.sum())
        at_most = " at most" if stored.rule is not None else ""
        found.append(
            ("steps", f"{stored.steps_done:,} of{at_most} {most:,} ({stored.steps_done / max(1, most):.0%}), summed over the runs")
        )
        found.append(("time", _duration(stored.seconds)))
        mode = {"min": ", the smaller the better", "max": ", the larger the better"}.get(str(stored.result.mode), "")
        found.append(("ranked by", f"{stored.result.metric}{mode}"))
    if view.written is not None:
        found.append(("last snapshot", _ago(view.now - view.written)))
    if view.last is not None:
        found.append(("last event", f"{view.last['event']}, {_ago(view.now - view.last['time'])}"))
    found.append(("open in", _opener(view.owner)))
    if stored is not None:
        found += [("damaged", sentence) for sentence in stored.damaged]
    return found


def rule_words(rule: Rule) -> str:
    """A rule with its arguments, and the metric that it decides by."""
    mode = {"min": ", the smaller the better", "max": ", the larger the better"}.get(str(rule.mode), "")
    return f"{rule.name}({rule.settings}) decides by {rule.metric}{mode}"


def rung_lines(rule: Rule) -> tuple[list[str], list[list[str]]]:
    """Headers, and a line for each rung."""
    bracketed = any(rung.bracket is not None for rung in rule.rungs)
    headers = [*(["bracket"] if bracketed else []), "step", "came", "went on", "stopped", "waiting"]
    lines = [
        [
            *([str(rung.bracket)] if bracketed else []),
            *(f"{count:,}" for count in (rung.step, rung.came, rung.went_on, rung.stopped, rung.waiting)),
        ]
        for rung in rule.rungs
    ]
    return headers, lines


def described(view: View) -> str:
    """A sweep as text: its facts, what was pruned, and its best variants."""
    pairs = facts(view)
    width = max(len(name) for name, _ in pairs)
    lines = [f"sweep in {view.path}", *(f"  {name.ljust(width)}  {words}" for name, words in pairs)]
    if view.stored is not None:
        rule = view.stored.rule
        if rule is not None:
            headers, cells = rung_lines(rule)
            lines += ["", rule_words(rule), *_aligned(headers, cells[:_MOST_RUNGS])]
            lines += [f"  and {len(cells) - _MOST_RUNGS} more"] if len(cells) > _MOST_RUNGS else []
        lines += ["", repr(view.stored.result)]
    return printable("\n".join(lines))


def event_line(event: dict[str, Any]) -> str:
    """An event in one line.

    Example:
      >>> event_line({"time": 0.0, "event": "ended", "step": 6, "how": "pruned", "rows": [1, 2]})[10:]
      'ended: step 6, how pruned, rows 1, 2'
    """
    values = [f"{name} {_entry(value)}" for name, value in event.items() if name not in ("time", "event")]
    try:
        clock = time.strftime("%H:%M:%S", time.localtime(event["time"]))
    except (ValueError, OverflowError, OSError):
        clock = "--:--:--"
    return printable(f"{clock}  {event['event']}{': ' * bool(values)}{', '.join(values)}").replace("\n", "\\n")


def follow(path: str | os.PathLike[str], after: int, tell: Callable[[str], None], *, wait: Callable[[float], None] = time.sleep) -> str:
    """Passes on each new event of a sweep, until the call of `sweep` ends.

    Args:
      path: the folder.
      after: bytes of the event log to skip.
      tell: is called with each event as a line of text.
      wait: is called between two reads of the log, with seconds to wait.

    Returns:
      The event with which the sweep ended, one of `ENDS`; `GONE` if its process closed the folder, or died, without one.
    """
    lived = False
    while True:
        owner = read_owner(path)  # before the events: a process logs its end before it closes the folder
        events, after = read_events(path, after)
        for event in events:
            tell(event_line(event))
        if ends := [event["event"] for event in events if event["event"] in ENDS]:
            return str(ends[-1])
        if lived and (owner is None or owner.alive is False):
            return GONE
        lived = lived or (owner is not None and owner.alive is not False)
        wait(_SECONDS)


def printable(words: str) -> str:
    """Text that is safe in a terminal: unprintable characters, except line ends, are shown as escape sequences.

    Example:
      >>> print(printable("a" + chr(27) + "[2J"))
      a\\x1b[2J
    """
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape", "surrogatepass").decode() for letter in words
    )


def _aligned(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    return ["  " + "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in [headers, *cells]]


def _some(names: Sequence[str]) -> str:
    """The first of these names, about `_MOST_LETTERS` letters, and how many more there are."""
    count = max(1, sum(length <= _MOST_LETTERS for length in itertools.accumulate(len(name) + 2 for name in names)))
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return f"{', '.join(names[:count])}{more}"


def _entry(value: Any) -> str:
    if isinstance(value, list):
        more = f", ... ({len(value)})" if len(value) > _MOST_ENTRIES else ""
        return ", ".join(map(str, value[:_MOST_ENTRIES])) + more
    return str(value)


def _opener(owner: Owner | None) -> str:
    if owner is None:
        return "no process"
    fate = {True: "", False: ", which has died", None: ", as its lock says"}[owner.alive]
    return f"process {owner.pid} on host {owner.host}{fate}"


def _ago(seconds: float) -> str:
    """How long ago something was, as text; a negative time, by another machine's clock, counts as now.

    Example:
      >>> _ago(0.4), _ago(75), _ago(-3)
      ('just now', '1 min 15 s ago', 'just now')
    """
    return "just now" if not seconds >= 1 else f"{_duration(seconds)} ago"


def _duration(seconds: float) -> str:
    """Seconds as text in their two largest units.

    Example:
      >>> _duration(2.34), _duration(3725), _duration(200_000)
      ('2.3 s', '1 h 2 min', '2 d 7 h')
    """
    if not seconds >= 10:
        return f"{seconds:.1f} s"
    rest, parts = round(min(seconds, 1e12)), list[str]()
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0 "))
