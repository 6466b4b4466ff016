"""Figures of LEO on sines and lines. Every function returns (figure, alt text)."""

from __future__ import annotations

import torch
from matplotlib.lines import Line2D
from torch import Tensor

from mlbook.meta_learners import LEORegression
from mlbook.meta_learners.base import Meta, MetaLearner
from mlbook.pages.checks.sines_lines import posterior_curves
from mlbook.pages.figures.style import BLACK, BLUE, COLOURS, GREEN, GREY, ORANGE, PURPLE, figure
from mlbook.tasks.sines_lines import KnownEpisode, SinesAndLines

NAMES = {"leo": "LEO", "maml": "MAML"}
LOOK = {"leo": (ORANGE, "-"), "maml": (COLOURS["maml"], "--")}
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
    """One row per task (as ``checks.sines_lines.examples`` gives them): support points, the true curve, and curves from
    samples of the code before the inner loop, after the steps on the code and after fine-tuning; at the right draws from the
    exact posterior.

    rival: another learner, its meta-parameters and its number of inner steps (MAML), drawn beside LEO's last curves.
    """
    stages = {
        "before the inner loop": 0,
        f"after {learner.latent_steps} steps on z": learner.latent_steps,
        f"and {learner.finetuning_steps} on the parameters": learner.latent_steps + learner.finetuning_steps,
    }
    titles = [*stages, "exact posterior"]
    fig, axes = figure(
        len(tasks), 4, width=9.6, height=2.35 * len(tasks), sharex=True, sharey="row", squeeze=False
    )
    said = []
    for row, (name, task) in zip(axes, tasks.items(), strict=True):
        of_codes = sampled_curves(learner, meta, task, samples, seed)
        drawn = [of_codes[:, step] for step in stages.values()] + [exact_curves(task, samples, seed)]
        truth = task.curves.at(GRID[None])[0, :, 0]
        room = 1.5 + 0.25 * float(truth.max() - truth.min())
        for ax, title, curves in zip(row, titles, drawn, strict=True):
            ax.plot(GRID, truth, color=GREEN, lw=5, alpha=0.35, label="true curve")
            exact = title == titles[-1]
            ax.plot(GRID, curves.t(), color=PURPLE if exact else ORANGE, lw=1, alpha=0.7)
            if rival is not None and title == titles[-2]:
                ax.plot(
                    GRID, _fit(*rival, task), color=BLUE, lw=1.8, ls="--", label=f"MAML, {rival[2]} steps"
                )
            ax.plot(
                task.support_x[0], task.support_y[0], "v", color=BLACK, markersize=6, label="support points"
            )
            ax.set_ylim(float(truth.min()) - room, float(truth.max()) + room)
            if ax in axes[0]:
                ax.set_title(title, fontsize=10)
        row[0].set_ylabel(name)
        spread = ", ".join(f"{float(curves.std(0).mean()):.2f}" for curves in drawn)
        error = ", ".join(f"{float((curves.mean(0) - truth).square().mean()):.2f}" for curves in drawn)
        said.append(f"{name}: mean spread of the curves {spread}; mean squared error of their mean {error}")
    for ax in axes[-1]:
        ax.set_xlabel("x")
    handles, labels = axes[0][2].get_legend_handles_labels()
    handles += [Line2D([], [], color=ORANGE), Line2D([], [], color=PURPLE)]
    labels += ["samples of z", "draws from the exact posterior"]
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9, frameon=False)
    return fig, (
        f"Panels, one row per task and four columns: {', '.join(titles)}. Each shows the support points, the true curve and "
        f"{samples} curves, in the first three columns from samples of the latent code. "
        + "; ".join(said)
        + "."
    )


def exact_curves(task: KnownEpisode, samples: int, seed: int = 0) -> Tensor:
    """Draws from the exact posterior of one task (axes [1, ...]) over ``GRID``: [S, n]."""
    generator = torch.Generator().manual_seed(seed)
    curves = posterior_curves(SinesAndLines(), task.support_x[0], task.support_y[0], samples, generator)
    return curves.at(GRID.double().expand(samples, -1, 1)).squeeze(-1).float()


def _fit(learner: MetaLearner, meta: Meta, steps: int, task: KnownEpisode) -> Tensor:
    *_, params = learner.path(meta, task.support_x[0], task.support_y[0], steps)
    return learner.predict(params, GRID).flatten()


def error_by_step(record: dict, groups: tuple[str, ...] = ("all", "ambiguous")):
    """Mean squared error after each inner step on groups of tasks, with 95 % intervals.

    record: ``results.study("sines_lines")``."""
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
                f"{NAMES[method]} on {group}: {mean[0]:.2f} before the inner loop, {row[method]['mean']:.2f} after "
                f"{record['step']} steps"
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
    after the steps on z, and after all. record: ``results.study("sines_lines")``."""
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
    low, high = min(found[key]["spread"][0] for key in looks), max(ax.get_ylim()[1], ax.get_xlim()[1])
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
