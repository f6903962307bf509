"""Penalties: L1 sets coefficients to zero, L2, L3 and L4 only shrink them; L1 and L2 are the Lasso and ridge regression.

A linear model of scikit-learn's diabetes data (442 patients, 10 measurements each), all in standard deviations. The power and the
strength of the penalty are arguments of the program, so all penalties share one program.

Gradient descent never reaches zero exactly: it steps back and forth across the kink of |w|, by at most what its learning rate allows.
That rate decays to 1e-7, so a coefficient that a penalty of strength 3 holds at zero ends within about 3e-6 of it (momentum makes a step
ten times as long). A coefficient below 1e-5 standard deviations counts as zero.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Lasso, Ridge

import funcnet as fn
from experiments import report
from funcnet import plot

POWERS = (1.0, 2.0, 3.0, 4.0)
ZERO = 1e-5
SHARES = dict(validation=0.4, test=0.4)  # leaves 88 patients: with more, a penalty could improve little


def recipe(power: float, strength: float, num_steps: int) -> fn.Training:
    learning_rate = fn.exponential_decay(0.1, 1e-6, num_steps)
    return fn.training(fn.dense(1), fn.squared_error, fn.momentum(learning_rate), in_shape=(10,), penalty=fn.lp(power, strength))


def patients() -> fn.Dataset:
    x, y = load_diabetes(return_X_y=True)
    return fn.Dataset(x, ((y - y.mean()) / y.std())[:, None])


def sweep(data: fn.Split | fn.Dataset, quick: bool, key: jax.Array) -> fn.SweepResult:
    steps, strengths = (12_000, 10) if quick else (20_000, 25)
    variants = fn.grid(power=POWERS, strength=[0.0, *np.geomspace(1e-3, 3, strengths).tolist()], num_steps=[steps])
    return fn.sweep(recipe, variants, fn.standardize(data), key=key, num_steps=steps, batch_size=None, progress=False)


def run(quick: bool = False, seed: int = 0) -> report.Outcome:
    key = jax.random.key(seed)
    paths = sweep(patients(), quick, key)
    splits = [fn.split(patients(), key=own, **SHARES) for own in jax.random.split(key, 24 if quick else 40)]
    results = [sweep(split, quick, key) for split in splits]
    scores = [chosen(result, fn.standardize(split).test) for result, split in zip(results, splits)]
    findings = [zeros(paths), agreement(paths), on_new_patients(scores)]
    return report.Outcome(findings, {"paths": draw_paths(paths), "validation": draw_validation(results)})


def coefficients(result: fn.SweepResult, power: float) -> tuple[np.ndarray, np.ndarray]:
    """The strengths above zero, shape (strengths,), and the coefficients at each, shape (strengths, 10)."""
    rows = np.flatnonzero((result.table["power"] == power) & (result.table["strength"] > 0))
    return result.table["strength"][rows], np.array([result.state(row).params["weight"][0] for row in rows])


def held(w: np.ndarray) -> np.ndarray:
    """Which coefficients are zero at this strength and at a neighbouring one; one that changes its sign is zero only once."""
    at_zero = np.pad(np.abs(w) < ZERO, ((1, 1), (0, 0)))
    return at_zero[1:-1] & (at_zero[:-2] | at_zero[2:])


def zeros(paths: fn.SweepResult) -> report.Finding:
    paths_of = {power: coefficients(paths, power)[1] for power in POWERS}
    counts = {power: held(w).sum(1) for power, w in paths_of.items()}
    l1 = counts[1.0]
    return report.Finding(
        "L1 sets coefficients to zero, some sooner than others, until none is left; L2, L3 and L4 set none",
        bool(l1[0] == 0 and l1[-1] == 10 and len(set(l1)) > 2 and not any(counts[power].any() for power in POWERS[1:])),
        {
            "coefficients of 10 that L1 holds at zero, by rising strength": ", ".join(map(str, l1)),
            **{f"that L{power:.0f} does, at most": int(counts[power].max()) for power in POWERS[1:]},
            "largest of L1's that counts as zero (standard deviations)": float(np.abs(paths_of[1.0])[held(paths_of[1.0])].max()),
        },
        f"Zero is below {ZERO:g}, as near as the last steps of gradient descent come, at two neighbouring strengths.",
    )


def agreement(paths: fn.SweepResult) -> report.Finding:
    """Compares with scikit-learn: its Lasso halves the mean squared error (alpha = strength / 2), its Ridge sums it (strength * n)."""
    x, y = (part.astype(float) for part in fn.standardize(patients()))
    models = {
        1.0: lambda strength: Lasso(alpha=strength / 2, tol=1e-10, max_iter=100_000),
        2.0: lambda strength: Ridge(alpha=strength * len(y)),
    }
    worst = {}
    for power, model in models.items():
        own = coefficients(paths, power)
        worst[power] = max(np.abs(model(strength).fit(x, y.ravel()).coef_ - w).max() for strength, w in zip(*own))
    return report.Finding(
        "L1 and L2 find the coefficients of scikit-learn's Lasso and Ridge on the same objective",
        max(worst.values()) < 1e-3,
        {
            "largest difference from Lasso, any coefficient and strength (standard deviations)": float(worst[1.0]),
            "from Ridge": float(worst[2.0]),
        },
        "alpha is half the strength in Lasso, and the strength times the number of patients in Ridge.",
    )


def chosen(result: fn.SweepResult, test: fn.Dataset) -> dict[float, float]:
    """The error on the test part for each power, at the strength chosen by validation; power 0 means no penalty."""
    best = {power: report.best_rows(result, "validation/loss", power=power) for power in POWERS}
    best |= {0.0: report.best_rows(result, "validation/loss", power=1.0, strength=0.0)}
    return {power: float(result.training(row).evaluate(result.state(row), test)["loss"]) for power, (row,) in best.items()}


def on_new_patients(scores: list[dict[float, float]]) -> report.Finding:
    scores_of = {power: np.array([score[power] for score in scores]) for power in (0.0, *POWERS)}
    saved = {f"change by L{power:.0f}": report.interval(scores_of[power] - scores_of[0.0]) for power in POWERS}
    return report.Finding(
        "Each penalty, its strength chosen by validation, lowers the squared error on new patients",
        all(change.high < 0 for change in saved.values()),
        {"squared error without penalty (variances)": report.interval(scores_of[0.0]), **saved},
        "88 patients to learn from; with more there is less to mend. Splits share patients, which makes the intervals too narrow.",
    )


def draw_paths(paths: fn.SweepResult) -> plt.Figure:
    figure, axes = plt.subplots(1, 4, figsize=(13, 4.2), sharey=True, layout="constrained")
    for ax, power in zip(axes, POWERS):
        strengths, w = coefficients(paths, power)
        for i, name in enumerate(load_diabetes().feature_names):
            style = dict(color=plot.COLOURS[i % len(plot.COLOURS)], linestyle="-" if i < len(plot.COLOURS) else "--", linewidth=1.8)
            ax.plot(strengths, w[:, i], label=name, **style)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set(xscale="log", title=f"L{power:.0f}: up to {held(w).sum(1).max()} of 10 at zero", xlabel="strength of the penalty")
    axes[0].set_ylabel("coefficient (standard deviations)")
    axes[-1].legend(title="measured", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def draw_validation(results: list[fn.SweepResult]) -> plt.Figure:
    figure, ax = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    table = results[0].table
    losses = np.array([result.table["validation/loss"] for result in results])
    for power, colour, marker in zip(POWERS, plot.COLOURS, plot.MARKERS):
        rows = (table["power"] == power) & (table["strength"] > 0)
        report.band(ax, table["strength"][rows], losses[:, rows] - losses[:, :1], color=colour, marker=marker, label=f"L{power:.0f}")
    ax.axhline(0, color="black", linewidth=1, linestyle="--", label="no penalty")
    ax.set(
        xscale="log", ylim=(-0.08, 0.1), xlabel="strength of the penalty", ylabel="change of the squared error on new patients (variances)"
    )
    ax.set_title(f"88 patients to learn from: mean of {len(results)} splits")
    ax.legend(frameon=False, loc="upper left")
    return figure
