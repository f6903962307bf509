"""Runs a peer's own tests with funcnet's functions in the place of the peer's, and holds the list of those that can't pass."""

import contextlib
import functools
import importlib
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import pytest

from funcnet import Optimizer

used: list[str] = []  # names of the functions put in place that were called


def ours(function: Callable[..., Any]) -> Callable[..., Any]:
    """Notes each call; of an optimizer, each of its init and update."""

    @functools.wraps(function)
    def noted(*args: Any, **kwargs: Any) -> Any:
        used.append(function.__name__)
        made = function(*args, **kwargs)
        return Optimizer(ours(made.init), ours(made.update)) if isinstance(made, Optimizer) else made

    noted.stands_in = True  # type: ignore[attr-defined]
    return noted


def is_ours(function: Callable[..., Any]) -> bool:
    return hasattr(function, "stands_in")


@contextlib.contextmanager
def in_place(names: dict[str, dict[str, Any]]) -> Iterator[None]:
    """Puts values in the place of names of modules, under JAX's usual promotion, for which the peers are written."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        for module_name, values in names.items():
            module = importlib.import_module(module_name)
            for name, value in values.items():
                stack.callback(setattr, module, name, getattr(module, name))
                setattr(module, name, value)
        yield


def differences(peer: str) -> dict[str, str]:
    """The list's part for a peer: pattern to reason."""
    lines = (pathlib.Path(__file__).with_name("differences.txt")).read_text().splitlines()
    entries = [line.split(" -> ") for line in lines if line and not line.startswith("#")]
    return {pattern.removeprefix(f"{peer}: "): reason for pattern, reason in entries if pattern.startswith(f"{peer}: ")}


def marked(peer: str, names: Iterable[str]) -> list[Any]:
    """The tests by name; one on the list must fail, and none may change without a word."""
    reasons = differences(peer)

    def mark(name: str) -> Any:
        reason = next((reason for pattern, reason in reasons.items() if re.search(pattern, name)), None)
        return pytest.param(name, id=name, marks=[] if reason is None else [pytest.mark.xfail(strict=True, reason=reason)])

    return [mark(name) for name in names]


def unmatched(peer: str, names: Iterable[str]) -> list[str]:
    """Patterns of the list that are of no test."""
    names = list(names)
    return [pattern for pattern in differences(peer) if not any(re.search(pattern, name) for name in names)]
