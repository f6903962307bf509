"""JAX internals: everything that funcnet uses of JAX outside its stable interface, in one place.

A new JAX may move or drop any of these. No other module uses them, and tests/test_inner.py tells which one is missing.
"""

import contextlib
import functools
import hashlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core
import jaxlib.version
import numpy as np
from jax.core import Tracer as Tracer
from jax.extend.core import Jaxpr as Jaxpr
from jax.extend.core import Literal as Literal
from jax.extend.core import Primitive as Primitive
from jax.extend.core import Var as Var
from jax.extend.core import jaxpr_as_fun

ClosedJaxpr: Any = getattr(jax.extend.core, "ClosedJaxpr", Jaxpr)  # one class from JAX 0.12 on

try:
    from jax._src.config import trace_context as _jax_context
except ImportError:  # then all of JAX's configuration values are compared
    _jax_context = None

WRONG = ("0.10.2", "0.11.0")  # versions that compute wrong sums and crash on a CPU: jax-ml/jax#39103, #40412, #39257
_WANTED = ">=0.10.1" + "".join(f",!={version}" for version in WRONG)  # as pyproject.toml asks for

# Settings that affect tracing or compiling and are not in JAX's own trace context.
_BESIDE = (
    "jax_default_prng_impl",
    "jax_debug_nans",
    "jax_debug_infs",
    "jax_optimization_level",
    "jax_memory_fitting_level",
    "jax_compiler_enable_remat_pass",
)


def warn_of_wrong_jax(where: str) -> None:
    """Warns once if JAX is of a version known to compute wrong numbers. pip installs such a version only if told to."""
    _warn_of_wrong(where, jax.__version__, jaxlib.version.__version__)


@functools.cache
def _warn_of_wrong(where: str, *versions: str) -> None:
    wrong = [f"{name} {version}" for name, version in zip(("jax", "jaxlib"), versions, strict=True) if version in WRONG]
    if wrong:
        rule = f"needs a JAX that computes right, got {' and '.join(wrong)}, known for wrong sums and crashes on a CPU"
        fix = f"pip install 'jax{_WANTED}' 'jaxlib{_WANTED}'"
        warnings.warn(f"{where}: {rule}; {fix}", RuntimeWarning, stacklevel=4)  # it points at the caller of `where`


def trace_context() -> tuple[Any, ...]:
    """All of JAX's configuration that affects how a program is traced and compiled, as a hashable value.

    These are flags (set globally or in a `with` statement of this thread), the default device, the kind of random keys, and the mesh.

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


def flag(name: str) -> Any:
    """The value of one of JAX's settings in this thread."""
    return getattr(jax.config, name)


# Settings that affect what a traced function computes; JAX has a context manager for each.
_SETTINGS = (
    "enable_x64",
    "default_matmul_precision",
    "default_prng_impl",
    "numpy_dtype_promotion",
    "numpy_rank_promotion",
    "threefry_partitionable",
    "softmax_custom_jvp",
)


def settings() -> dict[str, Any]:
    """The values, in this thread, of JAX's settings that affect what a traced function computes; to send to another process.

    Example:
      >>> with jax.default_matmul_precision("float32"):
      ...     settings()["default_matmul_precision"]
      'float32'
    """
    return {name: flag(f"jax_{name}") for name in _SETTINGS}


@contextlib.contextmanager
def under(given: Mapping[str, Any]) -> Iterator[None]:
    """Context manager that applies JAX settings received from another process.

    Example:
      >>> with under({"default_matmul_precision": "float32"}):
      ...     settings()["default_matmul_precision"]
      'float32'
    """
    with contextlib.ExitStack() as stack:
        for name, value in given.items():
            if flag(f"jax_{name}") != value:
                stack.enter_context(getattr(jax, name)(value))
        yield


def no_mesh() -> Any:
    """Context manager that hides the mesh set by the user from everything that is traced or placed inside."""
    no_one: Any = None  # set_mesh accepts None, but its type doesn't say so
    return jax.set_mesh(no_one)


def _mesh() -> Any:
    """The mesh with its devices; the abstract mesh only holds their arrangement."""
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
    """Evaluates a `ClosedJaxpr`, as `jax.make_jaxpr` returns it, on flat arguments."""
    return list(jaxpr_as_fun(jaxpr)(*arguments))


def outputs(jaxpr: Any) -> list[Any]:
    """The abstract values (shape and dtype) of a `ClosedJaxpr`'s outputs."""
    return list(jaxpr.out_avals)


def without_constants(jaxpr: Any) -> tuple[Any, list[Any]]:
    """Turns the constants of a `ClosedJaxpr` into its first arguments; returns the new one and the constants."""
    constants = list(jaxpr.consts)
    if hasattr(jaxpr, "with_consts"):  # JAX 0.12
        return jaxpr.with_consts([]), constants
    bare = jaxpr.jaxpr.replace(constvars=[], invars=[*jaxpr.jaxpr.constvars, *jaxpr.jaxpr.invars])
    return ClosedJaxpr(bare, []), constants


def fingerprints(jaxprs: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Describes what each `ClosedJaxpr` computes as a hashable value: equal ones compute the same, in the same order.

    Constants are compared by value. Other parameters, such as callback functions, are compared with ==, under which a function
    equals only itself.
    """
    walk = _Walk()
    return [walk.jaxpr(jaxpr) for jaxpr in jaxprs]


def digest(value: Any) -> str:
    """SHA-256 of a fingerprint or a tuple of arrays; the same in another process with the same JAX.

    A callback function enters with its name and its code, but not with what it closes over.

    Example:
      >>> jaxpr = jax.make_jaxpr(lambda x: 2 * x)(1.0)
      >>> digest(fingerprints([jaxpr])) == digest(fingerprints([jax.make_jaxpr(lambda x: 2 * x)(1.0)]))
      True
      >>> digest(fingerprints([jaxpr])) == digest(fingerprints([jax.make_jaxpr(lambda x: 3 * x)(1.0)]))
      False
    """
    found = hashlib.sha256()

    def walk(value: Any) -> None:
        if isinstance(value, tuple | list):
            found.update(b"(")
            for entry in value:
                walk(entry)
            found.update(b")")
        elif isinstance(value, bytes):
            found.update(b"b%d:" % len(value) + value)
        elif isinstance(value, set | frozenset):
            found.update(("{" + ",".join(sorted(_told(entry) for entry in value)) + "}").encode())
        elif isinstance(value, np.ndarray | np.generic | jax.Array):
            is_key = jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)
            array = np.asarray(jax.random.key_data(value) if is_key else value)  # type: ignore[arg-type]
            found.update(f"{value.dtype} {array.shape} ".encode() + array.tobytes())
        else:
            found.update(f"{_told(value)};".encode())

    walk(value)
    return found.hexdigest()


def _told(value: Any) -> str:
    """A value as text, without memory addresses."""
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, Primitive):
        return f"primitive {value.name}"
    if isinstance(value, _Same):
        return _told(value.value)
    code = getattr(value, "__code__", None)
    if code is not None:
        return f"{value.__module__}.{value.__qualname__} {hashlib.sha256(code.co_code).hexdigest()}"
    return f"{type(value).__qualname__} {re.sub(r' at 0x[0-9a-fA-F]+', '', repr(value))}"


# Operations that carry rules for their derivative. A fingerprint leaves the rules out: a traced program no longer uses them.
_DERIVATIVES = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")


class _Walk:
    """Builds fingerprints: numbers a jaxpr's variables in the order in which they appear, and collects its equations' parameters."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[Any, ...]] = {}  # by the id of a jaxpr, which stays alive during the walk

    def jaxpr(self, jaxpr: Any) -> tuple[Any, ...]:
        if id(jaxpr) not in self.seen:
            bare = getattr(jaxpr, "jaxpr", jaxpr)
            numbers: dict[Any, int] = {}

            def name(variable: Any) -> Any:
                if isinstance(variable, Literal):
                    return self.value(variable.val), _of_use(variable.aval)
                if variable in numbers:
                    return numbers[variable]
                number = numbers[variable] = len(numbers)
                return number, _of_use(variable.aval)

            took = [name(variable) for variable in (*bare.constvars, *bare.invars)]
            constants = [self.value(constant) for constant in getattr(jaxpr, "consts", ())]
            equations = [(*self.equation(e), *map(name, e.invars), *map(name, e.outvars)) for e in bare.eqns]
            self.seen[id(jaxpr)] = (*took, None, *constants, None, *equations, None, *map(name, bare.outvars))
        return self.seen[id(jaxpr)]

    def equation(self, equation: Any) -> tuple[Any, ...]:
        told = equation.params.items()
        if equation.primitive.name in _DERIVATIVES:
            told = [(key, value) for key, value in told if isinstance(value, Jaxpr | ClosedJaxpr)]
        context = getattr(equation, "ctx", None)
        return equation.primitive, *[(key, self.value(value)) for key, value in told], _hashable_or_itself(context)

    def value(self, value: Any) -> Any:
        kind = type(value)
        if kind in _ITSELF:
            return kind, value  # with its type, as 1, 1.0 and True are equal
        how = _how(kind)  # type: ignore[arg-type]  # a type has a hash
        if how == "sequence":
            return kind, *map(self.value, value)
        if how == "as it says":
            return kind, _hashable_or_itself(value)
        if how == "jaxpr":
            return self.jaxpr(value)
        if how == "array":
            is_key = jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)
            array = np.asarray(jax.random.key_data(value) if is_key else value)
            return str(value.dtype), array.shape, array.tobytes() if array.nbytes < 64 else hashlib.sha256(array.tobytes()).digest()
        if how == "float":
            return kind, value.hex()  # as 0.0 and -0.0 are equal, and NaN is not
        if how == "complex":
            return kind, value.real.hex(), value.imag.hex()
        return kind, *[(key, self.value(entry)) for key, entry in value.items()]


_ITSELF = frozenset({bool, int, str, type(None)})


@functools.cache
def _how(kind: type) -> str:
    """How a value of this type is represented in a fingerprint."""
    kinds = {
        "jaxpr": (Jaxpr, ClosedJaxpr),
        "sequence": (tuple, list),
        "array": (np.ndarray, np.generic, jax.Array),
        "float": (float,),
        "complex": (complex,),
        "dict": (dict,),
    }
    return next((how for how, bases in kinds.items() if issubclass(kind, bases)), "as it says")


def _of_use(aval: Any) -> Any:
    """An abstract value with weak_type off, which only matters while tracing."""
    return aval.update(weak_type=False) if getattr(aval, "weak_type", False) else aval


class _Same:
    """Wraps an object without a hash: equal only to a wrapper of the same object."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _hashable_or_itself(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return value


def inner_jaxprs(equation: Any, *, cpu: bool = True) -> list[Any]:
    """The `Jaxpr`s that an equation runs, such as a loop's body; of a choice by platform only the CPU's branch, or another's if not cpu."""
    values = [value for entry in equation.params.values() for value in (entry if isinstance(entry, tuple | list) else [entry])]
    found = [getattr(value, "jaxpr", value) for value in values if isinstance(value, Jaxpr | ClosedJaxpr)]
    if equation.params.get("branches_platforms") is None:
        return found
    return found[:1] if cpu else found[-1:]  # `by_platform` names a CPU's first


def uses(jaxpr: Any, primitive: str) -> bool:
    """Whether a `Jaxpr`, or any that it runs, has an operation of that name."""
    return any(
        equation.primitive.name == primitive or any(uses(body, primitive) for body in inner_jaxprs(equation)) for equation in jaxpr.eqns
    )


def calls_python(jaxpr: Any) -> bool:
    """Whether a `Jaxpr`, or any that it runs, calls back into Python; a digest doesn't cover what such a function closes over.

    Example:
      >>> calls_python(jax.make_jaxpr(lambda x: 2 * x)(1.0).jaxpr)
      False
      >>> calls_python(jax.make_jaxpr(lambda x: jax.debug.print("{}", x))(1.0).jaxpr)
      True
    """
    return any(
        any(word in equation.primitive.name for word in ("callback", "debug")) or any(map(calls_python, inner_jaxprs(equation)))
        for equation in jaxpr.eqns
    )


def by_platform(*arguments: Any, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """Runs cpu(*arguments) in a program for a CPU and default(*arguments) in any other; the choice is made while lowering."""
    return jax.lax.platform_dependent(*arguments, cpu=cpu, default=default)


def tpu_devices(topology: str) -> list[Any]:
    """The devices of a TPU to compile for; the TPU need not be attached.

    Args:
      topology: such as "v5e:2x2".

    Raises:
      jax.errors.JaxRuntimeError: there is no such TPU.
      ImportError: or, before JAX 0.12, RuntimeError: libtpu isn't installed.
    """
    from jax.experimental import topologies

    return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)


def is_here(device: Any) -> bool:
    """Whether a device belongs to this process, and not to a topology that is only compiled for."""
    try:
        return device in jax.local_devices(backend=device.platform)
    except RuntimeError:  # there is no such platform here
        return False


def bytes_accessed(executable: Any) -> float:
    """Bytes that a compiled program reads and writes, loops counted once; 0 where the compiler doesn't say."""
    found = executable.cost_analysis() or {}
    return float((found[0] if isinstance(found, list) else found).get("bytes accessed", 0.0))


def memory_needed(executable: Any) -> int:
    """Bytes that a compiled program takes while it runs; 0 where the compiler doesn't say.

    Args:
      executable: as `jax.jit(...).lower(...).compile()` returns it.
    """
    found = executable.memory_analysis()
    if found is None:
        return 0
    return int(found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes + found.temp_size_in_bytes)
