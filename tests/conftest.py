"""What every test and doctest runs under: strict promotion of dtypes and ranks; warnings are errors (pyproject.toml).

Nearly all of the time goes to compiling. What was compiled before, here, in another process or in an earlier run, is taken from JAX's
compilation cache, which knows a program by its text, options, versions and processor. A tenth of it went to Python's collector, which
looks at gigabytes of what JAX remembers: it looks less often here, and never at what was there before the first test.
"""

import gc
import os
import shutil

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads spin while they wait for each other: 70 times as long on two busy cores
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA says of each program from the cache that it was compiled for a processor as this

import jax
import pytest

import funcnet

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
gc.set_threshold(50_000, 20, 50)
_MOST_BYTES = 2**30  # kept of what was compiled
_MOST_MAPPINGS = 40_000  # of a process's memory, half of which a file of tests may take


def pytest_configure(config):
    if not hasattr(config, "cache"):  # pytest -p no:cacheprovider
        return
    folder = config.cache.mkdir("jax")
    if not hasattr(config, "workerinput") and sum(entry.stat().st_size for entry in os.scandir(folder)) > _MOST_BYTES:
        shutil.rmtree(folder)
    for name, value in {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)  # for the processes that tests start


def pytest_collection_modifyitems(items):
    """A test's name is the same in every process, or pytest-xdist's workers don't agree on what there is to run."""
    if named := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"tests are named after an address, give their cases ids: {named}")


def pytest_runtest_teardown(item, nextitem):
    """Forgets what is compiled before it is too much: Linux allows a process 65,530 mappings, XLA crashes past them, and maps each program."""
    if nextitem is None or nextitem.path != item.path:
        try:
            with open("/proc/self/maps") as maps:
                mappings = sum(1 for _ in maps)
        except OSError:  # not Linux
            return
        if mappings > _MOST_MAPPINGS:
            funcnet.clear_caches()
            gc.collect()


def pytest_collection_finish():
    gc.freeze()
