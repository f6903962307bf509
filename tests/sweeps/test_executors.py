"""A sweep whose tasks go to other processes: the same numbers, bit for bit, whatever happens to the workers, or an error that says what."""

import concurrent.futures
import contextlib
import importlib.util
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import remote_recipes as recipes

import funcnet as fn
from funcnet import prune
from funcnet.sweeps import remote, worker

ROOT = Path(__file__).parents[2]
RATES = [*np.geomspace(1e-3, 0.3, 8).tolist(), 1e30]  # the last one diverges
SETTINGS = dict(key=jax.random.key(1), num_steps=150, batch_size=8, eval_every=50, chunk_size=4, progress=False)
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "FUNCNET_TEST_WORKER": "1"}
POINTS = recipes.points()


def rates(*values, **others):
    return fn.grid(learning_rate=list(values or RATES), **others)


def swept(recipe=recipes.net, variants=None, data=POINTS, **others):
    return fn.sweep(recipe, rates() if variants is None else variants, data, **(SETTINGS | others))


def assert_same(one, other):
    """Table, curves and states, bit for bit."""
    assert list(one.table) == list(other.table)
    for name, column in one.table.items():
        own, its = np.asarray(column), np.asarray(other.table[name])
        assert own.dtype == its.dtype and (own.tolist() == its.tolist() if own.dtype == object else own.tobytes() == its.tobytes()), name
    for name, curve in one.curves.items():
        assert np.asarray(curve).tobytes() == np.asarray(other.curves[name]).tobytes(), name
    assert sorted(one._states) == sorted(other._states)
    for row, state in one._states.items():
        own, its = jax.tree.leaves(state), jax.tree.leaves(other._states[row])
        for leaf, its_leaf in zip(own, its, strict=True):
            assert leaf.dtype == its_leaf.dtype and _bytes(leaf) == _bytes(its_leaf)


def _bytes(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()


@contextlib.contextmanager
def processes(count=2, initializer=recipes.is_worker):
    """A pool of spawned processes that can import the tests' recipes."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = ENVIRONMENT["PYTHONPATH"]
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(count, mp_context=context, initializer=initializer)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        del os.environ["PYTHONPATH"]
        os.environ.update({} if before is None else {"PYTHONPATH": before})


@pytest.fixture(scope="module")
def pool():
    with processes() as own:
        yield own


FAMILIES = {
    "several programs": (recipes.net, rates(width=[4, 8]), POINTS, dict(replicates=2)),
    "names": (recipes.net, rates(*RATES[:4], activation=fn.traced(["relu", "tanh"])), POINTS, {}),
    "num_examples": (recipes.net, rates(*RATES[:4], num_examples=[20, 50]), POINTS, {}),
    "keys of their own": (recipes.net, rates(), POINTS, dict(randomness="independent", batch_size=None)),
    "cnn": (recipes.convolutional, rates(*RATES[:5]), recipes.images(), {}),
    "rnn": (recipes.recurrent, rates(*RATES[:5]), recipes.images((6, 6)), {}),
    "odd leaves": (recipes.odd, rates(), POINTS, {}),
    "a dataset": (recipes.line, rates(), fn.Dataset(*POINTS.train), dict(keep=2)),
    "halving": (recipes.net, rates(width=[4, 8]), POINTS, dict(prune=prune.successive_halving(20))),
    "asha": (recipes.line, rates(*np.geomspace(1e-3, 0.3, 18).tolist()), POINTS, dict(prune=prune.asha(20))),
    "patience": (recipes.net, rates(), POINTS, dict(prune=prune.patience(1))),
    "population": (recipes.net, fn.space(learning_rate=fn.log_uniform(1e-3, 0.3)).sample(8, key=jax.random.key(0)), POINTS,
                   dict(evolve=fn.population())),
    "the best": (recipes.net, rates(), POINTS, dict(keep_best=True, keep=3)),
    "a pytree of predictions, and a loss that draws": (recipes.autoencoder, rates(*RATES[:4], beta=[0.0, 0.1]), recipes.themselves(), {}),
    "a loss of the batch": (recipes.ranking, rates(*RATES[:4], noise=[0.0, 0.5]), recipes.sides(), {}),
    "settings": (recipes.scored, rates(*RATES[:4]), POINTS, dict(metric="validation/f1")),
    "rbg keys": (recipes.odd, rates(*RATES[:4]), POINTS, dict(key=jax.random.key(0, impl="rbg"))),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_processes_give_the_same_bits(name, pool):
    recipe, variants, data, settings = FAMILIES[name]
    here = swept(recipe, variants, data, **settings)
    there = swept(recipe, variants, data, executor=pool, **settings)
    assert_same(here, there)
    assert there.timing["workers"] and "workers" not in here.timing


def test_what_the_recipe_closes_over_and_jaxs_settings_travel(pool):
    weights = np.random.default_rng(1).normal(size=6).astype(np.float32)

    def own(learning_rate):
        plain = fn.training(fn.dense(3), fn.cross_entropy, fn.sgd(learning_rate), in_shape=(6,))

        def evaluate(state, part):
            return {name: value + jnp.sum(jnp.asarray(weights)).astype(value.dtype) for name, value in plain.evaluate(state, part).items()}

        return plain._replace(evaluate=evaluate)

    for settings in (contextlib.nullcontext(), jax.enable_x64(True), jax.default_matmul_precision("float32")):
        with settings:
            one, other = swept(own), swept(own, executor=pool)
            assert_same(one, other)
    weights += 1.0  # in place: it is looked at anew
    after = swept(own, executor=pool)
    assert_same(swept(own), after)
    assert after.table["train/loss"].tolist() != other.table["train/loss"].tolist()


def test_any_executor_will_do():
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        assert_same(swept(), swept(executor=threads))

    class Adapter:
        """As one for an engine that has futures of its own."""

        _max_workers = 2

        def submit(self, function, *arguments):
            own = concurrent.futures.Future()
            own.set_result(pickle.loads(pickle.dumps(function(*pickle.loads(pickle.dumps(arguments))))))
            return own

    assert_same(swept(), swept(executor=Adapter()))


def searched(**others):
    strategy = fn.suggest.random(fn.space(learning_rate=fn.log_uniform(1e-3, 0.5)), key=jax.random.key(3))
    return fn.search(recipes.line, strategy, POINTS, rounds=2, per_round=6, **(SETTINGS | others))


def test_a_search_and_a_store_with_processes(pool, tmp_path):
    assert_same(searched(), searched(executor=pool, store=tmp_path / "search"))
    stopped = stop_after(400)
    with pytest.raises(fn.SweepStopped, match="the same call goes on from what is stored"):
        swept(variants=rates(width=[4, 8]), executor=pool, store=tmp_path / "one", progress=stopped)
    assert_same(swept(variants=rates(width=[4, 8])), swept(variants=rates(width=[4, 8]), executor=pool, store=tmp_path / "one"))
    here = swept(variants=rates(width=[4, 8]), store=tmp_path / "one")  # it had finished there, and is read here
    assert here.timing["programs"] == 0
    with pytest.raises(fn.SweepStopped):
        swept(recipes.odd, store=tmp_path / "other", progress=stop_after(200))
    assert_same(swept(recipes.odd), swept(recipes.odd, executor=pool, store=tmp_path / "other"))  # begun here, ended there


def stop_after(steps):
    def progress(now):
        if now.steps_done >= steps:
            raise KeyboardInterrupt

    return progress


def test_time_that_is_over_ends_it_there_too():
    with processes(1) as own:
        swept(recipes.line, executor=own)
        assert swept(recipes.line, executor=own).timing["programs"] == 0
        began = time.monotonic()
        result = swept(recipes.slow("x"), executor=own, num_steps=3000, max_seconds=2.0)
        assert time.monotonic() - began < 60
    assert "unfinished" in result.table["status"].tolist() and (result.table["steps"] < 3000).all()


# Workers that die, or fail.


@contextlib.contextmanager
def killed_meanwhile(find, after=1.5):
    """A process is killed a while after its sweep has begun."""
    killed = []

    def kill():
        time.sleep(after)
        killed.append(find())
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    yield killed
    thread.join()


SLOWLY = dict(num_steps=20, eval_every=10, chunk_size=1)  # a second for each of 9 chunks, once workers have compiled them


def test_a_process_that_is_killed_changes_nothing(tmp_path):
    expected = swept(recipes.line, **SLOWLY)
    with processes() as own:
        swept(recipes.slow("x"), executor=own, **(SLOWLY | dict(num_steps=1)))
        with killed_meanwhile(lambda: next(iter(own._processes))) as killed:
            result = swept(recipes.slow("x"), executor=own, store=tmp_path, **SLOWLY)
    assert killed
    assert_same(expected, result)
    assert '"worker died"' in (tmp_path / "events.jsonl").read_text()


def test_a_task_that_kills_its_workers_ends_the_sweep(tmp_path):
    with processes() as own, pytest.raises(RuntimeError, match="too many have died with this one.*; is there memory enough"):
        swept(recipes.dies(str(tmp_path / "x")), executor=own)


def test_what_fails_once_is_done_by_another_and_said(pool, tmp_path):
    with pytest.warns(
        RuntimeWarning, match=r"must carry out what they are given, got .*, process \d+: .*on fire; at a second try .*, process"
    ):
        result = swept(recipes.fails_once(str(tmp_path / "once")), executor=pool)
    assert_same(swept(recipes.line), result)


def test_what_fails_always_is_the_callers(pool, tmp_path):
    with pytest.raises(Exception, match="it never works"):
        swept(recipes.fails(str(tmp_path / "never")), executor=pool)


def test_a_chunk_that_needs_too_much_there_is_halved(pool):
    result = swept(variants=rates(*RATES[:8]), executor=pool, chunk_size=None, memory_budget=60_000)
    assert result.timing["halved"] > 0 and result.timing["lane_widths"][0] < 4
    assert_same(swept(variants=rates(*RATES[:8]), chunk_size=result.timing["lane_widths"][0]), result)


# Workers that aren't the same.


@pytest.mark.parametrize(
    "name, said", [("another_version", "funcnet 0.0.9.*, not funcnet|funcnet 0.0.9 .*not"), ("another_jax", "jax 0.4.1, not")]
)
def test_a_worker_of_another_version_is_refused_by_name(name, said):
    with processes(1, getattr(recipes, name)) as own:
        with pytest.raises(RuntimeError, match=rf"sweep: executor: workers must have the versions .* got .*, process \d+ with .*({said})"):
            swept(executor=own)


def test_a_worker_whose_module_computes_something_else_is_refused(pool):
    with (
        processes(1, recipes.another_scale) as own,
        pytest.raises(RuntimeError, match="the recipe must be the same on every worker, got .*something else"),
    ):
        swept(recipes.line, executor=own)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(recipes, "SCALE", 3.0)  # here, and not there
        with pytest.raises(RuntimeError, match="the recipe must be the same on every worker"):
            swept(recipes.line, executor=pool)


def test_a_recipe_that_cannot_travel_is_said(monkeypatch, pool):
    lock = threading.Lock()

    def held(learning_rate):
        assert lock is not None
        return recipes.line(learning_rate)

    with pytest.raises(TypeError, match="recipe must be one that can be sent, got .*must be picklable"):
        swept(held, executor=pool)
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(TypeError, match="recipe must be one that can be sent, got .*; pip install cloudpickle"):
        swept(lambda learning_rate: recipes.line(learning_rate), executor=pool)
    assert_same(swept(recipes.line), swept(recipes.line, executor=pool))  # by reference


class Ancient:
    """As one whose workers have a funcnet that knows of none of this."""

    _max_workers = 1

    def submit(self, function, *arguments):
        own = concurrent.futures.Future()
        own.set_exception(ModuleNotFoundError("No module named 'funcnet.sweeps.worker'"))
        return own


class Lazy:
    _max_workers = 1

    def submit(self, function, *arguments):
        return "a promise"


def test_what_is_no_executor_is_said():
    with pytest.raises(TypeError, match="sweep: executor: needs an object with submit, got 3"):
        swept(executor=3)
    with pytest.raises(fn.WorkerRefused, match="must be able to import this funcnet, got Mod.*'funcnet.sweeps.worker'; install funcnet 0"):
        swept(executor=Ancient())
    with pytest.raises(TypeError, match="submit must return a concurrent.futures.Future, got str"):
        swept(executor=Lazy())
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as forked:
        with pytest.raises(ValueError, match=r"must spawn its processes, since JAX hangs in one that is forked, got fork; Process.*spawn"):
            swept(executor=forked)
    with concurrent.futures.ThreadPoolExecutor(1) as closed:
        pass
    with pytest.raises(RuntimeError, match="must take tasks for as long as the sweep lasts, got RuntimeError: cannot schedule"):
        swept(executor=closed)


# What is sent.


def test_the_data_goes_once_to_each_worker_and_again_to_one_that_has_lost_it(pool, monkeypatch):
    data = recipes.points()
    data.train.x[0, 0] += 1.0  # nobody has these yet
    sent = []
    own = remote._Pool.submit

    def submit(self, function, *arguments):
        if function is worker.work:
            sent.append([None if argument is None else len(argument) for argument in arguments[1:]])
        return own(self, function, *arguments)

    monkeypatch.setattr(remote._Pool, "submit", submit)
    swept(data=data, variants=rates(width=[4, 8]), executor=pool)
    with_data = [order for order in sent if order[2] is not None]
    assert 1 <= len(with_data) <= 4 and len(sent) >= 6  # to two workers; twice to each where one is quicker
    assert all(size[2] > data.train.x.nbytes for size in with_data)
    workers = set()
    while len(workers) < 2:  # until both have trained, and so have the data
        workers |= set(
            swept(recipes.slow("x"), data=data, variants=rates(*RATES[:2]), executor=pool, num_steps=4, chunk_size=1).timing["workers"]
        )
    sent.clear()
    swept(data=data, variants=rates(width=[4, 8]), executor=pool)
    assert len([order for order in sent if order[2] is not None]) <= 2  # nobody has asked for them


def order_of(pool_of_one):
    """The arguments with which a task is sent."""
    kept = []

    class Keeper:
        _max_workers = 1

        def submit(self, function, *arguments):
            if function is worker.work:
                kept.append(arguments)
            own = concurrent.futures.Future()
            own.set_result(function(*arguments))
            return own

    swept(recipes.line, executor=Keeper())
    return kept[0]


def test_a_worker_asks_for_what_it_does_not_have():
    versions, sent, brief, data = order_of(None)
    assert brief is not None and data is not None
    for cache in (worker._trials, worker._data, worker._sites):
        cache.clear()
    assert worker.work(versions, sent, None, None)[::2] == ("missing", ("data", "brief"))
    assert worker.work(versions, sent, brief, None)[::2] == ("missing", ("data",))
    assert worker.work(versions, sent, None, data)[::2] == ("missing", ("brief",))
    assert worker.work(versions, sent, brief, data)[0] == "done"
    one, other = worker.work(versions, sent, None, None), worker.work(versions, sent, brief, data)
    assert one[0] == other[0] == "done" and one[2].made == 0
    assert worker.work(versions | {"jaxlib": "0"}, b"never looked at", None, None)[0] == "refused"


def test_workers_that_forget_are_told_again(monkeypatch):
    """As after a restart: the task is sent again, with what was missing."""

    class Forgetful:
        _max_workers = 1

        def __init__(self):
            self.told = []

        def submit(self, function, *arguments):
            own = concurrent.futures.Future()
            own.set_result(function(*arguments))
            self.told.append(own.result()[0])
            for cache in (worker._trials, worker._data, worker._sites):
                cache.clear()
            return own

    forgetful = Forgetful()
    assert_same(swept(recipes.line), swept(recipes.line, executor=forgetful))
    assert forgetful.told.count("missing") >= 2 and forgetful.told[0] == "here"


def test_what_one_worker_lacks_and_the_next_has_not_either_comes_together():
    """Of two workers one knows the data and the other the brief, and each task that is sent again reaches the other one."""

    class InTurn:
        _max_workers = 1

        def __init__(self):
            self.calls = 0

        def submit(self, function, *arguments):
            own = concurrent.futures.Future()
            if function is worker.work:
                self.calls += 1
                (worker._trials if self.calls % 2 else worker._data).clear()
                assert self.calls < 50, "it is sent to and fro"
            own.set_result(function(*arguments))
            return own

    assert_same(swept(recipes.line), swept(recipes.line, executor=InTurn()))


# Dask


def free_port():
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return own.getsockname()[1]


class Cluster:
    """A scheduler and its workers, processes of their own on loopback."""

    def __init__(self, folder, **settings):
        self.folder, self.port, self.processes = folder, free_port(), []
        self._environment = ENVIRONMENT | {f"DASK_DISTRIBUTED__{name}": str(value) for name, value in settings.items()}
        self.scheduler = self._started("scheduler", "--port", str(self.port), "--no-dashboard")
        self.workers = {}

    def add(self, name, *options, cwd=None):
        address = f"tcp://127.0.0.1:{self.port}"
        own = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--name", name, "--local-directory", str(self.folder)]
        self.workers[name] = self._started("worker", address, *own, *options)

    def _started(self, kind, *arguments):
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--host", "127.0.0.1", *arguments]
        process = subprocess.Popen(command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.processes.append(process)
        return process

    def client(self, workers=None):
        import distributed

        client = distributed.Client(f"tcp://127.0.0.1:{self.port}", timeout=60, set_as_default=False)
        client.wait_for_workers(len(self.workers) if workers is None else workers, timeout=60)
        return client

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()


needs_dask = pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs Dask's distributed, of the extra [cluster]")
dask_warns = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    own = Cluster(tmp_path_factory.mktemp("dask"))
    own.add("one"), own.add("two")
    yield own
    own.close()


@needs_dask
@dask_warns
@pytest.mark.parametrize("name", ["odd leaves", "halving", "asha", "population"])  # halving is of two programs
def test_dask_gives_the_same_bits(name, cluster):
    recipe, variants, data, settings = FAMILIES[name]
    with cluster.client() as client:
        there = swept(recipe, variants, data, executor=client.get_executor(), **settings)
    assert_same(swept(recipe, variants, data, **settings), there)
    assert {own.rpartition("(")[2] for own in there.timing["workers"]} <= {"one)", "two)"}


@needs_dask
@dask_warns
def test_a_search_and_a_store_with_dask(cluster, tmp_path):
    with cluster.client() as client:
        executor = client.get_executor()
        assert_same(searched(), searched(executor=executor, store=tmp_path / "search"))
        with pytest.raises(fn.SweepStopped, match="the same call goes on from what is stored"):
            swept(variants=rates(width=[4, 8]), executor=executor, store=tmp_path / "one", progress=stop_after(400))
        there = swept(variants=rates(width=[4, 8]), executor=executor, store=tmp_path / "one")
    assert_same(swept(variants=rates(width=[4, 8])), there)


@needs_dask
@dask_warns
def test_a_module_that_workers_have_not_goes_along(cluster, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("import remote_recipes\nSCALE = 3\n\n\ndef recipe(learning_rate):\n"
                                           "    return remote_recipes.net(learning_rate, width=SCALE)\n")  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    with cluster.client() as client:
        with pytest.raises(TypeError, match=r"must be a concurrent.futures.Executor, got Client; its get_executor\(\) is one"):
            swept(executor=client)
        assert_same(swept(only_here.recipe), swept(only_here.recipe, executor=client.get_executor()))
        monkeypatch.setattr(remote.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(fn.SweepFailed, match=r"WorkerRefused.*must have the modules that the recipe needs, got .* without 'only_here'"):
            only_here.SCALE = 5  # which no worker has met
            swept(only_here.recipe, executor=client.get_executor())


@needs_dask
@dask_warns
def test_a_worker_of_dasks_that_is_killed_changes_nothing_and_one_that_comes_later_is_used(tmp_path):
    expected, own = swept(recipes.line, **(SLOWLY | dict(num_steps=40))), Cluster(tmp_path / "dask")
    try:
        own.add("one"), own.add("two")
        with own.client() as client:
            executor = client.get_executor()
            swept(recipes.slow("x"), executor=executor, **(SLOWLY | dict(num_steps=1)))
            own.add("three")  # it joins in the middle
            with killed_meanwhile(lambda: own.workers["one"].pid):
                result = swept(recipes.slow("x"), executor=executor, **(SLOWLY | dict(num_steps=40)))
            assert_same(expected, result)
            assert any("(three)" in name for name in result.timing["workers"])
    finally:
        own.close()


@needs_dask
@dask_warns
def test_a_task_that_kills_dasks_workers_ends_the_sweep(tmp_path):
    own = Cluster(tmp_path / "dask", SCHEDULER__ALLOWED_FAILURES=1)
    try:
        for name in ("one", "two", "three", "four"):  # of which two live on
            own.add(name)
        with (
            own.client() as client,
            pytest.raises(RuntimeError, match="too many have died with this one, got KilledWorker.*is there memory"),
        ):
            swept(recipes.dies(str(tmp_path / "x")), rates(0.1), executor=client.get_executor())
    finally:
        own.close()


@needs_dask
@dask_warns
def test_without_any_worker_left_the_sweep_waits_for_one(tmp_path, monkeypatch):
    own = Cluster(tmp_path / "dask")
    try:
        own.add("one")
        with own.client() as client:
            executor = client.get_executor()
            monkeypatch.setattr(client, "scatter", lambda *given, _own=client.scatter, **named: _own(*given, **(named | {"timeout": 1})))
            swept(recipes.slow("x"), executor=executor, **(SLOWLY | dict(num_steps=1)))

            def lost():
                threading.Timer(3.0, own.add, ["two"]).start()
                return own.workers["one"].pid

            with killed_meanwhile(lost):
                result = swept(recipes.slow("x"), rates(*RATES[:4]), executor=executor, **SLOWLY)
            assert any("(two)" in name for name in result.timing["workers"])
    finally:
        own.close()
    assert_same(swept(recipes.line, rates(*RATES[:4]), **SLOWLY), result)


@needs_dask
@dask_warns
def test_without_its_scheduler_the_sweep_ends_and_goes_on_with_a_new_one(tmp_path):
    store, own = tmp_path / "store", Cluster(tmp_path / "dask")
    try:
        own.add("one"), own.add("two")
        client = own.client()
        swept(recipes.slow("x"), executor=client.get_executor(), **(SLOWLY | dict(num_steps=1)))
        with killed_meanwhile(lambda: own.scheduler.pid, after=3.0):
            with pytest.raises(RuntimeError, match="sweep: executor: must take tasks for as long as the sweep lasts.*start it again"):
                swept(recipes.slow("x"), executor=client.get_executor(), store=store, **SLOWLY)
        client.close(timeout=1)
    finally:
        own.close()
    assert "completed" in fn.load_store(store).table["status"].tolist()
    again = Cluster(tmp_path / "again")
    try:
        again.add("three"), again.add("four")
        with again.client() as client:
            result = swept(recipes.slow("x"), executor=client.get_executor(), store=store, **SLOWLY)
    finally:
        again.close()
    assert_same(swept(recipes.line, **SLOWLY), result)


@needs_dask
@dask_warns
def test_a_worker_of_dasks_with_another_version_is_refused_by_name(tmp_path):
    own = Cluster(tmp_path)
    (tmp_path / "older.py").write_text("import remote_recipes\nremote_recipes.another_version()\n")
    try:
        own.add("old", "--preload", str(tmp_path / "older.py"))
        with own.client() as client, pytest.raises(RuntimeError, match=r"got .*\(old\) with funcnet 0.0.9"):
            swept(executor=client.get_executor())
    finally:
        own.close()


# MPI

MPI = """
import sys
import jax
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
from mpi4py.futures import MPIPoolExecutor
import test_executors as t

if __name__ == "__main__":
    with MPIPoolExecutor() as pool:
        for name in ("odd leaves", "halving", "population"):
            recipe, variants, data, settings = t.FAMILIES[name]
            result = t.swept(recipe, variants, data, executor=pool, store=f"{sys.argv[1]}/{name}", **settings)
            assert len(result.timing["workers"]) == 2, result.timing
        t.searched(executor=pool, store=f"{sys.argv[1]}/search")
"""
MPI_THAT_DIES = """
import os
import sys
import jax
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
from mpi4py.futures import MPIPoolExecutor
import test_executors as t

if __name__ == "__main__":
    with MPIPoolExecutor() as pool:
        t.swept(t.recipes.slow("x"), executor=pool, **(t.SLOWLY | dict(num_steps=1)))
        del os.environ["FUNCNET_TEST_WORKER"]  # this process is none
        t.swept(t.recipes.dies_later(sys.argv[1] + "/store/events.jsonl"), executor=pool, store=f"{sys.argv[1]}/store", **t.SLOWLY)
"""


def mpiexec():
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else None


needs_mpi = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None or mpiexec() is None, reason="needs mpi4py and Open MPI, of the extra [mpi]"
)


def run_by_mpi(script, tmp_path):
    (tmp_path / "script.py").write_text(script)
    environment = ENVIRONMENT | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
    ranks = [mpiexec(), "-n", "3", "--oversubscribe", sys.executable, "-m", "mpi4py.futures"]  # two that work, and the one that sends
    command = [*ranks, str(tmp_path / "script.py"), str(tmp_path)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@needs_mpi
def test_a_rank_of_mpi_that_dies_ends_all_and_the_store_goes_on(tmp_path):
    """MPI ends every rank when one is lost, the one that sweeps included."""
    assert run_by_mpi(MPI_THAT_DIES, tmp_path).returncode != 0
    assert "completed" in fn.load_store(tmp_path / "store").table["status"].tolist()
    result = swept(recipes.dies_later("x"), store=tmp_path / "store", **SLOWLY)
    assert result.timing["programs"] > 0  # something was left to train
    assert_same(swept(recipes.line, **SLOWLY), result)


@needs_mpi
def test_the_ranks_of_mpi_give_the_same_bits(tmp_path):
    done = run_by_mpi(MPI, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same(searched(), searched(store=tmp_path / "search"))  # it is read
    for name in ("odd leaves", "halving", "population"):
        recipe, variants, data, settings = FAMILIES[name]
        stored = swept(recipe, variants, data, store=tmp_path / name, **settings)  # it is read
        assert stored.timing["programs"] == 0
        assert_same(swept(recipe, variants, data, **settings), stored)


def test_an_executor_without_workers_is_said_and_waited_for(monkeypatch):
    monkeypatch.setattr(remote, "_PATIENCE", 0.2)
    started = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(1) as busy:
        busy.submit(started.wait)
        threading.Timer(1.0, started.set).start()
        with pytest.warns(RuntimeWarning, match="sweep: executor: must have a worker that answers, got none in 0.2 seconds; start one"):
            result = swept(recipes.line, executor=busy)
    assert_same(swept(recipes.line), result)


def test_what_a_callback_closes_over_is_not_mistaken(pool):
    """Of two callbacks with the same code a digest can't tell which is which."""

    def recipe_of(number):
        def there(value):
            return np.float32(number) + 0 * value

        def recipe(learning_rate):
            def evaluate(w, part):
                return {"loss": jax.pure_callback(there, jax.ShapeDtypeStruct((), jnp.float32), w[0], vmap_method="legacy_vectorized")}

            return recipes.line(learning_rate)._replace(evaluate=evaluate)

        return recipe

    for number in (1.0, 2.0):
        result = swept(recipe_of(number), executor=pool, chunk_size=1)
        assert set(result.table["train/loss"].tolist()[:8]) == {number}
