"""JAX's inner names: what funcnet uses of JAX that is not part of its stable interface, in one place.

A new JAX may move or drop any of these. No other module uses them, and tests/test_inner.py says which one went missing.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core
import jaxlib.version
from jax.core import Tracer as Tracer
from jax.extend.core import Jaxpr as Jaxpr
from jax.extend.core import Literal as Literal
from jax.extend.core import Var as Var
from jax.extend.core import jaxpr_as_fun

ClosedJaxpr: Any = getattr(jax.extend.core, "ClosedJaxpr", Jaxpr)  # one class from JAX 0.12 on

try:
    from jax._src.config import trace_context as _jax_context
except ImportError:  # then everything that JAX can be configured by counts
    _jax_context = None

WRONG = ("0.10.2", "0.11.0")  # versions that compute wrong sums and crash on a CPU: jax-ml/jax#39103, #40412, #39257
_WANTED = ">=0.10.1" + "".join(f",!={version}" for version in WRONG)  # as pyproject.toml asks for

# What decides how a program is traced or compiled, and is not part of JAX's own trace context.
_BESIDE = (
    "jax_default_prng_impl",
    "jax_debug_nans",
    "jax_debug_infs",
    "jax_optimization_level",
    "jax_memory_fitting_level",
    "jax_compiler_enable_remat_pass",
)


def warn_of_wrong_jax(where: str) -> None:
    """Warns, once, where JAX is of a version known to compute wrong numbers, which pip installs only if told to."""
    _warn_of_wrong(where, jax.__version__, jaxlib.version.__version__)


@functools.cache
def _warn_of_wrong(where: str, *versions: str) -> None:
    wrong = [f"{name} {version}" for name, version in zip(("jax", "jaxlib"), versions, strict=True) if version in WRONG]
    if wrong:
        rule = f"needs a JAX that computes right, got {' and '.join(wrong)}, known for wrong sums and crashes on a CPU"
        fix = f"pip install 'jax{_WANTED}' 'jaxlib{_WANTED}'"
        warnings.warn(f"{where}: {rule}; {fix}", RuntimeWarning, stacklevel=4)  # it points at who called `where`


def trace_context() -> tuple[Any, ...]:
    """Everything of JAX's configuration that decides how a program is traced and compiled, as a value with a hash.

    Flags, set for good or in a `with` statement of this thread, the default device, the kind of random keys, and the mesh.

    Example:
      >>> before = trace_context()
      >>> with jax.default_prng_impl("rbg"):
      ...     trace_context() == before
      False
      >>> trace_context() == before
      True
    """
    names = _BESIDE if _jax_context is not None else tuple(sorted(jax.config.values))
    own = () if _jax_context is None else _jax_context()
    return own, tuple(_hashable(getattr(jax.config, name, None)) for name in names), jax.sharding.get_abstract_mesh(), _mesh()


def _mesh() -> Any:
    """The devices of the mesh, of which the abstract mesh says only how they are arranged."""
    try:
        return jax.sharding.get_mesh()
    except ValueError:  # while something is traced, only the abstract mesh may be asked for
        return None


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value


def eval_jaxpr(jaxpr: Any, arguments: Sequence[Any]) -> list[Any]:
    """What a `ClosedJaxpr`, as `jax.make_jaxpr` returns it, makes of its flat arguments."""
    return list(jaxpr_as_fun(jaxpr)(*arguments))


def inner_jaxprs(equation: Any) -> list[Any]:
    """The `Jaxpr`s that an equation runs: a loop's body, a choice's branches; of a choice of platforms a CPU's alone."""
    values = [value for entry in equation.params.values() for value in (entry if isinstance(entry, tuple | list) else [entry])]
    found = [getattr(value, "jaxpr", value) for value in values if isinstance(value, Jaxpr | ClosedJaxpr)]
    return found[:1] if "branches_platforms" in equation.params else found  # `by_platform` names a CPU's first


def uses(jaxpr: Any, primitive: str) -> bool:
    """Whether a `Jaxpr`, or any that it runs, has an operation of that name."""
    return any(
        equation.primitive.name == primitive or any(uses(body, primitive) for body in inner_jaxprs(equation)) for equation in jaxpr.eqns
    )


def by_platform(*arguments: Any, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """cpu(*arguments) in a program for a CPU and default(*arguments) in any other, chosen while lowering."""
    return jax.lax.platform_dependent(*arguments, cpu=cpu, default=default)


def memory_needed(executable: Any) -> int:
    """Bytes that a compiled program takes while it runs; 0 where the compiler doesn't say.

    Args:
      executable: as `jax.jit(...).lower(...).compile()` returns it.
    """
    found = executable.memory_analysis()
    if found is None:
        return 0
    return int(found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes + found.temp_size_in_bytes)
