"""Sweeps as scikit-learn estimators: `fit` trains many variants at once and chooses one, also in a pipeline or a search.

`import funcnet` doesn't load this module; `funcnet.sklearn` does, and needs scikit-learn (the extra [experiments]).
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import check
from funcnet.data import AnyDataset, Dataset, Split, WeightedDataset
from funcnet.layers import mlp
from funcnet.losses import cross_entropy, squared_error
from funcnet.metrics import METRICS
from funcnet.optimizers import adam
from funcnet.penalties import l2 as l2_penalty
from funcnet.policy import Policy
from funcnet.spaces import Variants, as_variants, grid
from funcnet.sweeps import SweepResult, sweep
from funcnet.train import Training, training
from funcnet.tree import PyTree

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise ImportError(check.needs_extra("funcnet.sklearn", "scikit-learn", "experiments")) from error

__all__ = ["SweepClassifier", "SweepRegressor", "classifier_recipe", "regressor_recipe"]

Recipe = Callable[..., Training]
_BLOCK = 256  # examples in a block for prediction: as all blocks have this size, a prediction doesn't depend on the other examples
_EPOCHS = 100
_FEW = 128  # data sets of up to so many examples are padded with examples of weight 0: to 64 or 128, and a held-out part to 32 or more


def classifier_recipe(
    in_shape: tuple[int, ...],
    num_outputs: int,
    learning_rate: Any = 1e-2,
    l2: Any = 0.0,
    hidden: tuple[int, ...] = (64,),
    activation: Any = "relu",
    dropout: Any = 0.0,
) -> Training:
    """The default recipe of `SweepClassifier`: a perceptron with hidden layers, trained with Adam.

    Args:
      in_shape: shape of one example.
      num_outputs: number of classes.
      learning_rate: shape (), > 0.
      l2: strength of the penalty on squared weights, >= 0.
      hidden: widths of the hidden layers.
      activation: a name in `ACTIVATIONS`, or a function.
      dropout: share of a hidden layer's units that a step leaves out, in [0, 1).

    Returns:
      A `Training` that also measures the accuracy.

    Example:
      >>> recipe = classifier_recipe((4,), 3, learning_rate=1e-3)
      >>> recipe.predict(recipe.init(jax.random.key(0)), jnp.ones((2, 4))).shape
      (2, 3)
    """
    model = mlp((*hidden, num_outputs), activation, dropout)
    return training(
        model, cross_entropy, adam(learning_rate), in_shape=in_shape, penalty=l2_penalty(l2), metrics={"accuracy": METRICS["accuracy"]}
    )


def regressor_recipe(
    in_shape: tuple[int, ...],
    num_outputs: int,
    learning_rate: Any = 1e-2,
    l2: Any = 0.0,
    hidden: tuple[int, ...] = (64,),
    activation: Any = "relu",
    dropout: Any = 0.0,
) -> Training:
    """The default recipe of `SweepRegressor`: as `classifier_recipe`, but with the squared error.

    Args:
      in_shape: shape of one example.
      num_outputs: number of targets of an example.
      learning_rate: shape (), > 0.
      l2: strength of the penalty on squared weights, >= 0.
      hidden: widths of the hidden layers.
      activation: a name in `ACTIVATIONS`, or a function.
      dropout: share of a hidden layer's units that a step leaves out, in [0, 1).

    Returns:
      A `Training`.

    Example:
      >>> recipe = regressor_recipe((4,), 2, hidden=(8, 8))
      >>> recipe.predict(recipe.init(jax.random.key(0)), jnp.ones((3, 4))).shape
      (3, 2)
    """
    model = mlp((*hidden, num_outputs), activation, dropout)
    return training(model, squared_error, adam(learning_rate), in_shape=in_shape, penalty=l2_penalty(l2))


class _Scaling(NamedTuple):
    """Mean and standard deviation of each column, (columns,) each, float64."""

    mean: np.ndarray
    deviation: np.ndarray

    def apply(self, values: np.ndarray) -> np.ndarray:
        return np.asarray((np.asarray(values, np.float64) - self.mean) / self.deviation)

    def undo(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(np.asarray(values, np.float64) * self.deviation + self.mean)


class _Rows(NamedTuple):
    """Examples, in an order that only depends on their values and the seed; equal ones are neighbours, or merged into one."""

    x: np.ndarray  # (rows, features), float64
    y: np.ndarray  # (rows,), int: indices of classes; or (rows, targets), float64
    weights: np.ndarray | None  # (rows,), float64, > 0; None if all are 1

    def at(self, which: np.ndarray) -> "_Rows":
        return _Rows(self.x[which], self.y[which], None if self.weights is None else self.weights[which])


class _Fitted(NamedTuple):
    """The trained model, and the scaling of its inputs and outputs."""

    result: SweepResult  # that the model is a row of
    row: int
    state: PyTree
    x: _Scaling
    y: _Scaling | None


class _SweepEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """The code that classifier and regressor share."""

    _default_recipe: Recipe
    _classifies: bool

    def __init__(
        self,
        recipe: Recipe | None = None,
        variants: Variants | Iterable[Mapping[str, Any]] | None = None,
        *,
        num_epochs: int | None = None,
        num_steps: int | None = None,
        batch_size: int | None = 128,
        validation: float = 0.2,
        standardize: bool = True,
        metric: str | None = None,
        mode: str | None = None,
        refit: bool = True,
        random_state: Any = None,
        eval_every: int | None = None,
        replicates: int = 1,
        keep_best: bool = False,
        prune: Policy | None = None,
        evolve: Policy | None = None,
        max_seconds: float | None = None,
        randomness: str = "shared",
        chunk_size: int | None = None,
        memory_budget: int | None = None,
        store: Any = None,
        executor: Any = None,
        callback: Any = None,
        progress: Any = False,
    ):
        self.recipe = recipe
        self.variants = variants
        self.num_epochs = num_epochs
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.validation = validation
        self.standardize = standardize
        self.metric = metric
        self.mode = mode
        self.refit = refit
        self.random_state = random_state
        self.eval_every = eval_every
        self.replicates = replicates
        self.keep_best = keep_best
        self.prune = prune
        self.evolve = evolve
        self.max_seconds = max_seconds
        self.randomness = randomness
        self.chunk_size = chunk_size
        self.memory_budget = memory_budget
        self.store = store
        self.executor = executor
        self.callback = callback
        self.progress = progress

    def _fit(self, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, num_outputs: int) -> None:
        """Chooses one of the variants, and trains it again on everything.

        Args:
          x: (examples, features).
          y: (examples,), int, or (examples, targets).
          weights: (examples,), >= 0, or None.
          num_outputs: classes or targets.
        """
        where = type(self).__name__
        check.in_range(where, "validation", self.validation, 0, 1)
        if self.num_epochs is not None and self.num_steps is not None:
            raise TypeError(check.message(where, "needs num_epochs or num_steps, not both", f"{self.num_epochs} and {self.num_steps}"))
        if self.refit and self.evolve is not None:
            rule, fix = "refit must be False with evolve", "refit=False keeps the state that the population found"
            raise ValueError(check.message(where, rule, f"refit={self.refit}", fix))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        recipe = self._bound_recipe(x.shape[1], num_outputs)
        variants = (
            grid(learning_rate=[1e-3, 3e-3, 1e-2, 3e-2], l2=[0.0, 1e-4, 1e-3])
            if self.variants is None
            else as_variants(where, self.variants)
        )
        rows = _ordered(x, y, weights, seed, merge=self.recipe is None or weights is not None)
        train, held = self._parts(rows)
        self.result_ = self._trained(recipe, variants, train, held, seed, options=dict(
            metric=self.metric, mode=self.mode, keep=1, keep_best=self.keep_best, prune=self.prune, evolve=self.evolve,
            eval_every=self.eval_every, replicates=self.replicates, max_seconds=self.max_seconds, store=self.store,
            callback=self.callback,
        ))[0]  # fmt: skip
        best = self.result_.best()
        self.best_index_, self.best_params_ = int(best.variant), best.hyperparameters
        self.cv_results_ = _cv_results(self.result_, len(variants))
        self.best_score_ = float(self.cv_results_["mean_test_score"][self.best_index_])
        result, row, state = self.result_, best.row, best.state
        scaling, steps = self._scalings(train), int(self.result_.table["steps"][best.row])
        if self.keep_best:
            steps = int(self.result_.table["best_step"][best.row])
        if self.refit and held is not None:
            own = {"num_steps": steps} if self.keep_best else {}
            chosen = Variants([_marked(variants[self.best_index_], own)])
            again, steps = self._trained(recipe, chosen, rows, held, seed, options={}, like=self.result_, **own)
            if again.table["status"][0] != "completed":
                rule = "the best variant must stay finite where it is trained on everything"
                raise ValueError(check.message(where, rule, str(again.table["status"][0]), "refit=False keeps the one that was chosen"))
            result, row, state, scaling = again, 0, again.state(0), self._scalings(rows)
        self.n_iter_ = steps
        self._fitted = _Fitted(result, row, jax.tree.map(np.asarray, state), *scaling)
        self._predicts = _Predictor(self._fitted, recipe if self.recipe is None else None)

    def _bound_recipe(self, features: int, num_outputs: int) -> functools.partial[Training]:
        """The recipe, with its parameters in_shape and num_outputs, if it has them, bound to those of the data."""
        recipe = self._default_recipe if self.recipe is None else self.recipe
        if not callable(recipe):
            raise TypeError(check.message(type(self).__name__, "recipe must be a function of hyperparameters", repr(recipe)))
        asked = inspect.signature(recipe).parameters
        known = {"in_shape": (features,), "num_outputs": num_outputs}
        return functools.partial(recipe, **{name: value for name, value in known.items() if name in asked})

    def _parts(self, rows: _Rows) -> tuple[_Rows, _Rows | None]:
        """The examples to train on, and those to compare the variants on; None if none can be held out."""
        counts = np.ones(len(rows.y)) if rows.weights is None else rows.weights
        strata = rows.y if self._classifies else np.zeros(len(rows.y), int)
        group = np.cumsum(np.append(True, _differ(np.column_stack([rows.x, rows.y]))))  # equal examples stay together
        held, spare = np.zeros(len(rows.y), bool), np.zeros(len(rows.y), bool)
        for stratum in np.unique(strata):
            own = np.flatnonzero(strata == stratum)
            last = np.append(group[own][1:] != group[own][:-1], True)
            share = (np.cumsum(counts[own]) / counts[own].sum())[last][np.cumsum(last) - last]  # up to the end of each example's group
            held[own] = (share <= self.validation * (1 + 1e-9)) & (group[own] != group[own[-1]])
            if not spare.any() and group[own[0]] != group[own[-1]]:
                spare[own] = group[own] == group[own[0]]
        if self.validation > 0 and not held.any():
            held = spare  # the first group of a class that has another one
        return (rows.at(~held), rows.at(held)) if held.any() else (rows, None)

    def _scalings(self, train: _Rows) -> tuple[_Scaling, _Scaling | None]:
        features = _scaling(train.x, train.weights) if self.standardize else _Scaling(np.zeros(train.x.shape[1]), np.ones(train.x.shape[1]))
        return features, None if self._classifies else _scaling(train.y, train.weights)

    def _trained(
        self,
        recipe: Recipe,
        variants: Variants,
        train: _Rows,
        held: _Rows | None,
        seed: int,
        *,
        options: dict[str, Any],
        num_steps: int | None = None,
        like: SweepResult | None = None,
    ) -> tuple[SweepResult, int]:
        """Runs a sweep over these examples; also returns its number of steps, which a variant may override.

        Args:
          options: further arguments of `sweep`.
          num_steps: replaces that of the estimator.
          like: a sweep whose programs can be used again, if the data is padded to the same size.
        """
        scaling = self._scalings(train)
        size = None if self.batch_size is None or self.batch_size >= len(train.y) else check.whole("fit", "batch_size", self.batch_size, 1)
        total = len(train.y) + (0 if held is None or like is not None else len(held.y))
        fills = self.recipe is None and size is None and total <= _FEW and not {"batch_size", "num_examples"} & set(variants[0])
        parts = [None if part is None else _scaled(part, *scaling) for part in (train, held)]
        weighted = fills or any(part is not None and part.weights is not None for part in (train, held))
        steps = self.num_steps if num_steps is None else num_steps
        if steps is None:
            epochs = _EPOCHS if self.num_epochs is None else check.whole(type(self).__name__, "num_epochs", self.num_epochs, 1)
            steps = epochs * (1 if size is None else len(train.y) // size)
        width = self.chunk_size
        if like is not None and width is None and fills and len(set(like.timing["lane_widths"])) == 1:
            width = like.timing["lane_widths"][0]
        fill = (_FEW // 2 if total <= _FEW // 2 else _FEW, 2 ** max(5, (len(held.y) - 1).bit_length() if held is not None else 0))
        data = Split(
            *(  # type: ignore[arg-type]
                None if part is None else _as_dataset(part, weighted=weighted, fill=rows if fills else 0)
                for part, rows in zip(parts, fill, strict=True)
            )
        )
        own = dict(randomness=self.randomness, chunk_size=width, memory_budget=self.memory_budget, executor=self.executor)
        result = sweep(
            recipe, variants, data, key=jax.random.key(seed), num_steps=steps, batch_size=size, progress=self.progress, **own, **options
        )
        return result, steps

    def _outputs(self, x: Any) -> np.ndarray:
        """The outputs of the chosen model for examples, (examples, outputs), float64."""
        check_is_fitted(self)
        x = validate_data(self, x, dtype=[np.float64, np.float32], reset=False)
        return self._predicts(self._fitted.x.apply(x).astype(jnp.result_type(float)))


class SweepClassifier(ClassifierMixin, _SweepEstimator):  # type: ignore[misc]
    """A classifier whose `fit` trains every variant of a recipe at once, and chooses one.

    It holds out a share of the examples of each class, and standardizes the features with the statistics of the rest. All variants
    are trained on the rest in one `sweep`; the one with the best metric on the held-out part is trained again on all examples.
    Equal examples stay in one part, and count as one with the sum of their weights. The result depends on the seed and on the set of
    examples, but not on their order.

    Args:
      recipe: recipe(**hyperparameters) -> `Training`, whose model returns one logit for each class. If it has parameters `in_shape`
        and `num_outputs`, it gets (features,) and the number of classes. None for `classifier_recipe`, a perceptron.
      variants: the settings to choose from, as for `sweep`; None for a grid of four learning rates and three penalties.
      num_epochs: how often to go through the training examples; 100 if neither this nor num_steps is given.
      num_steps: number of steps of each variant, in place of num_epochs.
      batch_size: examples per step; None, or at least the number of training examples, for all of them.
      validation: share of the examples that is held out, in [0, 1). If it is 0, or there are too few examples to hold any out, variants
        are compared on the examples that they are trained on.
      standardize: whether features are scaled to mean 0 and variance 1.
      metric: the metric to choose by, such as "validation/accuracy"; None for the validation loss.
      mode: "min" or "max"; None for the metric's known mode.
      refit: whether the best variant is trained again on all examples, for as many epochs (with keep_best, for as many steps as it had
        taken when it was best).
      random_state: a number, a RandomState or None, as in scikit-learn.
      eval_every, replicates, keep_best, prune, evolve, max_seconds, randomness: as in `sweep`.
      chunk_size, memory_budget, store, executor, callback, progress: as in `sweep`.

    Attributes:
      classes_: (classes,): the labels in the training data.
      n_features_in_, feature_names_in_: as in scikit-learn.
      best_params_: the hyperparameters of the best variant.
      best_index_: its index among the variants.
      best_score_: its mean score, as in cv_results_.
      cv_results_: a dict of columns with an entry for each variant, named as in GridSearchCV: "params", "param_NAME",
        "mean_test_score" and "std_test_score" over the replicates, "rank_test_score". The score is the metric on the one held-out
        part, times -1 if a small metric is good.
      result_: the sweep's `SweepResult`, with curves.
      n_iter_: number of steps that the model was trained for.

    Example:
      >>> from sklearn.datasets import load_iris
      >>> x, y = load_iris(return_X_y=True)
      >>> model = SweepClassifier(random_state=0).fit(x, y)
      >>> model.score(x, y) > 0.9, sorted(model.best_params_)
      (True, ['l2', 'learning_rate'])
    """

    _default_recipe = staticmethod(classifier_recipe)
    _classifies = True

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "SweepClassifier":
        """Trains all variants and chooses one.

        Args:
          X: (examples, features).
          y: (examples,), labels of any kind.
          sample_weight: (examples,), >= 0: how much each example counts in losses and metrics; None for equal weights.

        Returns:
          The estimator itself.
        """
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], ensure_min_samples=2)
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        weights = _weights(sample_weight, X)
        self.classes_ = np.unique(y if weights is None else y[weights > 0])
        places = (
            np.searchsorted(self.classes_, y)
            if weights is None
            else np.searchsorted(self.classes_, np.where(weights > 0, y, self.classes_[0]))
        )
        self._fit(X, places, weights, len(self.classes_))
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class: the softmax of the model's outputs, (examples, classes), in the order of classes_."""
        outputs = self._outputs(X)
        if outputs.shape[1:] != (len(self.classes_),):
            rule = f"the recipe's model must give {len(self.classes_)} outputs, one logit a class"
            fix = "a recipe with a parameter num_outputs is told how many"
            raise ValueError(check.message("SweepClassifier", rule, f"shape {outputs.shape[1:]}", fix))
        shares = np.exp(outputs - outputs.max(1, keepdims=True))
        return np.asarray(shares / shares.sum(1, keepdims=True))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithm of `predict_proba`."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.predict_proba(X)))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each example, (examples,)."""
        places = self.predict_proba(X).argmax(1)
        return np.asarray(self.classes_[places])


class SweepRegressor(RegressorMixin, _SweepEstimator):  # type: ignore[misc]
    """A regressor whose `fit` trains every variant of a recipe at once, and chooses one: as `SweepClassifier`.

    Targets are standardized too. Predictions are in the unit of the given targets; losses, and the scores in cv_results_, are those of
    standardized targets.

    Args:
      recipe: recipe(**hyperparameters) -> `Training`, whose model returns one number for each target. If it has parameters `in_shape`
        and `num_outputs`, it gets (features,) and the number of targets. None for `regressor_recipe`, a perceptron.
      variants, num_epochs, num_steps, batch_size, validation, standardize, metric, mode, refit, random_state: as `SweepClassifier`.
      eval_every, replicates, keep_best, prune, evolve, max_seconds, randomness: as in `sweep`.
      chunk_size, memory_budget, store, executor, callback, progress: as in `sweep`.

    Attributes:
      n_features_in_, feature_names_in_, best_params_, best_index_, best_score_, cv_results_, result_, n_iter_: as `SweepClassifier`.

    Example:
      >>> x = np.linspace(-1, 1, 100)[:, None]
      >>> y = np.concatenate([np.abs(x), 3 * x + 1], axis=1)
      >>> model = SweepRegressor(random_state=0).fit(x, y)
      >>> model.predict(x).shape, model.score(x, y) > 0.9
      ((100, 2), True)
    """

    _default_recipe = staticmethod(regressor_recipe)
    _classifies = False

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "SweepRegressor":
        """Trains all variants and chooses one.

        Args:
          X: (examples, features).
          y: (examples,) or (examples, targets).
          sample_weight: (examples,), >= 0: how much each example counts in losses and metrics; None for equal weights.

        Returns:
          The estimator itself.
        """
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], multi_output=True, y_numeric=True, ensure_min_samples=2)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        self._flat = y.ndim == 1
        y = y.reshape(len(y), -1).astype(np.float64)
        self._fit(X, y, _weights(sample_weight, X), y.shape[1])
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The predicted targets of each example, (examples,) or (examples, targets) as given to fit, float64."""
        outputs = self._outputs(X)
        assert self._fitted.y is not None
        targets = self._fitted.y.undo(outputs.reshape(len(outputs), -1))
        return targets[:, 0] if self._flat else targets

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class _Predictor:
    """Predicts with a trained state, a block of examples at a time; the compiled function isn't pickled."""

    def __init__(self, fitted: _Fitted, default: functools.partial[Training] | None):
        """Takes the recipe if it is a default one, with its in_shape and num_outputs."""
        self._fitted, self._default = fitted, default
        self._compiled: Callable[..., jax.Array] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": None}

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The outputs for examples, (examples, *outputs), float64."""
        if self._compiled is None:
            self._compiled = self._made()
        blocks = []
        for begin in range(0, len(x), _BLOCK):
            block = x[begin : begin + _BLOCK]
            filled = np.zeros((_BLOCK, *x.shape[1:]), x.dtype)
            filled[: len(block)] = block
            blocks.append(np.asarray(self._compiled(self._fitted.state, filled), np.float64)[: len(block)])
        return np.concatenate(blocks)

    def _made(self) -> Callable[..., jax.Array]:
        result, row = self._fitted.result, self._fitted.row
        if self._default is not None:
            names = inspect.signature(self._default).parameters
            own = {name: value for name, value in result.hyperparameters(row).items() if name in names and not isinstance(value, float)}
            return _shared_predict(self._default.func, *self._default.keywords.values(), tuple(own.items()))
        predict = result.training(row).predict
        if predict is None:
            fix = "training(...) has one; give your own with Training(init, step, evaluate, predict=...)"
            raise TypeError(check.message("predict", "the recipe's training must have a predict function", "none", fix))
        return jax.jit(predict)


@functools.lru_cache(maxsize=256)
def _shared_predict(
    recipe: Recipe, in_shape: tuple[int, ...], num_outputs: int, hyperparameters: tuple[Any, ...]
) -> Callable[..., jax.Array]:
    """The compiled prediction of a default recipe, whose floats don't affect it and are left out."""
    predict = recipe(in_shape, num_outputs, **dict(hyperparameters)).predict
    assert predict is not None
    return jax.jit(predict)


def _marked(variant: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    return {**variant, **{name: value for name, value in changed.items() if name in variant}}


def _weights(sample_weight: Any, x: np.ndarray) -> np.ndarray | None:
    """Checks weights and returns them in float64; None if none are given."""
    if sample_weight is None:
        return None
    weights = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
    if not weights.any():
        raise ValueError(check.message("fit", "sample_weight must be positive for an example", "zero for all"))
    return np.asarray(weights)


def _ordered(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, seed: int, *, merge: bool) -> _Rows:
    """The examples of positive weight, in an order that only depends on their values and the seed.

    Args:
      merge: whether equal examples become one with the sum of their weights.
    """
    x = np.asarray(x, np.float64) + 0.0  # -0.0 is 0.0
    if weights is not None:
        x, y, weights = (values[weights > 0] for values in (x, y, weights))
    own = np.column_stack([x, np.asarray(y, np.float64) + 0.0])
    words = np.ascontiguousarray(x).view(np.uint64)
    factors = np.random.default_rng(seed).integers(0, 2**64, (words.shape[1], 2), np.uint64, endpoint=False) | np.uint64(1)
    mixed = (words ^ (words >> np.uint64(31))) @ factors
    targets = own[:, x.shape[1] :].T  # they only order examples of equal features, so that their unit has no effect
    order = np.lexsort((*targets, (mixed[:, 1] >> np.uint64(1)) ^ mixed[:, 0], mixed[:, 1] ^ (mixed[:, 0] >> np.uint64(29))))
    own, x, y = own[order], x[order], y[order]
    weights = None if weights is None else weights[order]
    if merge:
        first = np.append(True, _differ(own))
        if not first.all():
            counts = np.add.reduceat(np.ones(len(y)) if weights is None else weights, np.flatnonzero(first))
            x, y, weights = x[first], y[first], counts
        if weights is not None and np.all(weights == weights[0]):
            weights = None
    return _Rows(x, y, weights)


def _differ(rows: np.ndarray) -> np.ndarray:
    """Whether each row but the first differs from the one before, (rows - 1,), bool."""
    return np.asarray(np.any(rows[1:] != rows[:-1], axis=1))


def _scaling(values: np.ndarray, weights: np.ndarray | None) -> _Scaling:
    """Weighted mean and standard deviation; a column that doesn't vary is only centred."""
    mean = np.average(values, axis=0, weights=weights)
    deviation = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
    return _Scaling(mean, np.where(deviation <= 1e-12 * np.abs(mean), 1.0, deviation))


def _scaled(rows: _Rows, x: _Scaling, y: _Scaling | None) -> _Rows:
    return _Rows(x.apply(rows.x), rows.y if y is None else y.apply(rows.y), rows.weights)


def _as_dataset(rows: _Rows, *, weighted: bool, fill: int) -> AnyDataset:
    """Examples as a data set for `sweep`.

    Args:
      weighted: whether the data set has weights.
      fill: the least number of examples; smaller data sets are padded with examples of weight 0.
    """
    kind = jnp.result_type(float)
    x, y = rows.x.astype(kind), rows.y.astype(np.int32 if rows.y.ndim == 1 else kind)
    if not weighted:
        return Dataset(x, y)
    weights = (np.ones(len(y)) if rows.weights is None else rows.weights / rows.weights.mean()).astype(kind)
    missing = max(0, fill - len(y))
    return WeightedDataset(*(np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)]) for values in (x, y, weights)))


def _cv_results(result: SweepResult, variants: int) -> dict[str, Any]:
    """A sweep's results as the columns of scikit-learn's searches, an entry for each variant in the order given."""
    sign = -1.0 if result.mode == "min" else 1.0
    table = result.by_variant()
    place = np.argsort(table["variant"], kind="stable")
    count = int(np.sum(result.table["variant"] == 0))
    firsts = np.arange(variants) * count
    mean, deviation = sign * table[result.metric][place].astype(float), table[f"{result.metric}/std"][place].astype(float)
    runs = table[f"{result.metric}/count"][place]  # scikit-learn divides by their number, and not by one less
    deviation = np.where(runs == 1, 0.0, deviation * np.sqrt((runs - 1) / np.maximum(runs, 1)))
    ranking = np.full(variants, variants)
    ranking[table["variant"]] = np.arange(1, variants + 1)
    names = result.hyperparameter_names
    return {
        "params": [result.hyperparameters(int(row)) for row in firsts],
        **{f"param_{name}": result.table[name][firsts] for name in names},
        "mean_test_score": mean,
        "std_test_score": deviation,
        "rank_test_score": ranking,
    }
