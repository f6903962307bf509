"""One sweep, trained by this process, by others on this machine, or by a cluster.

python -m experiments.cluster.train [--executor threads|processes|dask|mpi] [--store FOLDER] [--share I/N]

64 variants of an MLP on scikit-learn's digits. The printed digest of the table is the same with every executor: the numbers are the same.
"""

import argparse
import contextlib
import hashlib
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.datasets import load_digits

import funcnet as fn


def recipe(learning_rate: Any, l2: Any, width: int) -> fn.Training:
    """The recipe of every worker: it is sent with the first tasks, and workers need not have its module."""
    model = fn.mlp((width, 10), "relu")
    return fn.training(model, fn.cross_entropy, fn.adam(learning_rate), in_shape=(64,), penalty=fn.l2(l2), metrics=["accuracy"])


def variants_of(count: int) -> list[dict[str, Any]]:
    """The variants: half with 32 hidden units, half with 64, which makes two programs."""
    rates = np.geomspace(1e-4, 1e-1, -(-count // 4)).tolist()
    return list(fn.grid(width=[32, 64], l2=[0.0, 1e-4], learning_rate=rates))[:count]


def digits() -> fn.Split:
    return fn.standardize(fn.split(fn.Dataset(*load_digits(return_X_y=True)), key=jax.random.key(0), validation=0.2))


def own_core(taken: Any) -> None:
    """Restricts a process to one core: XLA uses all cores that it sees, and processes that share cores slow each other down.

    Args:
      taken: a `multiprocessing.Value` that counts the processes.
    """
    with taken.get_lock():
        number, taken.value = taken.value, taken.value + 1
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})


@contextlib.contextmanager
def executor_of(arguments: argparse.Namespace) -> Iterator[Executor | None]:
    """The executor for the tasks, closed at the end; None for this process's threads."""
    if arguments.executor == "processes":
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(arguments.workers, mp_context=spawn, initializer=own_core, initargs=(spawn.Value("i", 0),)) as pool:
            yield pool
    elif arguments.executor == "dask":
        from distributed import Client
        from distributed.security import Security

        security = None
        if arguments.tls:
            certificate, key = (str(arguments.tls / name) for name in ("cert.pem", "key.pem"))
            security = Security(tls_ca_file=certificate, tls_client_cert=certificate, tls_client_key=key, require_encryption=True)
        with Client(arguments.scheduler, security=security, timeout=arguments.timeout) as client:
            client.wait_for_workers(arguments.workers, timeout=arguments.timeout)
            yield client.get_executor()
    elif arguments.executor == "mpi":
        from mpi4py.futures import MPIPoolExecutor

        with MPIPoolExecutor() as pool:
            yield pool
    else:
        yield None


def digest_of(table: Mapping[str, np.ndarray]) -> str:
    """A digest of the whole table, column by column in the order of their names."""
    found = hashlib.sha256()
    for name in sorted(table):
        found.update(name.encode() + b"\0" + repr(table[name].tolist()).encode() + b"\0")
    return found.hexdigest()[:12]


def share(text: str) -> tuple[int, int]:
    """The index and the number of shares in text such as "3/8"."""
    index, _, count = text.partition("/")
    own = int(index), int(count or 0)
    if not 0 <= own[0] < own[1]:
        raise argparse.ArgumentTypeError(f"must be I/N with 0 <= I < N, got {text!r}")
    return own


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.cluster.train", description=__doc__.splitlines()[0])
    parser.add_argument("--executor", choices=["threads", "processes", "dask", "mpi"], default="threads", help="who trains (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes to start, or Dask's to wait for (%(default)s)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="Dask's, such as tcp://127.0.0.1:8786")
    parser.add_argument("--tls", type=Path, metavar="FOLDER", help="with cert.pem and key.pem, for a scheduler at tls://")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for the scheduler and the workers to be there (%(default)s)")
    parser.add_argument("--variants", type=int, default=64, help="how many (%(default)s)")
    parser.add_argument("--share", type=share, default=(0, 1), metavar="I/N", help="every N-th variant, from the I-th on (all)")
    parser.add_argument("--steps", type=int, default=200, help="that each trains for (%(default)s)")
    parser.add_argument("--chunk-size", type=int, default=8, help="lanes of a chunk, on which the last bits depend (%(default)s)")
    parser.add_argument("--store", type=Path, metavar="FOLDER", help="keeps the sweep there, and goes on from it")
    return parser


def main() -> None:
    arguments = parser().parse_args()
    if arguments.executor == "dask" and not arguments.scheduler:
        parser().error("--executor dask needs --scheduler ADDRESS")
    index, count = arguments.share
    with executor_of(arguments) as executor:
        result = fn.sweep(
            recipe,
            variants_of(arguments.variants)[index::count],
            digits(),
            key=jax.random.key(1),
            num_steps=arguments.steps,
            batch_size=64,
            chunk_size=arguments.chunk_size,
            store=arguments.store,
            executor=executor,
            progress=False,
        )
    best = result.best("validation/accuracy")
    print(f"{len(result.table['variant'])} runs by {len(result.timing.get('workers', ())) or 'no'} workers elsewhere")
    print(f"best: validation/accuracy {best.metrics['validation/accuracy']:.4f} with {best.hyperparameters}")
    print(f"digest of the table: {digest_of(result.table)}")


if __name__ == "__main__":  # without this, each spawned process would start another sweep
    main()
