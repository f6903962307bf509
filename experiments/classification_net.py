"""Classification: a net reads scanned digits and is scored by every classification metric.

Scikit-learn's 1,797 digits of 8 x 8 pixels. Every seed shuffles them into a training, a validation and a test part. The net must beat
logistic regression with its best penalty strength.
"""

import functools

import jax
import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
from scipy.special import softmax
from sklearn import metrics
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

import funcnet as fn
from experiments import report
from experiments.digits_sweep import digits
from funcnet import plot

CLASSES = range(10)


def calibration_error(targets: np.ndarray, shares: np.ndarray) -> float:
    """Calibration error from scikit-learn's calibration_curve: 15 bins, weighted by the number of examples in each."""
    right, confidence = shares.argmax(1) == targets, shares.max(1)
    accuracy, mean = calibration_curve(right, confidence, n_bins=15)
    held = np.unique(np.searchsorted(np.linspace(0, 1, 16)[1:-1], confidence), return_counts=True)[1]
    return float(np.sum(held * np.abs(accuracy - mean)) / len(right))


SCORES = {  # name of the metric: scikit-learn's function of (targets, logits)
    "accuracy": lambda targets, logits: metrics.accuracy_score(targets, logits.argmax(1)),
    "top_k_accuracy": functools.partial(metrics.top_k_accuracy_score, labels=CLASSES),
    "precision": lambda targets, logits: metrics.precision_score(targets, logits.argmax(1), average="macro"),
    "recall": lambda targets, logits: metrics.recall_score(targets, logits.argmax(1), average="macro"),
    "f1": lambda targets, logits: metrics.f1_score(targets, logits.argmax(1), average="macro"),
    "balanced_accuracy": lambda targets, logits: metrics.balanced_accuracy_score(targets, logits.argmax(1)),
    "matthews_correlation": lambda targets, logits: metrics.matthews_corrcoef(targets, logits.argmax(1)),
    "roc_auc": lambda targets, logits: metrics.roc_auc_score(targets, softmax(logits.astype(float), 1), multi_class="ovr"),
    "average_precision": lambda targets, logits: metrics.average_precision_score(targets, softmax(logits.astype(float), 1)),
    "log_loss": lambda targets, logits: metrics.log_loss(targets, softmax(logits.astype(float), 1)),
    "calibration_error": lambda targets, logits: calibration_error(targets, softmax(logits.astype(float), 1)),
}
MODEL = fn.mlp((128, 10), "relu", 0.3)
TRAINING = fn.training(MODEL, fn.cross_entropy, fn.adam(3e-3), in_shape=(64,), metrics=list(SCORES))


def run(quick: bool = False, seed: int = 0) -> report.Outcome:
    seeds, steps = (8, 300) if quick else (20, 1000)
    keys = jax.random.split(jax.random.key(seed), seeds)
    splits = [digits(key) for key in keys]
    data = jax.tree.map(lambda *parts: np.stack(parts), *splits)

    def one(key: jax.Array, data: fn.Split) -> fn.Fit:
        return fn.fit(TRAINING, data, key=key, num_steps=steps, batch_size=64, eval_every=steps // 20)

    fits = jax.jit(jax.vmap(one))(keys, data)
    scores = jax.device_get(jax.vmap(TRAINING.evaluate)(fits.state, data.test))
    logits = jax.device_get(jax.vmap(jax.vmap(MODEL.apply, (None, 0)))(fits.state.params, data.test.x))
    linear = np.array([best_linear(split) for split in splits])
    return report.Outcome(
        [agrees_with_scikit_learn(scores, logits, data.test.y), beats_a_linear_model(scores["accuracy"], linear)],
        {"learning": draw_learning(fits.curves, linear), "mistakes": draw_mistakes(splits[0].test, logits[0])},
    )


def best_linear(data: fn.Split) -> float:
    """Test accuracy of logistic regression, with the penalty strength chosen on the validation part."""
    fitted = [LogisticRegression(C=c, max_iter=5000).fit(*data.train) for c in (0.01, 0.03, 0.1, 0.3, 1.0)]
    return max(fitted, key=lambda model: model.score(*data.validation)).score(*data.test)


def agrees_with_scikit_learn(scores: dict[str, np.ndarray], logits: np.ndarray, targets: np.ndarray) -> report.Finding:
    """Compares every classification metric with scikit-learn's on each seed's predictions."""
    theirs = {name: np.array([score(*pair) for pair in zip(targets, logits, strict=True)]) for name, score in SCORES.items()}
    largest = max(float(np.max(np.abs(scores[name] - theirs[name]))) for name in SCORES)
    return report.Finding(
        "funcnet's scores of a classification are scikit-learn's, to five digits.",
        largest < 1e-5,
        {**{f"{name}, on the test part": report.interval(scores[name]) for name in SCORES}, "largest difference": largest},
    )


def beats_a_linear_model(net: np.ndarray, linear: np.ndarray) -> report.Finding:
    fewer = report.interval(net - linear)
    return report.Finding(
        "A hidden layer pays: the net misreads fewer new digits than logistic regression at its best strength.",
        fewer.low > 0,
        {
            "error of logistic regression": report.interval(1 - linear),
            "error of the net": report.interval(1 - net),
            "fewer by, paired over seeds": fewer,
        },
        "Each seed has its own split; the net's learning rate, width and dropout are the same for all of them.",
    )


def draw_learning(curves: dict[str, np.ndarray], linear: np.ndarray) -> matplotlib.figure.Figure:
    figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for part, label, colour, style in (
        ("train", "digits trained on", plot.COLOURS[0], "--"),
        ("validation", "new digits", plot.COLOURS[1], "-"),
    ):
        mean, low, high = np.array([report.interval(values) for values in 100 - 100 * curves[f"{part}/accuracy"].T]).T
        ax.plot(curves["step"][0], mean, style, color=colour, linewidth=2.2, label=f"net, {label}")
        ax.fill_between(curves["step"][0], low, high, color=colour, alpha=0.25, linewidth=0)
    ax.axhline(100 - 100 * linear.mean(), color="k", linestyle=":", label="logistic regression, new digits")
    ax.set(xlabel="steps (minibatches of 64 digits)", ylabel="digits misread (%)", ylim=(0, None))
    ax.set_title(f"mean of {len(linear)} seeds and its 95% interval")
    ax.legend(frameon=False)
    return figure


def draw_mistakes(test: fn.Dataset, logits: np.ndarray) -> matplotlib.figure.Figure:
    """One seed's confusion matrix, and the misread digits of which the net was most certain."""
    said = logits.argmax(1)
    figure, (table, gallery) = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    metrics.ConfusionMatrixDisplay.from_predictions(test.y, said, cmap="Blues", colorbar=False, ax=table, im_kw={"vmax": 45})
    table.set(
        xlabel="digit the net says", ylabel="true digit", title=f"{np.sum(said != test.y)} of {len(said)} new digits misread (one seed)"
    )
    wrong = np.flatnonzero(said != test.y)
    margin = logits[wrong, said[wrong]] - logits[wrong, test.y[wrong]]
    gallery.axis("off")
    gallery.set_title("misread most surely")
    for place, i in enumerate(wrong[np.argsort(-margin)][:6]):
        ax = gallery.inset_axes((place % 3 / 3, 0.5 - place // 3 / 2, 0.3, 0.38))
        ax.imshow(test.x[i].reshape(8, 8), cmap="Greys")
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"a {test.y[i]}, said {said[i]}", fontsize=11)
    return figure
