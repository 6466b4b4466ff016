"""Figures of LEO on sines and lines. Every function returns (figure, alt text)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import vmap

from mlbook.meta_learners import LEORegression
from mlbook.meta_learners.protocol import Meta, MetaLearner
from mlbook.plots.style import BLACK, BLUE, COLOURS, GREEN, GREY, ORANGE, PURPLE, figure
from mlbook.tasks.sines_lines import Curves, KnownEpisode, SinesAndLines

NAMES = {"leo": "LEO", "maml": "MAML", "metasgd": "Meta-SGD"}
LOOK = {"leo": (ORANGE, "-"), "maml": (COLOURS["maml"], "--"), "metasgd": (COLOURS["metasgd"], "-.")}
GRID = torch.linspace(-5, 5, 81)[:, None]
"""Where curves are drawn, [n, 1]."""


def noise_of_codes(samples: int, latent: int, seed: int = 0) -> Tensor:
    """Standard normal numbers for ``samples`` codes, [S, n_z]."""
    return torch.randn(samples, latent, generator=torch.Generator().manual_seed(seed))


def sampled_curves(
    learner: LEORegression, meta: Meta, task: KnownEpisode, samples: int, seed: int = 0
) -> Tensor:
    """Curves of one task (axes [1, ...]) over ``GRID`` from samples of its code: [S, steps + 1, n]."""
    noise = noise_of_codes(samples, learner.latent, seed)
    return learner.sampled_curves(meta, task.support_x[0], task.support_y[0], GRID, noise).squeeze(-1)


def sampled_fits(
    learner: LEORegression,
    meta: Meta,
    tasks: dict[str, KnownEpisode],
    *,
    rival: tuple[MetaLearner, Meta, int] | None = None,
    samples: int = 12,
    seed: int = 0,
):
    """One column per task (as ``verification.sines_lines.examples`` gives them): support points, the true curve and curves from
    samples of the code; above before the inner loop, in the middle after the steps on the code, below after fine-tuning.

    rival: another learner, its meta-parameters and its number of inner steps (MAML), drawn into the last row.
    """
    stages = {
        0: "before the inner loop",
        learner.latent_steps: f"after {learner.latent_steps} steps on z",
        learner.latent_steps + learner.finetuning_steps: f"and {learner.finetuning_steps} on the parameters",
    }
    fig, axes = figure(
        len(stages), len(tasks), width=3.0 * len(tasks), height=6.6, sharex=True, sharey="col", squeeze=False
    )
    said = []
    for column, (title, task) in enumerate(tasks.items()):
        curves = sampled_curves(learner, meta, task, samples, seed)
        truth = task.curves.at(GRID[None])[0, :, 0]
        low, high = float(truth.min()), float(truth.max())
        room = 1.5 + 0.25 * (high - low)
        for row, (step, stage) in enumerate(stages.items()):
            ax = axes[row][column]
            ax.plot(GRID, truth, color=GREEN, lw=5, alpha=0.35, label="true curve")
            for i, curve in enumerate(curves[:, step]):
                ax.plot(GRID, curve, color=ORANGE, lw=1, alpha=0.7, label="samples of z" if i == 0 else None)
            if rival is not None and row == len(stages) - 1:
                ax.plot(
                    GRID, _fit(*rival, task), color=BLUE, lw=1.8, ls="--", label=f"MAML, {rival[2]} steps"
                )
            ax.plot(
                task.support_x.flatten(),
                task.support_y.flatten(),
                "v",
                color=BLACK,
                markersize=6,
                label="support points",
            )
            ax.set_ylim(low - room, high + room)
            if column == 0:
                ax.set_ylabel(stage)
            if row == 0:
                ax.set_title(title, fontsize=11)
        spread = [float(curves[:, step].std(0).mean()) for step in stages]
        error = [float((curves[:, step].mean(0) - truth).square().mean()) for step in stages]
        said.append(
            f"{title}: mean spread of the curves {spread[0]:.2f}, then {spread[1]:.2f}, then {spread[2]:.2f}; mean squared "
            f"error of their mean {error[0]:.2f}, then {error[1]:.2f}, then {error[2]:.2f}"
        )
    for ax in axes[-1]:
        ax.set_xlabel("x")
    handles, labels = axes[-1][0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9, frameon=False)
    return fig, (
        "A grid of panels, one column per task and one row per stage of the inner loop. Each shows five support points, the "
        f"true curve and {samples} curves from samples of the latent code. " + "; ".join(said) + "."
    )


def _fit(learner: MetaLearner, meta: Meta, steps: int, task: KnownEpisode) -> Tensor:
    *_, params = learner.path(meta, task.support_x[0], task.support_y[0], steps)
    return learner.predict(params, GRID).flatten()


def error_by_step(record: dict, groups: tuple[str, ...] = ("all", "ambiguous")):
    """Mean squared error after each inner step on groups of tasks, with 95 % intervals.

    record: ``results.benchmark("sines_lines")``."""
    fig, axes = figure(1, len(groups), width=3.9 * len(groups), height=3.4, squeeze=False)
    latent = 5
    said = []
    for ax, group in zip(axes[0], groups, strict=True):
        row = record["groups"][group]
        for method in record["methods"]:
            colour, style = LOOK[method]
            mean = torch.tensor([step["mean"] for step in row[method]["by_step"]])
            ci95 = torch.tensor([step["ci95"] for step in row[method]["by_step"]])
            steps = torch.arange(len(mean))
            ax.plot(steps, mean, color=colour, ls=style, marker="o", markersize=3.5, label=NAMES[method])
            ax.fill_between(steps, mean - ci95, mean + ci95, color=colour, alpha=0.2, lw=0)
            said.append(
                f"{NAMES[method]} on {group}: {mean[0]:.2f} before the inner loop, {row[method]['mean']:.2f} at the reported step"
            )
        ax.axhline(row["best"]["mean"], color=GREY, ls=":", lw=1.6, label="best possible")
        ax.axvline(latent, color=GREY, lw=0.8)
        said.append(f"best possible on {group}: {row['best']['mean']:.2f}")
        ax.set(yscale="log", xlabel="inner steps", title=f"{group}: {row['tasks']:,} tasks")
    axes[0][0].set_ylabel("mean squared error on queries")
    axes[0][-1].legend(fontsize=9)
    return fig, "Mean squared error against inner steps, logarithmic. " + "; ".join(said) + "."


def spread_against_error(record: dict):
    """Whether a wide bundle of curves means a large error: root mean square of both in bins of equal size, before the inner loop,
    after the steps on z, and after all. record: ``results.benchmark("sines_lines")``."""
    fig, ax = figure(width=4.6, height=3.8)
    found = record["calibration"]
    looks = {
        "start": ("before the inner loop", GREY, "o:"),
        "after_latent_steps": ("after the steps on z", PURPLE, "s--"),
        "end": ("after all inner steps", ORANGE, "D-"),
    }
    said = []
    for key, (label, colour, style) in looks.items():
        x, y = found[key]["spread"], found[key]["error"]
        ax.plot(x, y, style, color=colour, label=label, markersize=5)
        said.append(
            f"{label}: spread {x[0]:.2f} goes with error {y[0]:.2f}, spread {x[-1]:.2f} with error {y[-1]:.2f}"
        )
    low, high = ax.get_xlim()[0], max(ax.get_xlim()[1], ax.get_ylim()[1])
    low = max(low, 1e-3)
    ax.plot([low, high], [low, high], color=BLACK, lw=1, label="spread = error")
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="spread of the curves at a query",
        ylabel="error of their mean there",
    )
    ax.legend(fontsize=9)
    return (
        fig,
        "Root mean squares, both axes logarithmic, with the diagonal on which spread and error are equal. "
        + "; ".join(said)
        + ".",
    )


PLACEMENTS = {
    "five over the whole range": (-4.0, -2.0, 0.0, 2.0, 4.0),
    "five on the left": (-4.5, -3.5, -2.5, -1.5, -0.5),
    "two on the left": (-4.0, -2.0),
}


def spread_by_placement(
    learner: LEORegression, meta: Meta, *, n_tasks: int = 60, samples: int = 12, seed: int = 5
):
    """Where on the x axis the curves of one task differ, before and after the inner loop, for support points in other places: the
    same ``n_tasks`` curves, spread averaged over them."""
    generator = torch.Generator().manual_seed(seed)
    tasks = SinesAndLines()
    curves: Curves = tasks.sample_curves(n_tasks, generator)
    noise = noise_of_codes(samples, learner.latent, seed)
    fig, axes = figure(1, len(PLACEMENTS), width=3.1 * len(PLACEMENTS), height=3.2, sharey=True)
    said = []
    for ax, (title, places) in zip(axes, PLACEMENTS.items(), strict=True):
        x = torch.tensor(places)[:, None].expand(n_tasks, -1, 1)
        y = curves.at(x) + tasks.noise * torch.randn(x.shape, generator=generator)
        drawn = vmap(learner.sampled_curves, in_dims=(None, 0, 0, None, None))(
            meta, x, y, GRID, noise
        ).squeeze(-1)
        spread = drawn.std(1).mean(0)  # [steps + 1, n]
        ax.plot(GRID, spread[0], color=GREY, ls=":", label="before the inner loop")
        ax.plot(GRID, spread[-1], color=ORANGE, label="after it")
        ax.plot(places, [0.0] * len(places), "v", color=BLACK, markersize=7, label="support points")
        ax.set(title=title, xlabel="x")
        said.append(
            f"{title}: after the inner loop the spread is {float(spread[-1, :40].mean()):.2f} on the left half and "
            f"{float(spread[-1, 41:].mean()):.2f} on the right half, before it {float(spread[0].mean()):.2f} overall"
        )
    axes[0].set_ylabel("spread of the curves")
    axes[-1].legend(fontsize=8.5)
    return fig, "Spread of sampled curves against x for three placements of support points. " + "; ".join(
        said
    ) + "."
