"""What every test and doctest runs under: strict promotion of dtypes and ranks; warnings are errors (pyproject.toml)."""

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(items):
    """A test's name is the same in every process, or pytest-xdist's workers don't agree on what there is to run."""
    if named := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"tests are named after an address, give their cases ids: {named}")
