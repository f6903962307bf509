"""Where everyone trains: on the CPU's cores, or on one GPU; what that needs, and how each library is told.

Nothing is imported here but the standard library, so that what must stand in the environment before JAX is imported can be put there.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable
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
        """The GPU's, as its driver says it."""
        import jax

        return jax.local_devices(backend=self.jax)[0].device_kind


PLACES = {"cpu": Place("cpu", "cpu", "cpu"), "gpu": Place("gpu", "gpu", "cuda")}
CPU = PLACES["cpu"]
_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin")


def missing(place: Place, names: Iterable[str]) -> list[str]:
    """What there must be for these peers to train on the GPU, and isn't: a line each, with what to install."""
    lacks = [_jax_lacks(place.jax)]
    if torch := [name for name in names if name.startswith("torch")]:
        lacks.append(_torch_lacks(place.torch, torch))
    return [line for line in lacks if line]


def _jax_lacks(platform: str) -> str:
    import jax

    try:
        jax.local_devices(backend=platform)
    except RuntimeError:
        seen = ", ".join(sorted({device.platform for device in jax.local_devices()}))
        fix = "pip install 'jax[cuda12]' or 'jax[cuda13]', JAX's CUDA plugin"
        if any(importlib.util.find_spec(plugin) for plugin in _PLUGINS):
            fix = "JAX's plugin is installed: see that the driver finds a GPU (nvidia-smi), and suits the plugin"
        if hidden := os.environ.get("JAX_PLATFORMS"):
            fix = f"unset JAX_PLATFORMS, which is {hidden!r}"
        return f"needs a GPU that JAX can see, got {seen} alone; {fix}"
    return ""


def _torch_lacks(device: str, names: list[str]) -> str:
    """In a process of its own, for PyTorch is never imported in this one. Where it isn't installed, its peers are left out as ever."""
    if importlib.util.find_spec("torch") is None:
        return ""
    code = (
        f"import torch; print(torch.__version__, torch.version.cuda or torch.version.hip or 'no CUDA'); torch.zeros(1, device={device!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    fix = "install PyTorch's CUDA build, as its site says under 'get started'; or leave it out with --peers"
    return f"{' and '.join(names)} need a GPU that PyTorch can see, got PyTorch {done.stdout.strip() or 'that fails'}; {fix}"
