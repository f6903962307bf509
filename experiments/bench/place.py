"""Where everyone trains: on the CPU's cores, or on one GPU; and how each library is told.

Nothing is imported here but the standard library, so that what must stand in the environment before JAX is imported can be put there.
"""

from typing import NamedTuple


class Place(NamedTuple):
    """What everyone trains on."""

    platform: str  # "cpu" or "gpu": which forms of the peers are tried, and which goals there are
    jax: str  # the platform, by JAX's name
    torch: str  # the device, by PyTorch's name

    @property
    def on_gpu(self) -> bool:
        return self.platform == "gpu"

    def environment(self) -> dict[str, str]:
        """What must stand in the environment before JAX is imported, here and in the processes that are started."""
        if not self.on_gpu:
            return {"JAX_PLATFORMS": "cpu"}
        return {
            "JAX_DEFAULT_MATMUL_PRECISION": "float32",  # the usual one on a GPU is TensorFloat-32, which has ten bits
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # JAX takes three quarters of the memory otherwise, PyTorch's too
        }

    def use(self) -> None:
        """From here on JAX computes on one device of this place, however many there are."""
        if self.on_gpu:
            import jax

            jax.config.update("jax_default_device", jax.local_devices(backend=self.jax)[0])

    def device_name(self) -> str:
        """The GPU's, as its driver says it; RuntimeError says that JAX sees none."""
        import jax

        return jax.local_devices(backend=self.jax)[0].device_kind


PLACES = {"cpu": Place("cpu", "cpu", "cpu"), "gpu": Place("gpu", "gpu", "cuda")}
CPU = PLACES["cpu"]
