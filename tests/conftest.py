"""What every test and doctest runs under: strict promotion of dtypes and ranks; warnings are errors (pyproject.toml)."""

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
