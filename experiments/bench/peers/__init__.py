"""The peers: each trains a workload from funcnet's initial parameters, on its minibatches, in its own best form."""

import importlib

from experiments.bench.place import CPU, Place
from experiments.bench.program import Peer

NAMES = ("optax_vmap", "jitted_loop", "torch_loop", "torch_func", "sklearn")
_MODULES = {
    "optax_vmap": "optax_peers",
    "jitted_loop": "optax_peers",
    "torch_loop": "torch_peers",
    "torch_func": "torch_peers",
    "sklearn": "sklearn_peer",
}
ON_JAX = ("optax_vmap", "jitted_loop")


def peer(name: str, place: Place = CPU) -> Peer:
    """The peer of that name, with the forms that suit a place; ImportError says that its library is missing."""
    return importlib.import_module(f"experiments.bench.peers.{_MODULES[name]}").peers(place)[name]
