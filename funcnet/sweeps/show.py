"""A stored sweep in words, and its events as they come: what `python -m funcnet show` prints."""

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
GONE = "gone"  # it ended without a word
_SECONDS = 0.5  # between two looks at the event log
_MOST_ENTRIES = 6  # of a list in an event
_MOST_RUNGS = 20
_MOST_LETTERS = 160  # of a list of names


class View(NamedTuple):
    """What is seen of a stored sweep at one moment."""

    path: str
    stored: Stored | None  # None where nothing has been stored yet
    last: dict[str, Any] | None  # the last event
    after: int  # bytes of the event log that have been read
    owner: Owner | None  # who has the folder open, or died with it open
    written: float | None  # when the newest snapshot was: seconds since 1970
    now: float  # likewise

    @property
    def state(self) -> str:
        """Finished, running or what else, in a few words."""
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
        """Whether there will be no more events, unless the sweep is called again."""
        return self.state == "finished"


def look(path: str | os.PathLike[str]) -> View:
    """What is seen of the sweep in a folder now; nothing is changed.

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
    """The events that a store's log has beyond so many bytes, and how many bytes they end at.

    A line without its end is still being written, and left for the next call. Lines that are no events are passed over.

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
            if after > os.fstat(file.fileno()).st_size:  # another log has taken its place
                after = 0
            file.seek(after)
            whole = file.read()
    except OSError:  # a sweep goes on without its log, and so does who looks on
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
    """How a sweep stands: names and what to say of each."""
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
    """A rule as it was called, and what it decides by."""
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
    """A sweep in words: how it stands, what has been pruned, and its best variants."""
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
    """Tells each new event of a sweep, until its call ends.

    Args:
      path: the folder.
      after: bytes of the event log that are known.
      tell: is given each event in a line.
      wait: is called with seconds between two looks.

    Returns:
      The event with which the sweep ended, one of `ENDS`; `GONE` where its process let go of the folder, or died, without a word.
    """
    lived = False
    while True:
        owner = read_owner(path)  # before the events: a process that ends says so before it lets go
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
    """Text that can't steer a terminal: what isn't printable, lines' ends aside, stands as its escape.

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
    """The first of these names, and how many more there are."""
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
    """How long ago something was; what a clock elsewhere says of the future is now.

    Example:
      >>> _ago(0.4), _ago(75), _ago(-3)
      ('just now', '1 min 15 s ago', 'just now')
    """
    return "just now" if not seconds >= 1 else f"{_duration(seconds)} ago"


def _duration(seconds: float) -> str:
    """Seconds in the two units that say most of them.

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
