"""JAX's inner names: each is still there and does what funcnet needs of it. `inner` itself is imported only inside the tests,
so that a new JAX that lacks a name fails with that name."""

import ast
import importlib
import pathlib
import re
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def dotted(node):
    """`jax.lax.map` of such an expression; nothing of another."""
    if isinstance(node, ast.Attribute):
        start = dotted(node.value)
        return f"{start}.{node.attr}" if start else ""
    return node.id if isinstance(node, ast.Name) else ""


def names_used():
    """Every name of JAX's that inner.py uses, read from its text, since it can't be imported where one is missing."""
    for node in ast.walk(ast.parse((pathlib.Path(__file__).parents[1] / "funcnet" / "inner.py").read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield dotted(node)


NAMES = sorted({name for name in names_used() if re.match(r"jax(lib)?\.", name)} | {"jax.stages.Compiled.memory_analysis"})
CONFIGURATION = [
    "jax_default_prng_impl",
    "jax_debug_nans",
    "jax_debug_infs",
    "jax_optimization_level",
    "jax_memory_fitting_level",
    "jax_compiler_enable_remat_pass",
    "jax_default_device",
]


@pytest.mark.parametrize("name", NAMES)
def test_jax_still_has_the_name(name):
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:i]))
            break
        except ModuleNotFoundError:
            continue
    for part in parts[i:]:
        assert hasattr(found, part), f"JAX {jax.__version__} has no {name}: funcnet/inner.py must do without"
        found = getattr(found, part)


@pytest.mark.parametrize("name", CONFIGURATION)
def test_jax_still_has_the_setting(name):
    assert name in jax.config.values, f"JAX {jax.__version__} has no {name}: funcnet/inner.py asks for it in vain"


def test_every_name_used_is_looked_for_here():
    from funcnet import inner

    assert {"jax._src.config.trace_context", "jax.extend.core.Jaxpr", "jax.lax.platform_dependent", "jax.config.values"} <= set(NAMES)
    assert set(inner._BESIDE) <= set(CONFIGURATION)


CONTEXTS = {
    "default device": lambda: jax.default_device(jax.devices()[0]),
    "kind of keys": lambda: jax.default_prng_impl("rbg"),
    "how keys are drawn from": lambda: jax.threefry_partitionable(False),
    "precision of products": lambda: jax.default_matmul_precision("float32"),
    "double precision": lambda: jax.enable_x64(True),
    "promotion of dtypes": lambda: jax.numpy_dtype_promotion("standard"),
    "promotion of ranks": lambda: jax.numpy_rank_promotion("allow"),
    "NaNs raise": lambda: jax.debug_nans(True),
    "mesh": lambda: jax.set_mesh(jax.make_mesh((1,), ("x",))),
}


@pytest.mark.parametrize("own", [True, False], ids=["JAX's trace context", "without it"])
@pytest.mark.parametrize("name", CONTEXTS)
def test_the_trace_context_tells_what_decides_a_trace(name, own, monkeypatch):
    from funcnet import inner

    if not own:
        monkeypatch.setattr(inner, "_jax_context", None)
    before = inner.trace_context()
    with CONTEXTS[name]():
        inside = inner.trace_context()
        assert inside != before and hash(inside) != hash(before)
        assert inside == inner.trace_context()
    assert inner.trace_context() == before and hash(inner.trace_context()) == hash(before)


def test_the_trace_context_is_the_threads_own():
    from funcnet import inner

    before, found = inner.trace_context(), []
    with jax.default_prng_impl("rbg"):
        thread = threading.Thread(target=lambda: found.append(inner.trace_context()))
        thread.start()
        thread.join()
    assert found == [before]


def test_the_trace_context_can_be_asked_for_while_tracing():
    from funcnet import inner

    jax.eval_shape(lambda x: (hash(inner.trace_context()), x)[1], jnp.ones(2))


def test_a_jaxpr_is_evaluated_and_its_parts_are_recognised():
    from funcnet import inner

    table = np.arange(3.0, dtype=np.float32)
    closed = jax.make_jaxpr(lambda x, y: (jnp.asarray(table) + x * 2.0, y - x))(1.0, 2.0)
    assert isinstance(closed, inner.ClosedJaxpr) and isinstance(getattr(closed, "jaxpr", closed), inner.Jaxpr)
    variables = [var for equation in closed.eqns for var in equation.invars]
    assert {inner.Literal, inner.Var} == {type(var) for var in variables}
    first, second = inner.eval_jaxpr(closed, [1.0, 5.0])
    np.testing.assert_array_equal(first, [2.0, 3.0, 4.0])
    assert second == 4.0


def test_a_jaxpr_tells_what_it_gives():
    from funcnet import inner

    given = inner.outputs(jax.make_jaxpr(lambda x: (x > 0, jnp.stack([x, x]).astype(jnp.bfloat16)))(jnp.ones(3)))
    assert [(aval.shape, aval.dtype) for aval in given] == [((3,), bool), ((2, 3), jnp.bfloat16)]


def test_the_jaxprs_inside_an_equation():
    from funcnet import inner

    def bodies(fn):
        return [len(inner.inner_jaxprs(equation)) for equation in jax.make_jaxpr(fn)(1.0).eqns]

    assert max(bodies(lambda x: jax.lax.cond(x > 0, jnp.sin, jnp.cos, x))) == 2
    assert max(bodies(lambda x: jax.lax.while_loop(lambda x: x < 3, lambda x: x + 1, x))) == 2
    assert max(bodies(lambda x: jax.lax.scan(lambda x, _: (x + 1, None), x, length=3)[0])) == 1
    assert max(bodies(lambda x: inner.by_platform(x, cpu=jnp.sin, default=jnp.cos))) == 1
    assert bodies(lambda x: x + 1) == [0]
    (chosen,) = [
        body
        for equation in jax.make_jaxpr(lambda x: inner.by_platform(x, cpu=jnp.sin, default=jnp.cos))(1.0).eqns
        for body in inner.inner_jaxprs(equation)
    ]
    assert [equation.primitive.name for equation in chosen.eqns] == ["sin"]


def test_memory_needed_is_what_a_program_takes():
    from funcnet import inner

    x = jnp.ones(1000)
    plain = jax.jit(lambda x: x + 1).lower(x).compile()
    assert 8000 <= inner.memory_needed(plain) < 12000
    used_again = jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile()
    assert 4000 <= inner.memory_needed(used_again) < 8000

    class Silent:
        def memory_analysis(self):
            return None

    assert inner.memory_needed(Silent()) == 0
