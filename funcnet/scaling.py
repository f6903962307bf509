"""Scales features, and targets, to mean zero and variance one, and back."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from funcnet import check
from funcnet.data import AnyDataset, Dataset, Split, WeightedDataset, as_numbers, as_padded, as_split
from funcnet.folds import are_folds
from funcnet.padded import Padded, is_padded, steps_of
from funcnet.tree import is_several


class Scaler(NamedTuple):
    """Scales raw examples as the training part was scaled, and converts predictions back to the target's unit.

    x <- (x - x_mean) / x_scale, and the same for y. `np.savez(path, **scaler._asdict())` saves a scaler beside a model, and
    `Scaler(**np.load(path))` loads it again. For a `Padded`, all steps have one mean and one scale, of the shape of a step.
    """

    x_mean: np.ndarray  # shape in_shape, float64; for a Padded, the shape of a step
    x_scale: np.ndarray  # shape in_shape, float64; 1 where a feature doesn't vary
    y_mean: np.ndarray  # shape target, float64; 0 where the targets are left as they are
    y_scale: np.ndarray  # shape target, float64; 1 where the targets are left as they are

    def apply(self, data: Any) -> Any:
        """Scales data, and returns the same kind of data.

        Args:
          data: a `Split`, a `Dataset`, a `WeightedDataset`, or inputs alone, shape (examples, *in_shape), or a `Padded` of inputs.

        Returns:
          The data in floating point, with x scaled, and y too if targets are; computed in float64 from the given values.

        Raises:
          ValueError: the data is not usable, or an example has another shape than those of the training part.

        Example:
          >>> scale = scaler(Dataset(np.array([[1.0], [3.0]]), np.array([10.0, 30.0])), targets=True)
          >>> print(scale.apply(np.array([[5.0]])))
          [[3.]]
        """
        if is_padded(data):
            return _scaled("apply", "x", as_padded("apply", "x", data, cast="never"), self.x_mean, self.x_scale)
        if not isinstance(data, Split | Dataset | WeightedDataset):
            return _scaled("apply", "x", as_numbers("apply", "x", data, cast="never"), self.x_mean, self.x_scale)
        done = self._apply(as_split("apply", data, cast="never", least=1))
        return done if isinstance(data, Split) else done.train

    def _apply(self, parts: Split) -> Split:
        """Scales a checked split."""
        scales_targets = bool(np.any(self.y_mean != 0) or np.any(self.y_scale != 1))

        def scaled(part: AnyDataset | None) -> AnyDataset | None:
            if part is None:
                return None
            x = _scaled("apply", "x", part.x, self.x_mean, self.x_scale)
            return part._replace(x=x, y=_scaled("apply", "y", part.y, self.y_mean, self.y_scale) if scales_targets else part.y)

        return Split(*map(scaled, parts))  # type: ignore[arg-type]

    def undo(self, y: Any) -> Any:
        """Converts scaled targets or predictions back to the unit of the given targets.

        Args:
          y: shape (examples, *target); any shape if the target is one number; or a `Padded`, for which a `Padded` is returned.

        Returns:
          y * y_scale + y_mean, float64: large targets, such as seconds since 1970, keep their values.

        Raises:
          ValueError: y has another shape than the targets.

        Example:
          >>> scale = scaler(Dataset(np.array([[1.0], [2.0], [3.0]]), np.array([10.0, 20.0, 30.0])))
          >>> print(scale.undo(np.array([0.0, 1.0])).round(3))
          [20.    28.165]
        """
        if is_padded(y):
            values = np.asarray(y.values)
            flat = self.undo(values.reshape(-1, *values.shape[2:]))
            return _zeroed(flat.reshape(values.shape), y)
        given, scale, mean = np.asarray(y, np.float64), np.asarray(self.y_scale), np.asarray(self.y_mean)
        if mean.size == 1:  # predictions may be (examples, 1) for targets (examples,)
            return np.asarray(given * scale.item() + mean.item())
        _check_shape("undo", "y", given, mean)
        return np.asarray(given * scale + mean)


def scaler(data: Split | AnyDataset, *, targets: bool | None = None) -> Scaler:
    """Computes the mean and standard deviation of each feature, and of the target, over the training part, in float64.

    A feature or target that doesn't vary in training is only centred. Weights are ignored. For a `Padded`, the statistics are over all
    its real steps.

    Args:
      data: a `Split`, or a `Dataset`, which is then all training part.
      targets: whether y is scaled too. By default it is if it holds floats of at least three different values; labels, in whole
        numbers or of two values, are left as they are.

    Returns:
      A `Scaler`, whose `apply` scales data, and whose `undo` converts predictions back.

    Raises:
      ValueError: the data is not usable.
      TypeError: x is several inputs, or targets of each step are not a `Padded`.

    Example:
      >>> parts = Split(Dataset(np.array([[1.0], [3.0]]), np.array([0, 1])), Dataset(np.array([[5.0]]), np.array([1])))
      >>> scale = scaler(parts)
      >>> print(scale.apply(parts).validation.x.ravel(), scale.apply(np.array([[2.0]])).ravel(), scale.undo(np.array([1])))
      [3.] [0.] [1.]
    """
    return _scaler(as_split("scaler", data, cast="never"), targets)


def standardize(data: Split | AnyDataset | Sequence[Split]) -> Any:
    """Scales every feature to mean zero and variance one, with the statistics of the training part alone.

    x <- (x - mean) / standard deviation; a feature that doesn't vary in training is only centred. It is computed in float64 from
    the given values. This is the short form of `scaler`, which also keeps the statistics.

    Args:
      data: a `Split`, or a `Dataset`, which is then all training part; or a list of splits, such as folds, each scaled with the
        statistics of its training part. Weights are ignored.

    Returns:
      The same kind of data, x in floating point; y is left as it is.

    Raises:
      ValueError: the data is not usable.

    Example:
      >>> parts = standardize(Split(Dataset(np.array([[1.0], [3.0]]), np.zeros(2)), Dataset(np.array([[5.0]]), np.zeros(1))))
      >>> print(parts.train.x.ravel(), parts.validation.x.ravel())
      [-1.  1.] [3.]
    """
    if are_folds(data):
        folds: Any = data
        return [standardize(fold) for fold in folds]
    parts = as_split("standardize", data, cast="never")
    done = _scaler(parts, targets=False)._apply(parts)
    return done.train if isinstance(data, Dataset | WeightedDataset) else done


def _scaler(parts: Split, targets: bool | None) -> Scaler:
    if is_several(parts.train.x) and not is_padded(parts.train.x):
        rule = "x must be one array of features"
        raise TypeError(check.message("scaler", rule, f"{len(parts.train.x)} inputs", "scale each by itself, such as Dataset(x['a'], y)"))
    y = parts.train.y
    if targets is None:
        real = _rows(y)
        targets = jnp.issubdtype(real.dtype, jnp.floating) and len(np.unique(real)) > 2
    if targets and is_padded(parts.train.x) and not is_padded(y) and y.shape[1:2] == parts.train.x.values.shape[1:2]:
        rule, fix = (
            "targets of each step must be a Padded, so that those of real steps can be told",
            "Padded(y, x.length), or targets=False",
        )
        raise TypeError(check.message("scaler", rule, f"an array of shape {y.shape}", fix))
    of_targets = _statistics(y) if targets else (np.zeros(_rows(y).shape[1:]), np.ones(_rows(y).shape[1:]))
    return Scaler(*_statistics(parts.train.x), *of_targets)


def _statistics(values: Any) -> tuple[np.ndarray, np.ndarray]:
    train = np.asarray(_rows(values), np.float64)
    mean, deviation = np.asarray(train.mean(0)), np.asarray(train.std(0))
    flat = deviation <= 1e-12 * np.abs(mean)
    return mean, np.where(flat, 1, deviation)


def _rows(values: Any) -> np.ndarray:
    """The values that statistics are computed over: the examples, or the real steps of a `Padded`."""
    return steps_of(values)[0] if is_padded(values) else values


def _zeroed(values: np.ndarray, like: Padded) -> Padded:
    """Scaled steps as a `Padded`, set to zero after the lengths."""
    outside = np.arange(values.shape[1])[None] >= np.asarray(like.length)[:, None]
    values[outside] = 0
    return Padded(values, like.length)


def _scaled(where: str, name: str, values: Any, mean: np.ndarray, scale: np.ndarray) -> Any:
    if is_padded(values):
        flat = values.values.reshape(-1, *values.values.shape[2:])
        return _zeroed(_scaled(where, f"each step of {name}", flat, mean, scale).reshape(values.values.shape), values)
    _check_shape(where, name, values, mean)
    scaled: np.ndarray = ((np.asarray(values, np.float64) - mean) / scale).astype(jnp.result_type(float))
    return scaled


def _check_shape(where: str, name: str, values: Any, mean: np.ndarray) -> None:
    if np.shape(values)[1:] != np.shape(mean) or np.ndim(values) == 0:
        fix = f"{name}[None] makes a set of one" if np.shape(values) == np.shape(mean) else ""
        rule = f"each example of {name} must have shape {np.shape(mean)}"
        raise ValueError(check.message(where, rule, np.shape(values)[1:], fix))
