"""optax's own tests, from the installed package, with funcnet's functions in the place of optax's.

Those that can't pass stand in differences.txt with the reason. A new failure fails, and so does one on the list that passes.
"""

import importlib
import inspect
import os
import re
import subprocess
import sys
import unittest
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import funcnet as fn

pytest.importorskip("optax", reason="optax is in the extra [bench]")
pytest.importorskip("flax", reason="flax, which optax's tests import, is in the extra [bench]")
pytest.importorskip("sklearn", reason="scikit-learn, which optax's tests import, is in the extra [experiments]")

import optax
from peers.exchange import in_place, marked, ours, unmatched, used

# Optimizers, under optax's names and defaults


def schedulable(optimizer: Any) -> Any:
    """Says as optax's do that the learning rate may be a schedule."""
    noted, signature = ours(optimizer), inspect.signature(optimizer)
    parameters = [
        parameter.replace(annotation=optax.ScalarOrSchedule) if parameter.name == "learning_rate" else parameter
        for parameter in signature.parameters.values()
    ]
    noted.__signature__ = signature.replace(parameters=parameters)
    return noted


def sgd(learning_rate: Any, momentum: Any = None, nesterov: bool = False) -> fn.Optimizer:
    return fn.sgd(learning_rate) if momentum is None else fn.momentum(learning_rate, momentum, nesterov=nesterov)


def adagrad(learning_rate: Any, initial_accumulator_value: Any = 0.1, eps: Any = 1e-7) -> fn.Optimizer:
    return fn.adagrad(learning_rate, 0.0, eps_root=eps, initial_sum=initial_accumulator_value)


def rmsprop(learning_rate: Any, decay: Any = 0.9, eps: Any = 1e-8, centered: bool = False, momentum: Any = None) -> fn.Optimizer:
    return fn.rmsprop(learning_rate, decay, 0.0, eps_root=eps, momentum=momentum, centered=centered)


def adamw(
    learning_rate: Any, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8, mu_dtype: Any = None, weight_decay: Any = 1e-4
) -> fn.Optimizer:
    return fn.adamw(learning_rate, b1, b2, eps, weight_decay, mu_dtype=mu_dtype)


def lion(learning_rate: Any, b1: Any = 0.9, b2: Any = 0.99, weight_decay: Any = 1e-3) -> fn.Optimizer:
    return fn.lion(learning_rate, b1, b2, weight_decay)


OPTIMIZERS = {
    optimizer.__name__: schedulable(optimizer) for optimizer in (sgd, adagrad, rmsprop, fn.adam, adamw, fn.adadelta, fn.nadam, lion)
}
chain, clip, apply_updates = ours(fn.chain), ours(fn.clip_by_global_norm), ours(fn.apply_updates)

# Schedules


@ours
def linear_schedule(init_value: Any, end_value: Any, transition_steps: Any) -> Any:
    return fn.linear_schedule(init_value, end_value, transition_steps)


@ours
def polynomial_schedule(init_value: Any, end_value: Any, power: Any, transition_steps: Any, transition_begin: int = 0) -> Any:
    return fn.delayed(fn.polynomial_decay(init_value, transition_steps, power, end_value), transition_begin)


@ours
def exponential_decay(
    init_value: Any, transition_steps: Any, decay_rate: Any, transition_begin: int = 0, staircase: bool = False, end_value: Any = None
) -> Any:
    if transition_begin != 0 or end_value is not None:
        raise NotImplementedError
    return (fn.step_decay if staircase else fn.exponential_decay)(init_value, decay_rate, transition_steps)


@ours
def cosine_decay_schedule(init_value: Any, decay_steps: Any, alpha: Any = 0.0, exponent: Any = 1) -> Any:
    if exponent != 1:
        raise NotImplementedError
    return fn.cosine_decay(init_value, decay_steps, alpha * init_value)


@ours
def warmup_cosine_decay_schedule(
    init_value: Any, peak_value: Any, warmup_steps: Any, decay_steps: Any, end_value: Any = 0.0, exponent: Any = 1
) -> Any:
    if exponent != 1:
        raise NotImplementedError
    return fn.warmup_cosine_decay(peak_value, warmup_steps, decay_steps, init_value, end_value)


@ours
def cosine_onecycle_schedule(
    transition_steps: Any, peak_value: Any, pct_start: Any = 0.3, div_factor: Any = 25.0, final_div_factor: Any = 1e4
) -> Any:
    return fn.one_cycle(peak_value, transition_steps, pct_start, div_factor, final_div_factor)


SCHEDULES = {
    "constant_schedule": ours(fn.constant_schedule),
    "linear_schedule": linear_schedule,
    "polynomial_schedule": polynomial_schedule,
    "exponential_decay": exponential_decay,
    "cosine_decay_schedule": cosine_decay_schedule,
    "warmup_cosine_decay_schedule": warmup_cosine_decay_schedule,
    "cosine_onecycle_schedule": cosine_onecycle_schedule,
}

# Losses: optax's give a number for each output, or for each row of classes


def of_each_output(loss: Any, prediction: Any, target: Any) -> Any:
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    if prediction.shape != target.shape:
        return loss(prediction, target)
    return jax.vmap(loss)(prediction.ravel(), target.ravel()).reshape(prediction.shape)


def of_each_row(loss: Any, scores: Any, labels: Any, axis: int = -1) -> Any:
    scores, labels = jnp.asarray(scores), jnp.asarray(labels)
    if scores.ndim == labels.ndim:
        labels = jnp.moveaxis(labels, axis, -1)
    scores = jnp.moveaxis(scores, axis, -1)
    for _ in scores.shape[1:]:
        loss = jax.vmap(loss)
    return loss(scores, labels)


@ours
def squared_error(predictions: Any, targets: Any) -> Any:
    return of_each_output(fn.squared_error, predictions, targets)


@ours
def huber_loss(predictions: Any, targets: Any, delta: Any = 1.0) -> Any:
    return of_each_output(lambda prediction, target: fn.huber(prediction, target, delta), predictions, targets)


@ours
def sigmoid_binary_cross_entropy(logits: Any, labels: Any) -> Any:
    return of_each_output(fn.binary_cross_entropy, logits, labels)


@ours
def hinge_loss(predictor_outputs: Any, targets: Any) -> Any:
    return of_each_output(fn.hinge, predictor_outputs, targets)


def softmax_cross_entropy(logits: Any, labels: Any, axis: int = -1, where: Any = None) -> Any:
    if where is not None or not isinstance(axis, int):
        raise NotImplementedError
    return of_each_row(fn.cross_entropy, logits, labels, axis)


@ours
def multiclass_hinge_loss(scores: Any, labels: Any) -> Any:
    return of_each_row(fn.hinge, scores, labels)


class _Jax:
    """JAX under another version: compared as strings, 0.10 is older than 0.7.2, and optax's tests of sharding skip."""

    __version__ = "9"

    def __getattr__(self, name: str) -> Any:
        return getattr(jax, name)


IN_PLACE = {
    "optax": OPTIMIZERS | SCHEDULES | {"chain": chain, "clip_by_global_norm": clip, "apply_updates": apply_updates},
    "optax._src.alias": OPTIMIZERS,
    "optax._src.combine": {"chain": chain},
    "optax._src.update": {"apply_updates": apply_updates},
    "optax.transforms._combining": {"chain": chain},
    "optax.transforms._clipping": {"clip_by_global_norm": clip},
    "optax.schedules._schedule": SCHEDULES,
    "optax.losses._regression": {"squared_error": squared_error, "huber_loss": huber_loss},
    "optax.losses._classification": {
        "sigmoid_binary_cross_entropy": sigmoid_binary_cross_entropy,
        **{
            name: ours(softmax_cross_entropy)
            for name in ("softmax_cross_entropy", "safe_softmax_cross_entropy", "softmax_cross_entropy_with_integer_labels")
        },
        "hinge_loss": hinge_loss,
        "multiclass_hinge_loss": multiclass_hinge_loss,
    },
    "optax._src.sharding_test": {"jax": _Jax()},  # the last: what it imports is in place by then
}

ON_EIGHT_DEVICES = r"_(match_update|preserved_with_jit)_"
# which tests of which modules call what is put in place; without the 40 seconds of test_multi_steps_mixed_precision
SUITES = {
    "optax._src.alias_test": r"AliasTest\.",
    "optax._src.update_test": r"apply_updates",
    "optax._src.combine_test": r"test_chain|ExtraArgsTest",
    "optax._src.lookahead_test": r"",
    "optax._src.sharding_test": rf"(abstract_input|match_update|preserved_with_jit)_({'|'.join(OPTIMIZERS)})$",
    "optax.transforms._accumulation_test": r"test_multi_steps(?!_mixed|_computes_mean)",
    "optax.transforms._clipping_test": r"test_clip_by_global_norm",
    "optax.transforms._combining_test": r"test_chain|\.ExtraArgsTest|test_empty|labels_mismatch",
    "optax.transforms._conditionality_test": r"apply_if_finite",
    # one of them looks for an error of JAX's in words that JAX 0.12 no longer has
    "optax.transforms._freezing_test": "SelectiveTransformTest" + ("" if jax.__version_info__ < (0, 11) else r"\.(?!test_selective_bad_)"),
    "optax.transforms._masking_test": r"MaskedTest\.(?!test_mask_fn|test_tree_map_params)",
    "optax.transforms._monitoring_test": r"",
    "optax.contrib._common_test": r"",
    "optax.contrib._mechanic_test": r"",
    "optax.contrib._sam_test": r"",
    "optax.contrib._schedule_free_test": r"",
    "optax.contrib._complex_valued_test": r"",
    "optax.schedules._schedule_test": r"\.(Constant|Polynomial|Exponential|(Warmup)?CosineDecay|SGDR|ScheduleAs\w+)Test\.|OneCycleTest.(?!test_linear)",
    "optax.schedules._inject_test": r"test_wrap_stateless_schedule",
    "optax.schedules._join_test": r"",
    "optax.losses._regression_test": r"SquaredErrorTest|HuberLossTest",
    "optax.losses._classification_test": r"CrossEntropy(WithIntegerLabels)?Test|HingeTest|PolyLossTest|SigmoidFocalLossTest",
}


def collected() -> dict[str, unittest.TestCase]:
    """optax's tests by name, with their parameters in place of a number."""
    found = {}
    flags = os.environ.get("XLA_FLAGS")
    with warnings.catch_warnings(action="ignore"), in_place(IN_PLACE):
        for module_name, chosen in SUITES.items():
            module = importlib.import_module(module_name)
            for test in vars(module).values():
                if not (isinstance(test, type) and issubclass(test, unittest.TestCase) and test.__module__ == module_name):
                    continue
                for method in unittest.defaultTestLoader.getTestCaseNames(test):
                    name, optimizer = _name(module_name, test, method)
                    if re.search(chosen, name.split("(")[0]) and optimizer in (None, *OPTIMIZERS):
                        assert name not in found
                        found[name] = test(method)
    os.environ.pop("XLA_FLAGS", None)  # test modules set it
    if flags is not None:
        os.environ["XLA_FLAGS"] = flags
    return found


def _name(module_name: str, test: type[unittest.TestCase], method: str) -> tuple[str, str | None]:
    words = getattr(test, "_test_params_reprs", {}).get(method, "")
    words = " ".join(re.sub(r"<function (?:\w+\.)*(\S+) at 0x\w+>|<class '[\w.]*?(\w+)'>", r"\1\2", words).split())
    optimizer = re.search(r"opt_name='(\w+)'", words)
    named = method if " at 0x" in words or not words else re.sub(r"\d+$", "", method) + words
    return f"{module_name.rsplit('.', 1)[1]}.{test.__name__}.{named}", optimizer and optimizer[1]


TESTS = collected()
CALLING = set()  # the tests, without their parameters, that have called something of funcnet's: another's program may be used again
HERE = [name for name in TESTS if not re.search(ON_EIGHT_DEVICES, name) or jax.device_count() == 8]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", marked("optax", HERE))
def test_passes_with_funcnet_in_place(name):
    used.clear()
    with in_place(IN_PLACE):
        TESTS[name].debug()
    if used:
        CALLING.add(name.split("(")[0])
    assert name.split("(")[0] in CALLING, "the test calls nothing of funcnet's"


def test_every_difference_is_of_a_test():
    assert not unmatched("optax", TESTS)


@pytest.mark.skipif(jax.device_count() == 8, reason="the tests are run here")
def test_optimizers_keep_shardings_over_eight_devices():
    """optax's tests of it, in a process that has as many."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "ShardingTest"]
    done = subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    assert done.returncode == 0 and f"{3 * len(OPTIMIZERS)} passed" in done.stdout, done.stdout + done.stderr
