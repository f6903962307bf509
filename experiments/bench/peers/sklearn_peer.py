"""scikit-learn's MLPClassifier, many at once by joblib: where its one recipe is the workload's."""

import joblib
import numpy as np
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier

from experiments.bench.place import Place
from experiments.bench.program import CORES, Peer, Program
from experiments.bench.workloads import Workload


def train_one(x: np.ndarray, y: np.ndarray, settings: dict) -> float:
    """Its tol and n_iter_no_change never stop it early; a warning that it hasn't converged is what is asked for."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        net = MLPClassifier(**settings).fit(x, y)
    return log_loss(y, net.predict_proba(x), labels=net.classes_)


def build(workload: Workload) -> Program:
    """One hidden layer or more, Adam or SGD, whole epochs of minibatches: the digits MLP. Its draws are its own."""
    kinds = [kind for kind, _ in workload.layers]
    (group, *others) = workload.groups()
    batches = workload.batch_size and len(workload.x) / workload.batch_size
    if others or not set(kinds) <= {"dense", "activation"} or group.optimizer != "adam" or not workload.classifies or not batches:
        raise NotImplementedError("MLPClassifier can't express this workload")
    if batches != int(batches) or workload.num_steps % batches:
        raise NotImplementedError("MLPClassifier trains on whole epochs")
    shared = dict(
        hidden_layer_sizes=[size for kind, size in group.layers if kind == "dense"][:-1],
        activation="relu",
        solver="adam",
        alpha=0.0,
        batch_size=workload.batch_size,
        max_iter=int(workload.num_steps // batches),
        tol=0.0,
        n_iter_no_change=workload.num_steps,
    )

    def run(indices: tuple[int, ...]) -> np.ndarray:
        each = [shared | {"learning_rate_init": workload.variants[i].learning_rate, "random_state": i} for i in indices]
        with joblib.Parallel(n_jobs=CORES) as pool:
            return np.array(pool(joblib.delayed(train_one)(workload.x, workload.y, settings) for settings in each))

    run((0,) * CORES)  # starts the processes, which joblib keeps
    return Program(run)


def peers(place: Place) -> dict[str, Peer]:
    form = "joblib, a process a core" + (", on the CPU" if place.on_gpu else "")  # it knows no other device
    return {"sklearn": Peer({form: build}, one_at_a_time=True, cold=form)}
