"""One process of a race: it imports only its own library, competes, and prints each answer as a line of JSON.

python -m experiments.pruning.contestant NAME PROBLEM FORM FOLDER WORKER
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from experiments.pruning import problem as problems
from experiments.pruning.problem import CORES

FUNCNET = "funcnet"
OPTUNA = ("optuna_median", "optuna_halving", "optuna_hyperband")
PEERS = (*OPTUNA, "sklearn_halving", "hyperoptax")
# The forms of Optuna's loop: processes, jobs per process (threads that take turns with Python's lock), PyTorch's threads per process.
OPTUNA_FORMS: dict[str, tuple[int, int, int]] = {
    "one process": (1, 1, 1),
    "one process, all of PyTorch's threads": (1, 1, CORES),
    "one process, a job a core": (1, CORES, 1),
    "a process a core, one journal": (CORES, 1, 1),
}
FORMS = {
    "sklearn_halving": f"a process a core (n_jobs={CORES})",
    "hyperoptax": "random search, up to 64 nets at once",
}  # of peers with one form


def tell(**said: Any) -> None:
    """Prints one line in one write, so that processes that share a pipe don't mix their lines."""
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def main(name: str, path: Path, form: str, shared: Path, worker: int) -> None:
    problem = problems.load(path)
    try:
        if name == FUNCNET:
            from experiments.pruning import ours

            compete = lambda: ours.compete(problem, form, tell)
        elif name in OPTUNA:
            from experiments.pruning import optuna_peer

            compete = lambda: optuna_peer.compete(problem, name, OPTUNA_FORMS[form], tell, shared, worker)
        else:
            module = {"sklearn_halving": "sklearn_peer", "hyperoptax": "hyperoptax_peer"}[name]
            peer = importlib.import_module(f"experiments.pruning.{module}")
            compete = lambda: peer.compete(problem, tell)
    except ImportError as error:
        tell(cannot=str(error))
        return
    compete()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]))
