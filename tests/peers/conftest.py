"""Marks the tests on the list of differences as failing, and leaves out the cases that are of others' functions alone."""

import re

import pytest
from peers import exchange


def _others(item):
    """Of a test over several metrics, a case of a metric that funcnet hasn't."""
    functions = [value for value in item.callspec.params.values() if callable(value)] if hasattr(item, "callspec") else []
    return bool(functions) and not any(exchange.is_ours(function) for function in functions)


def pytest_configure(config):
    config.addinivalue_line("markers", "thread_unsafe: a mark of scikit-learn's own")


def pytest_collection_modifyitems(config, items):
    reasons = exchange.differences("scikit-learn")
    here = [item for item in items if item.path.name == "test_scikit_learn.py"]
    for item in here:
        reason = next((reason for pattern, reason in reasons.items() if re.search(pattern, item.name)), None)
        if reason is not None:
            item.add_marker(pytest.mark.xfail(strict=True, reason=reason))
    if left_out := [item for item in here if _others(item)]:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
