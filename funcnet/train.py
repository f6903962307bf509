"""Training: a run is a pure function of (hyperparameters, key, data).

`training` builds the triple of pure functions for supervised training; any other triple of the same form can be trained too. `fit`
trains one run. It is made of `start`, `advance` and `measure`, which a sweep maps over many variants.
"""

import functools
import math
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check
from funcnet.data import AnyDataset, FirstExamples, Split, WeightedDataset, as_examples, as_split, example_shape, minibatch
from funcnet.layers import Layer, Shapes, as_shapes, check_symbols, outline, outputs_of
from funcnet.leaves import check_structure
from funcnet.losses import LOSSES, check_targets, each_loss, is_known, sees_batch, whole_loss
from funcnet.metrics import METRICS, Metric, check_metric_targets, direction, known_name, weighted_mean
from funcnet.optimizers import Optimizer, apply_updates, taken
from funcnet.padded import Padded, checked, is_padded
from funcnet.penalties import Penalty
from funcnet.tree import Params, PyTree, all_finite, examples_of, finite_leaves, is_inexact, is_several, next_count, where

Metrics = dict[str, jax.Array]
UNWEIGHTED = "unweighted_loss"  # reported beside "loss" for a part with weights
OneMetric: TypeAlias = str | Metric | tuple[str | Metric, Mapping[str, Any]]  # ("f1", {"average": "binary"}) has settings
OneLoss: TypeAlias = str | Callable[..., jax.Array] | tuple[str | Callable[..., jax.Array], Mapping[str, Any]]

_EVALUATION_BATCHES = (32, 1024)  # least and most examples a model sees at once in evaluation: its memory doesn't grow with the data


class _Functions(NamedTuple):
    init: Callable[[jax.Array], PyTree]
    step: Callable[[PyTree, Any, jax.Array], tuple[PyTree, Metrics]]
    evaluate: Callable[[PyTree, Any], Metrics]


class Training(_Functions):
    """A triple of pure functions that trains one run; it unpacks as `init, step, evaluate = training`.

    init(key) -> state: any pytree.
    step(state, batch, key) -> (state, metrics): batch is a `Dataset` of batch_size examples, or a `WeightedDataset`;
    metrics is a dict of scalars.
    evaluate(state, dataset) -> metrics: a dict of scalars.

    Three more fields may be given by name, and `_replace` keeps them:

    check_data(split) -> None: raises if concrete data is not usable; called once before training.
    predict(state, x) -> predictions: the model's outputs for a set of examples.
    modes: {metric: "min" or "max"}, whether a small or a large value of a metric of evaluate is good.

    Example:
      >>> count = Training(lambda key: 0, lambda state, batch, key: (state + 1, {}), lambda state, data: {"steps": state}, modes={"steps": "max"})
      >>> init, step, evaluate = count
      >>> twice = count._replace(step=lambda state, batch, key: (state + 2, {}))
      >>> twice.step(0, None, None)[0], twice.modes
      (2, {'steps': 'max'})
    """

    check_data: Callable[[Split], None] | None
    predict: Callable[[PyTree, Any], jax.Array] | None
    modes: Mapping[str, str]

    def __new__(
        cls,
        init: Callable[[jax.Array], PyTree],
        step: Callable[..., tuple[PyTree, Metrics]],
        evaluate: Callable[..., Metrics],
        *,
        check_data: Callable[[Split], None] | None = None,
        predict: Callable[[PyTree, Any], jax.Array] | None = None,
        modes: Mapping[str, str] | None = None,
    ) -> "Training":
        self = super().__new__(cls, init, step, evaluate)
        self.check_data, self.predict, self.modes = check_data, predict, dict(modes or {})
        return self

    def _replace(self, **fields: Any) -> "Training":
        own = {**self._asdict(), "check_data": self.check_data, "predict": self.predict, "modes": self.modes}
        return Training(**{**own, **fields})


class TrainState(NamedTuple):
    """The state of a training made by `training` or `minimization`."""

    params: Params
    optimizer_state: PyTree
    step: jax.Array  # shape (), int32: steps taken so far


class Fit(NamedTuple):
    """What `fit` returns."""

    state: PyTree  # after the last step that left everything finite
    curves: dict[str, jax.Array]  # each (evaluations,): "step", "train/loss", "validation/loss", ...


def penalized(model: Layer, loss: Callable[..., jax.Array], penalty: Penalty | None = None) -> Callable[..., jax.Array]:
    """The objective of supervised training: the batch mean of the loss, plus the penalty once.

    Args:
      model: a `Layer`.
      loss: (prediction, target) -> scalar, for one example.
      penalty: params -> scalar.

    Returns:
      objective(params, batch, *, key=None) -> scalar. A batch is (x, y), with the examples on the first axis, or
      (x, y, weights) for a weighted mean, which is 0 if all weights are. With a key the model is in training mode (dropout is on).

    Example:
      >>> from funcnet import layers, losses, penalties
      >>> objective = penalized(layers.dense(1, initializer="ones"), losses.squared_error, penalties.l2(0.5))
      >>> params = {"weight": jnp.array([[2.0]]), "bias": jnp.array([0.0])}
      >>> print(objective(params, (jnp.array([[1.0], [2.0]]), jnp.array([[2.0], [2.0]]))))
      4.0
    """
    check.callables("penalized", model, ("init", "apply"), "model must be a Layer, such as mlp((64, 10))")

    def objective(params: Params, batch: AnyDataset, *, key: jax.Array | None = None) -> jax.Array:
        x, y, *weights = tuple(batch)
        prediction = outputs_of(model, params, _examples_last(_inputs(x)), key=key)
        mean = _batch_loss(loss, prediction, y, *weights, key=key)
        return mean if penalty is None else mean + penalty(params).astype(mean.dtype)

    return objective


def _batch_loss(
    loss: Callable[..., jax.Array], prediction: Any, y: jax.Array, weights: jax.Array | None = None, *, key: jax.Array | None
) -> jax.Array:
    """The weighted mean loss of a minibatch; 0 if all its examples have weight 0."""
    if weights is None:
        return _mean_loss("objective", loss, prediction, y, key=key)
    counts = jnp.any(jnp.asarray(weights) != 0)
    mean = _mean_loss("objective", loss, prediction, y, jnp.where(counts, weights, 1), key=key)
    return jnp.where(counts, mean, 0)


def training(
    model: Layer,
    loss: OneLoss,
    optimizer: Optimizer,
    *,
    in_shape: Shapes,
    penalty: Penalty | None = None,
    metrics: OneMetric | Mapping[str, OneMetric] | Iterable[OneMetric] | None = None,
    params: Params | None = None,
) -> Training:
    """Supervised training of a model.

    Args:
      model: a `Layer`, such as `mlp((64, 10))`.
      loss: (prediction, target) -> scalar, for one example, or a name in `LOSSES`, or a pair with settings: ("huber", {"delta": 0.3}).
        If it has a parameter `key=None`, it gets a key in training. If the model returns a pytree, that is the prediction. A loss
        marked by `batch_loss` sees the whole batch.
      optimizer: an `Optimizer`, or another library's gradient transformation, also one with a line search or one that uses the loss.
      in_shape: shape of one example; for several inputs, their shapes in a dict or tuple like x; for sequences of different lengths,
        `Padded((time, *rest), ())`. Examples stored in float16 are cast to float32; a model that is to compute in float16 must cast
        them back.
      penalty: params -> scalar, added to the objective. The loss that a step reports includes it, every other reported loss doesn't.
      metrics: a dict of functions of (predictions, targets) over a whole set, written in jax.numpy, by the names to report them
        under; or one or several names in `METRICS` or functions that have a name. A pair has settings:
        ("f1", {"average": "binary"}). Where examples don't all count the same (weights, `num_examples`, folds of several sizes), only
        metrics with a parameter `weights` are reported; those of `METRICS` have it.
      params: the initial parameters, such as those of a trained net; None to draw them by the model's init.

    Returns:
      A `Training` whose state is `TrainState(params, optimizer_state, step)`. Its step reports the objective as "loss"; its
      evaluation reports the loss without penalty or dropout, and the metrics, weighted for a `WeightedDataset`. Its `modes` hold
      "min" or "max" for the loss, the functions of `METRICS` and those marked by `metric`.

    Raises:
      TypeError: an argument has the wrong type.
      ValueError: a name is unknown. A model that doesn't fit in_shape, or params that aren't the model's, raise at init.

    Example:
      >>> from funcnet import Dataset, layers, losses, optimizers
      >>> linear = training(layers.dense(1), losses.squared_error, optimizers.sgd(0.5), in_shape=(2,))
      >>> state = linear.init(jax.random.key(0))
      >>> batch = Dataset(jnp.ones((4, 2)), jnp.ones((4, 1)))
      >>> state, metrics = linear.step(state, batch, jax.random.key(1))
      >>> print(state.step, sorted(metrics), sorted(linear.evaluate(state, batch)))
      1 ['loss'] ['loss']
    """
    check.callables("training", model, ("init", "apply"), "model must be a Layer, such as mlp((64, 10))")
    check.callables("training", optimizer, ("init", "update"), "such as adam(1e-3); a name becomes one by optimizer(name, learning_rate)")
    loss_fn = check.configured("training", "loss", loss, LOSSES)
    measures, shapes = _metric_fns(metrics), as_shapes("training", in_shape)
    objective = penalized(model, loss_fn, penalty)

    def init_params(key: jax.Array) -> Params:
        return (
            model.init(key, shapes) if params is None else _given_params(params, jax.eval_shape(lambda key: model.init(key, shapes), key))
        )

    init, step = _minimized(init_params, lambda params, batch, key: (objective(params, batch, key=key), {}), optimizer)

    def evaluate(state: TrainState, dataset: AnyDataset) -> Metrics:
        x, y, *weights = tuple(dataset)
        prediction = _predictions(model, state.params, _inputs(x))
        values = {"loss": _mean_loss("evaluate", loss_fn, prediction, y, *weights)}
        rows, y = _examples_first(prediction), jax.tree.map(jnp.asarray, y)
        return values | _measured(measures, rows, y, *weights)

    def predict(state: TrainState, x: Any) -> Any:
        x = _inputs(as_examples("predict", x))
        if example_shape(x) != shapes:
            fix = "x[None] makes a set of one example" if jax.tree.map(jnp.shape, x) == shapes else ""
            fix = "pad(sequences, size) makes them as long" if is_padded(x) and is_padded(shapes) else fix
            raise ValueError(check.message("predict", f"each example of x must have shape {shapes}", example_shape(x), fix))
        for part in jax.tree.leaves(x, is_leaf=is_padded):
            if is_padded(part):
                checked("predict", part, first=True)
        if examples_of(x) == 0:
            one = jax.eval_shape(predict, state, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), x))
            return jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape[1:]), leaf.dtype), one)
        return _examples_first(_predictions(model, state.params, x))

    check_data = functools.partial(_check_data, model, loss_fn, shapes, measures)
    modes = {name: mode for name, mode in {"loss": "min", **{name: direction(fn) for name, fn in measures.items()}}.items() if mode}
    return Training(init, step, evaluate, check_data=check_data, predict=predict, modes=modes)


def minimization(
    init: Callable[[jax.Array], Params],
    objective: Callable[..., Any],
    optimizer: Optimizer,
    evaluate: Callable[[Params, Any], Metrics] | None = None,
    *,
    predict: Callable[[Params, Any], Any] | None = None,
    modes: Mapping[str, str] | None = None,
) -> Training:
    """Training that minimizes any objective: of another library's model, of physics, of reinforcement learning.

    Args:
      init: key -> params, a pytree of floating-point or complex arrays.
      objective: (params, batch) -> loss, shape (); or -> (loss, metrics), where metrics is a dict of scalars that the step reports too.
        If it has a parameter `key`, it gets the step's.
      optimizer: as for `training`.
      evaluate: (params, dataset) -> metrics, a dict of scalars; None to evaluate the objective on the dataset, without a key.
      predict: (params, x) -> predictions, for `predict` of a result; None if there are none.
      modes: {metric: "min" or "max"}, whether a small or a large value of a metric is good; known for "loss" and the names in `METRICS`.

    Returns:
      A `Training` whose state is `TrainState(params, optimizer_state, step)`. Its step reports the objective as "loss".

    Raises:
      TypeError: an argument is no function, or the objective needs a key and evaluate is None; when it is traced, the objective doesn't
        return one real number.

    Example:
      >>> from funcnet import Dataset, optimizers
      >>> def objective(params, batch):
      ...     return jnp.mean((params["slope"] * batch.x - batch.y) ** 2)
      >>> line = minimization(lambda key: {"slope": jnp.zeros(())}, objective, optimizers.sgd(0.1))
      >>> state = line.init(jax.random.key(0))
      >>> state, metrics = line.step(state, Dataset(jnp.array([1.0, 2.0]), jnp.array([3.0, 6.0])), jax.random.key(1))
      >>> print(state.params, metrics)
      {'slope': Array(1.5, dtype=float32...)} {'loss': Array(22.5, dtype=float32)}
    """
    where = "minimization"
    check.callables(where, optimizer, ("init", "update"), "such as adam(1e-3); a name becomes one by optimizer(name, learning_rate)")
    for name, function, signature in (
        ("init", init, "key -> params"),
        ("objective", objective, "(params, batch) -> loss"),
        *([] if evaluate is None else [("evaluate", evaluate, "(params, dataset) -> metrics")]),
        *([] if predict is None else [("predict", predict, "(params, x) -> predictions")]),
    ):
        if not callable(function):
            raise TypeError(check.message(where, f"{name} must be a function, {signature}", repr(function)))
    key = check.parameters(objective).get("key")
    if evaluate is None and key is not None and key.default is key.empty:
        raise TypeError(
            check.message(where, "needs evaluate= where the objective needs a key", None, "or give the key a default, key=None")
        )

    takes_key = key is not None

    def outcome(params: Params, batch: Any, key: jax.Array) -> tuple[jax.Array, Metrics]:
        return _outcome(objective(params, batch, key=key) if takes_key else objective(params, batch))

    def evaluate_state(state: TrainState, dataset: Any) -> Metrics:
        if evaluate is not None:
            return evaluate(state.params, dataset)
        loss, metrics = _outcome(objective(state.params, dataset))
        return {"loss": loss, **metrics}

    predict_state = None if predict is None else lambda state, x: predict(state.params, x)
    return Training(*_minimized(init, outcome, optimizer), evaluate_state, predict=predict_state, modes={"loss": "min", **(modes or {})})


def _outcome(found: Any) -> tuple[jax.Array, Metrics]:
    """The loss and the metrics that an objective returned."""
    loss, metrics = found if isinstance(found, tuple) and len(found) == 2 else (found, {})
    try:
        kind = jax.eval_shape(jnp.asarray, loss)
    except (TypeError, ValueError):
        kind = None
    if kind is None or kind.shape != () or not jnp.issubdtype(kind.dtype, jnp.floating):
        got = type(loss).__name__ if kind is None else f"{kind.dtype}{list(kind.shape)}"
        fix = "such as a jnp.mean over the batch; a pair is (loss, metrics)"
        raise TypeError(check.message("minimization", "the objective must return one floating-point number", got, fix))
    if not isinstance(metrics, Mapping) or "loss" in metrics:
        got = f"{sorted(metrics)}" if isinstance(metrics, Mapping) else type(metrics).__name__
        raise TypeError(
            check.message("minimization", "the objective's metrics must be a dict without 'loss'", got, "loss is reported anyway")
        )
    return loss, dict(metrics)


def _minimized(
    init_params: Callable[[jax.Array], Params],
    objective: Callable[[Params, Any, jax.Array], tuple[jax.Array, Metrics]],
    optimizer: Optimizer,
) -> tuple[Callable[[jax.Array], TrainState], Callable[[TrainState, Any, jax.Array], tuple[TrainState, Metrics]]]:
    """The init and the step of a training by gradients; objective(params, batch, key) -> (loss, metrics)."""

    def init(key: jax.Array) -> TrainState:
        check.random_key("init", key)
        params = init_params(key)
        return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))

    def step(state: TrainState, batch: Any, key: jax.Array) -> tuple[TrainState, Metrics]:
        def outcome(params: Params) -> tuple[jax.Array, Metrics]:
            return objective(params, batch, key)

        (value, metrics), grad = jax.value_and_grad(outcome, has_aux=True)(state.params)
        extra = taken(optimizer.update, {"value": value, "grad": grad, "value_fn": lambda params: outcome(params)[0]})
        way_up = jax.tree.map(jnp.conj, grad)  # for complex parameters JAX returns the conjugate
        updates, optimizer_state = optimizer.update(way_up, state.optimizer_state, state.params, **extra)
        return TrainState(apply_updates(state.params, updates), optimizer_state, next_count(state.step)), {"loss": value, **metrics}

    return init, step


def _given_params(params: Params, like: Params) -> Params:
    """Checks that params are a model's, and returns them as JAX arrays."""
    check_structure("training", "params", params, "the model's", like, "such as fit(...).state.params")

    def one(path: Any, own: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        array = jnp.asarray(own)
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            rule = f"params at {jax.tree_util.keystr(path, simple=True, separator='/')!r} must be {leaf.dtype}{list(leaf.shape)}"
            raise ValueError(check.message("training", rule, f"{array.dtype}{list(array.shape)}", "params of the same model and in_shape"))
        return array

    return jax.tree_util.tree_map_with_path(one, params, like)


def fit(
    training: Training,
    data: Split | AnyDataset,
    *,
    key: jax.Array,
    num_steps: int | None = None,
    num_epochs: int | None = None,
    batch_size: int | None,
    eval_every: int | None = None,
) -> Fit:
    """Trains one run. It is a pure function: it can be jitted, vmapped and differentiated, also with respect to hyperparameters.

    Args:
      training: a `Training`, or any triple of functions of its form.
      data: a `Split`, or a `Dataset` or `WeightedDataset` to train on without validation.
      key: a JAX random key for the initial parameters, the order of the data, and dropout.
      num_steps: at least 1; either this or num_epochs.
      num_epochs: how often to go through the training examples, at least 1: num_epochs * (examples // batch_size) steps, or one
        step per epoch if batch_size is None.
      batch_size: examples per step, at most the number of training examples; None takes all of them, in order.
      eval_every: steps between evaluations, which the curves show; None evaluates once, after the last step.

    Returns:
      `Fit(state, curves)`. If a step makes the loss or the state non-finite, the state stays as it was before, and the curves are
      NaN from there on.

    Raises:
      ValueError: the data is not usable or doesn't fit the model, or a number is out of range.
      TypeError: training isn't a triple of functions, or key isn't a JAX random key.

    Example:
      >>> from funcnet import Dataset, layers, losses, optimizers
      >>> line = training(layers.dense(1), losses.squared_error, optimizers.adam(0.1), in_shape=(1,))
      >>> x = jnp.linspace(-1, 1, 32)[:, None]
      >>> result = fit(line, Dataset(x, 2 * x + 1), key=jax.random.key(0), num_steps=300, batch_size=8, eval_every=100)
      >>> print(result.curves["step"], result.curves["train/loss"][-1] < 1e-3)
      [100 200 300] True
    """
    training = as_training("fit", training)
    check.random_key("fit", key)
    check_length("fit", num_steps, num_epochs)
    parts = as_split("fit", data)
    num_examples = examples_of(parts.train.y)
    check_batch_size("fit", batch_size, num_examples)
    num_steps = steps_of(num_steps, num_epochs, num_examples, batch_size)
    eval_every = num_steps if eval_every is None else check.whole("fit", "eval_every", eval_every, 1)
    check_data(training, parts)

    def run_all(parts: Split, key: jax.Array) -> Fit:
        keys = run_keys(key)

        def one_step(run: Run, step: jax.Array) -> tuple[Run, None]:
            return advance(training, run, parts, draw(keys, step, batch_size, num_examples), step), None

        def block(run: Run, steps: jax.Array) -> tuple[Run, Metrics]:
            run, _ = jax.lax.scan(one_step, run, steps)
            return run, measure(training, run, parts)

        run = start(training, keys)
        steps = jnp.arange(num_steps, dtype=jnp.int32)
        whole = num_steps - num_steps % eval_every
        run, curves = jax.lax.scan(block, run, steps[:whole].reshape(-1, eval_every))
        if whole < num_steps:
            run, last = block(run, steps[whole:])
            curves = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), curves, last)
        return Fit(run.state, {"step": jnp.array(evaluation_steps(num_steps, eval_every), jnp.int32), **curves})

    fitted: Fit = jax.jit(run_all)(jax.tree.map(jnp.asarray, parts), key)  # one program compiles in a third of the time of its pieces
    return fitted


class RunKeys(NamedTuple):
    """The three streams of randomness of one run."""

    init: jax.Array
    order: jax.Array
    step: jax.Array


class Run(NamedTuple):
    """One run while it trains."""

    state: PyTree  # of the training; once the run has diverged, the last finite one
    diverged: jax.Array  # shape (), int32: steps completed before something became non-finite, or -1
    watched: jax.Array  # shape (leaves,), bool: which leaves of the state were finite at the start


def run_keys(key: jax.Array) -> RunKeys:
    return RunKeys(*(jax.random.fold_in(key, i) for i in range(3)))


def start(training: Training, keys: RunKeys) -> Run:
    """A run before its first step."""
    state = training.init(keys.init)
    return Run(state, jnp.full((), -1, jnp.int32), finite_leaves(state))


def still_finite(run: Run, state: PyTree) -> jax.Array:
    """Whether every leaf of a state is finite that was finite at the start of the run, shape (), bool.

    This is the one rule for divergence: a loss that is not finite, or a leaf that no longer is. A leaf that wasn't finite at the start
    is not checked: it may be a record such as "the best loss so far", before there is one.
    """
    leaves = [jnp.isfinite(leaf) | ~run.watched[i] for i, leaf in enumerate(jax.tree.leaves(state)) if is_inexact(leaf)]
    return jnp.all(jnp.concatenate([leaf.ravel() for leaf in leaves])) if leaves else jnp.array(True)


class Draws(NamedTuple):
    """The random draws of one step."""

    rows: jax.Array | None  # shape (batch_size,), int32: the examples of its minibatch; None for all of them
    key: jax.Array  # for dropout


def draw(keys: RunKeys, step: jax.Array, batch_size: int | None, num_examples: jax.Array | int) -> Draws:
    """A step's draws, computed without running the steps before it; a sweep maps this over a stretch of steps at once."""
    rows = None if batch_size is None else minibatch(keys.order, step, num_examples, batch_size)
    return Draws(rows, jax.random.fold_in(keys.step, step))


def take_step(training: Training, state: PyTree, data: Split, draws: Draws, num_examples: jax.Array | None) -> tuple[PyTree, jax.Array]:
    """Takes one step, and also returns whether its loss was finite.

    Args:
      num_examples: shape (), traced: how many of the training examples the run may use; None for all of them.

    Returns:
      The state, and shape (), bool; the state itself may have become non-finite.
    """
    state, metrics = training.step(state, _batch(data.train, draws.rows, num_examples), draws.key)
    return state, all_finite(metrics.get("loss", ()))


def advance(training: Training, run: Run, data: Split, draws: Draws, step: jax.Array) -> Run:
    """Takes one step; a run that becomes non-finite keeps the state that it had."""
    state, fine = take_step(training, run.state, data, draws, None)
    return settle(run, state, fine & still_finite(run, state), step)


def settle(run: Run, state: PyTree, fine: jax.Array, step: jax.Array) -> Run:
    """Gives the run its new state if all is finite; otherwise it keeps its state, and is marked as diverged at this step."""
    diverged = jnp.where(fine | (run.diverged >= 0), run.diverged, step.astype(jnp.int32))
    return run._replace(state=where(diverged < 0, state, run.state), diverged=diverged)


def measure(training: Training, run: Run, data: Split) -> Metrics:
    """Every metric of the training and validation parts; NaN once the run has diverged."""
    return {name: jnp.where(run.diverged < 0, value, jnp.nan) for name, value in metrics_of(training, run.state, data, None).items()}


def metrics_of(training: Training, state: PyTree, data: Split, num_examples: jax.Array | None) -> Metrics:
    """Every metric of the training and validation parts.

    Args:
      num_examples: as in `take_step`.
    """
    train: Any = data.train if num_examples is None else examples_seen(data.train, num_examples)
    parts = {"train": train} if data.validation is None else {"train": train, "validation": data.validation}
    return {
        f"{name}/{metric}": _floating(value) for name, part in parts.items() for metric, value in measured(training, state, part).items()
    }


def measured(training: Training, state: PyTree, dataset: Any) -> Metrics:
    """The metrics of a training on a data set; with weights, also the unweighted loss."""
    values = training.evaluate(state, dataset)
    if reports_both(dataset, values):
        alike = dataset._replace(weights=(jnp.asarray(dataset.weights) != 0).astype(jnp.result_type(float)))
        values = {**values, UNWEIGHTED: training.evaluate(state, alike)["loss"]}
    return values


def reports_both(dataset: Any, names: Collection[str]) -> bool:
    """Whether the loss is among these metrics, and is reported both weighted and unweighted."""
    return isinstance(dataset, WeightedDataset) and not isinstance(dataset, FirstExamples) and "loss" in names


def evaluation_steps(num_steps: int, eval_every: int) -> list[int]:
    """The steps after which to evaluate: every eval_every steps, and the last."""
    return [*range(eval_every, num_steps, eval_every), num_steps]


def as_training(where: str, triple: Any) -> Training:
    """A `Training` from any triple of functions."""
    if isinstance(triple, Training) and all(map(callable, triple)):
        return triple
    if not isinstance(triple, tuple) or len(triple) != 3 or not all(map(callable, triple)):
        got = f"{type(triple).__name__} of {len(triple)}" if isinstance(triple, tuple | list) else type(triple).__name__
        raise TypeError(
            check.message(where, "a training must be a triple of functions (init, step, evaluate)", got, "training(...) makes one")
        )
    return Training(*triple)


def check_length(where: str, num_steps: Any, num_epochs: Any) -> None:
    """Checks that exactly one of num_steps and num_epochs is given, and that it is a whole number of at least 1."""
    given = {name: value for name, value in (("num_steps", num_steps), ("num_epochs", num_epochs)) if value is not None}
    if len(given) != 1:
        got = " and ".join(f"{name}={value}" for name, value in given.items()) or "neither"
        raise TypeError(check.message(where, "needs either num_steps or num_epochs", got, "an epoch is examples // batch_size steps"))
    for name, value in given.items():
        check.whole(where, name, value, 1)


def steps_of(num_steps: int | None, num_epochs: int | None, num_examples: int, batch_size: int | None) -> int:
    """The number of steps: num_steps, or the steps of num_epochs epochs; the arguments must have been checked."""
    if num_steps is not None:
        return int(num_steps)
    assert num_epochs is not None
    return int(num_epochs) * (1 if batch_size is None else num_examples // batch_size)


def check_batch_size(where: str, batch_size: int | None, num_examples: int) -> None:
    if batch_size is not None:
        fix = "batch_size=None takes them all"
        check.whole(where, "batch_size", batch_size, 1, fix=fix)
        if batch_size > num_examples:
            raise ValueError(check.message(where, f"batch_size must be at most the {num_examples} examples to train on", batch_size, fix))


def check_data(training: Training, data: Split, state: PyTree = None) -> None:
    """Runs the training's check of concrete data, if it has one.

    Args:
      state: the shapes of a state, if they are known; they save the check of `training` a trace.
    """
    own = training.check_data
    if own is None or any(map(check.is_traced, jax.tree.leaves(data))):
        return
    known = isinstance(own, functools.partial) and own.func is _check_data and isinstance(state, TrainState)
    own(data, **({"params": state.params} if known else {}))


def _check_data(
    model: Layer,
    loss: Callable[..., jax.Array],
    in_shape: tuple[int, ...],
    metrics: Mapping[str, Metric],
    data: Split,
    params: Params = None,
) -> None:
    got = example_shape(data.train.x)
    if got != in_shape:
        fix = "x[:, None] gives every example one axis" if not got else "say so with training(..., in_shape=)"
        raise ValueError(check.message("training", f"each example must have in_shape {in_shape}", got, fix))
    dtypes = jax.tree.map(lambda leaf: leaf.dtype, jax.eval_shape(_inputs, data.train.x))
    outputs, looks_up = outline(model, in_shape, dtypes, params)
    if outputs is None:
        of_one = ["a loss of LOSSES"] if is_known(loss) else []
        of_one += [f"the metric {name!r}" for name, metric in metrics.items() if known_name(metric) is not None]
        if of_one:
            fix = "a function of your own can pick one of them"
            raise TypeError(check.message("training", f"{of_one[0]} takes one array of predictions", "a model that gives several", fix))
    for name, part in [(name, part) for name, part in zip(Split._fields, data, strict=True) if part is not None]:
        if looks_up:
            check_symbols(f"training: {name}", model, jax.tree.map(np.asarray, part.x))
        if outputs is not None:
            y = _steps_wanted(name, outputs, part)
            check_targets(loss, outputs, y)
            for metric in metrics.values():
                check_metric_targets(metric, outputs, y)


def _steps_wanted(name: str, outputs: Shapes, part: AnyDataset) -> Any:
    """The targets of a part as the model's outputs need them: for `Padded` outputs, with the lengths of the inputs if they are known.

    Raises:
      ValueError: targets have other lengths than the inputs.
    """
    if not is_padded(outputs):
        return part.y
    sequences = [own for own in jax.tree.leaves(part.x, is_leaf=is_padded) if is_padded(own)]
    known = bool(sequences) and all(np.array_equal(own.length, sequences[0].length) for own in sequences)
    if known and is_padded(part.y) and not np.array_equal(part.y.length, sequences[0].length):
        i = int(np.argmax(part.y.length != sequences[0].length))
        got = f"{part.y.length[i]} and {sequences[0].length[i]} for example {i}"
        raise ValueError(check.message(f"training: {name}", "y must have the lengths of x", got))
    return Padded(part.y, sequences[0].length) if known and not is_padded(part.y) else part.y


def _metric_fns(metrics: OneMetric | Mapping[str, OneMetric] | Iterable[OneMetric] | None) -> dict[str, Metric]:
    """The functions by the names they are reported under."""
    if isinstance(metrics, Mapping):
        named = list(metrics.items())
    else:
        alone = isinstance(metrics, str) or callable(metrics) or check.is_configured(metrics)
        several: Any = [metrics] if alone else metrics or ()
        named = [(_metric_name(metric), metric) for metric in several]
    fns: dict[str, Metric] = {}
    for name, given in named:
        if name in ("loss", UNWEIGHTED):
            raise ValueError(check.message("training", "a metric must have a name of its own", repr(name), "the loss is always reported"))
        if name in fns:
            raise ValueError(
                check.message("training", "every metric must have a name of its own", f"{name!r} twice", "give a dict of name to function")
            )
        fns[name] = check.configured("training", "metric", given, METRICS)
        module = getattr(check.bare(fns[name]), "__module__", None) or ""
        if module.partition(".")[0] == "sklearn":
            raise TypeError(check.message("training", f"the metric {name!r} must be written in jax.numpy", "scikit-learn's", _REWRITE))
    return fns


_REWRITE = 'as those of METRICS are, such as "accuracy"; predict(...) gives NumPy code what it needs'


def _metric_name(metric: OneMetric) -> str:
    """The name to report a metric under if none is given: that of the function."""
    if isinstance(metric, tuple) and check.is_configured(metric):
        return _metric_name(metric[0])
    if isinstance(metric, str):
        return metric
    name = getattr(check.bare(metric), "__name__", "<lambda>") if callable(metric) else repr(metric)
    if name == "<lambda>":
        fix = 'such as metrics={"worst": function}'
        raise ValueError(check.message("training", "a metric must have a name", "a function without one", fix))
    return name


def _measured(measures: Mapping[str, Metric], predictions: jax.Array, y: jax.Array, weights: jax.Array | None = None) -> Metrics:
    """Every metric. With weights, one that takes none is left out with a warning: it can't tell which examples count."""
    left_out = [name for name, metric in measures.items() if weights is not None and "weights" not in check.parameters(metric)]
    if left_out:
        rule = "a metric must take weights=None, what each example counts, to be reported where not all count alike (weights, num_examples, folds of several sizes)"
        got = f"{', '.join(map(repr, left_out))} without"
        warnings.warn(check.message("evaluate", rule, got, "left out; those of METRICS take it"), RuntimeWarning, stacklevel=2)
    given = {} if weights is None else {"weights": weights}
    values = {}
    for name in [name for name in measures if name not in left_out]:
        try:
            values[name] = measures[name](predictions, y, **given)
        except jax.errors.JAXTypeError as error:
            said = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            raise TypeError(check.message("evaluate", f"the metric {name!r} must be written in jax.numpy", said, _REWRITE)) from error
    return values


def _batch(train: AnyDataset, rows: jax.Array | None, num_examples: jax.Array | None) -> Any:
    if rows is None:
        return train if num_examples is None else examples_seen(train, num_examples)
    return jax.tree.map(lambda part: part.at[rows].get(mode="promise_in_bounds"), train)


def examples_seen(dataset: AnyDataset, num_examples: jax.Array) -> WeightedDataset:
    """The data set in which only the first num_examples count."""
    inside = jnp.arange(examples_of(dataset.y), dtype=jnp.int32) < num_examples
    if isinstance(dataset, WeightedDataset):
        return dataset._replace(weights=jnp.where(inside, dataset.weights, 0))
    return FirstExamples(*dataset, inside.astype(jnp.result_type(float)))


def _inputs(x: Any) -> Any:
    """Examples as the model gets them: float16 becomes float32, because products in float16 overflow."""

    def one(x: Any) -> jax.Array:
        given: jax.Array = jnp.asarray(x)
        return given.astype(jnp.float32) if given.dtype == jnp.float16 else given

    return jax.tree.map(one, x) if is_several(x) else one(x)


def _examples_last(x: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.moveaxis(jnp.asarray(leaf), 0, -1), x)


def _examples_first(predictions: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), predictions)


_LOSS_STREAM = 0x6C6F7373  # folded into a step's key for the loss; the model has the key itself


def _mean_loss(
    where: str,
    loss: Callable[..., jax.Array],
    prediction: Any,
    y: jax.Array,
    weights: jax.Array | None = None,
    *,
    key: jax.Array | None = None,
) -> jax.Array:
    """The mean loss of a set, shape (); prediction has the examples last, y first; key is the step's."""
    own = jax.random.fold_in(key, _LOSS_STREAM) if key is not None and "key" in check.parameters(loss) else None
    if sees_batch(loss):
        return whole_loss(loss, _examples_first(prediction), jax.tree.map(jnp.asarray, y), weights, own)
    return weighted_mean(where, each_loss(loss, prediction, _examples_last(y), own), weights)


def _predictions(model: Layer, params: Params, x: Any) -> Any:
    """The model's outputs for a whole set, examples last, computed a batch at a time.

    A batch holds about as many numbers as the parameters: with fewer, reading the weights takes most of the time; with more, the
    intermediate results of a small model don't fit in the cache.
    """
    examples, inputs = examples_of(x), jax.tree.leaves(x)
    numbers, size = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (params, x))
    batches = math.ceil(examples / np.clip(numbers * examples // size, *_EVALUATION_BATCHES))
    if batches == 1:
        return outputs_of(model, params, _examples_last(x))
    size = math.ceil(examples / batches)
    if sum(leaf.size * leaf.dtype.itemsize for leaf in inputs) > _LARGE:  # may be memory-mapped: nothing of its size may be made
        return _predictions_of_slices(model, params, x, size, batches)

    def cut(leaf: jax.Array) -> jax.Array:
        filled = jnp.pad(leaf, ((0, batches * size - examples), *((0, 0),) * (leaf.ndim - 1)))
        return filled.reshape(batches, size, *leaf.shape[1:])

    each = jax.lax.map(lambda part: outputs_of(model, params, _examples_last(part)), jax.tree.map(cut, x))

    def join(leaf: jax.Array) -> jax.Array:
        joined = jnp.moveaxis(leaf, 0, -2)  # (*outputs, batches, size)
        return joined.reshape(*joined.shape[:-2], -1)[..., :examples]

    return jax.tree.map(join, each)


def _predictions_of_slices(model: Layer, params: Params, x: Any, size: int, batches: int) -> Any:
    """As `_predictions`, but in slices of x, of which the last overlaps the one before."""
    examples = examples_of(x)
    begins = np.minimum(np.arange(batches) * size, examples - size)

    def one(begin: jax.Array) -> Any:
        part = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, begin, size), x)
        return outputs_of(model, params, _examples_last(part))

    def join(leaf: jax.Array) -> jax.Array:
        each = jnp.moveaxis(leaf, 0, -2)  # (*outputs, batches, size)
        whole = each[..., :-1, :].reshape(*each.shape[:-2], -1)
        return jnp.concatenate([whole, each[..., -1, batches * size - examples :]], axis=-1)

    return jax.tree.map(join, jax.lax.map(one, jnp.asarray(begins)))


_LARGE = 2**28  # bytes of examples


def _floating(value: jax.Array) -> jax.Array:
    value = jnp.asarray(value)
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.result_type(float))
