"""Figures of chapters 1 and 2: block diagrams and the statistics of an evaluation.

Every function returns (figure, alt text).
"""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

from mlbook.pages.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, arrow, figure
from mlbook.training.evaluation import ci95

PAPER, CHOICE, MACHINE, DATA = "#FFFFFF", "#FBE3B5", "#CFE6F5", "#EDEDED"
"""Fill colours of the boxes: neutral, chosen by a person, done by the machine, data."""


# -- block diagrams ------------------------------------------------------------------------------------------------


def canvas(width: float, height: float):
    """An empty sheet whose units are inches, origin at the lower left."""
    fig = Figure(figsize=(width, height))
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    return fig, ax


def labelled_box(ax, x, y, w, h, text, *, fill=PAPER, edge=BLACK, size=10.0, style="-", weight="normal"):
    """A rounded box with centre (x, y); returns its centre."""
    shape = FancyBboxPatch(
        (x - w / 2, y - h / 2),
        w,
        h,
        boxstyle="round,pad=0,rounding_size=0.07",
        fc=fill,
        ec=edge,
        lw=1.2,
        ls=style,
    )
    ax.add_patch(shape)
    ax.text(x, y, text, ha="center", va="center", fontsize=size, weight=weight, linespacing=1.25)
    return x, y


def polyline(ax, points, *, colour=BLACK, style="-", width=1.3):
    """A line with corners that ends in an arrow head."""
    x, y = zip(*points[:-1], strict=True)
    ax.plot(x, y, color=colour, lw=width, ls=style, solid_capstyle="round")
    arrow(ax, points[-2], points[-1], colour=colour, style=style, width=width)


def learning_and_meta_learning():
    """Ordinary learning finds f*, meta-learning finds F."""
    fig, ax = canvas(5.2, 4.5)
    ax.text(0.1, 4.28, "Ordinary learning finds a model", fontsize=11.5, weight="bold")
    labelled_box(ax, 0.95, 3.55, 1.5, 0.72, "one data set\nof one task", fill=DATA)
    labelled_box(ax, 2.75, 3.55, 1.4, 0.72, "learning\nalgorithm $F$", fill=CHOICE)
    labelled_box(ax, 4.4, 3.55, 1.2, 0.72, "model $f^*$", fill=MACHINE)
    arrow(ax, (1.7, 3.55), (2.05, 3.55))
    arrow(ax, (3.45, 3.55), (3.8, 3.55))
    ax.text(2.75, 2.98, "set up by a person", fontsize=9.5, ha="center", color="#7A4E00")

    ax.plot([0.1, 5.1], [2.72, 2.72], color=GREY, lw=0.8, ls=":")
    ax.text(0.1, 2.4, "Meta-learning finds a learning algorithm", fontsize=11.5, weight="bold")
    labelled_box(ax, 0.95, 1.68, 1.5, 0.72, "many\ntraining tasks", fill=DATA)
    labelled_box(ax, 2.75, 1.68, 1.4, 0.72, "meta-learning", fill=CHOICE)
    labelled_box(ax, 4.4, 1.68, 1.2, 0.72, "learning\nalgorithm $F$", fill=MACHINE)
    arrow(ax, (1.7, 1.68), (2.05, 1.68))
    arrow(ax, (3.45, 1.68), (3.8, 1.68))
    labelled_box(ax, 0.95, 0.45, 1.5, 0.68, "few data of\na new task", fill=DATA)
    labelled_box(ax, 2.75, 0.45, 1.4, 0.68, "$F$", fill=MACHINE, size=13)
    labelled_box(ax, 4.4, 0.45, 1.2, 0.68, "its model\n$f = F(\\mathrm{data})$", fill=MACHINE, size=9.5)
    polyline(ax, [(4.4, 1.32), (4.4, 1.05), (2.75, 1.05), (2.75, 0.79)], colour=BLUE)
    arrow(ax, (1.7, 0.45), (2.05, 0.45))
    arrow(ax, (3.45, 0.45), (3.8, 0.45))
    return fig, (
        "Two rows of boxes. Upper row, ordinary learning: one data set of one task goes into a learning "
        "algorithm F, which a person "
        "set up, and out comes a model f star. Lower row, meta-learning: many training tasks go into "
        "meta-learning, and out comes the "
        "learning algorithm F itself; given the few data of a new task, F returns a model f for that task."
    )


def tasks_as_units():
    """Training tasks and a test task, each with a support and a query set."""
    fig, ax = canvas(5.2, 4.0)
    ax.text(0.12, 3.72, "training tasks", fontsize=11.5, weight="bold")
    ax.text(1.42, 3.72, "(across tasks): to learn $\\omega$", fontsize=10.5)
    rows = [("task 1", 3.3), ("task 2", 2.72), ("task $M$", 1.86)]
    for name, y in rows:
        ax.text(0.12, y, name, fontsize=10.5, va="center")
        labelled_box(ax, 1.95, y, 1.75, 0.44, "support set", fill=DATA)
        labelled_box(ax, 4.05, y, 1.75, 0.44, "query set", fill="#F4E1EC")
        arrow(ax, (2.83, y), (3.17, y))
    ax.text(0.3, 2.29, "$\\vdots$", fontsize=12, va="center")
    ax.text(3.0, 2.29, "$\\vdots$", fontsize=12, va="center", ha="center")
    ax.plot([0.1, 5.1], [1.42, 1.42], color=GREY, lw=0.8, ls=":")
    ax.text(0.12, 1.08, "test task", fontsize=11.5, weight="bold")
    ax.text(1.0, 1.08, "(within task): new; to judge what was learned", fontsize=10.5)
    ax.text(0.12, 0.6, "task", fontsize=10.5, va="center")
    labelled_box(ax, 1.95, 0.6, 1.75, 0.44, "support set", fill=DATA)
    labelled_box(ax, 4.05, 0.6, 1.75, 0.44, "query set", fill="#F4E1EC")
    arrow(ax, (2.83, 0.6), (3.17, 0.6))
    ax.text(1.95, 0.2, "learn $\\theta$ from it", fontsize=9.5, ha="center", color="#444444")
    ax.text(4.05, 0.2, "score $\\theta$ on it", fontsize=9.5, ha="center", color="#444444")
    return fig, (
        "A list of training tasks, task 1, task 2 and so on up to task M, and below a line one test task. "
        "Every task is a pair of boxes: "
        "a support set, from which the task is learned, and a query set, on which the result is scored."
    )


def ordinary_training():
    """The steps of ordinary training; what a person chooses, and the research field that learns that choice."""
    fig, ax = canvas(5.6, 6.12)
    steps = [
        ("data and their processing $D$", "learned augmentation:\nDADA (chapter 16)"),
        ("architecture $A$", "architecture search:\nNAS (chapter 17)"),
        ("initial parameters $\\theta^0$", "learned initialisation:\nMAML (chapter 4)"),
        ("optimiser $U$", "learned update rules\n(chapter 15)"),
        ("learning rate $\\alpha$", "learned rates:\nMeta-SGD (chapter 5)"),
        ("loss $\\ell$, other settings $H$", "settings: chapter 18;\nlosses: not in this book"),
    ]
    ax.text(1.55, 5.9, "chosen by a person", fontsize=10.5, ha="center", weight="bold")
    ax.text(4.35, 5.9, "the field that learns it", fontsize=10.5, ha="center", weight="bold")
    y = 5.47
    for i, (choice, field) in enumerate(steps):
        labelled_box(ax, 1.55, y, 2.7, 0.46, choice, fill=CHOICE, size=10)
        labelled_box(ax, 4.35, y, 2.1, 0.5, field, fill=PAPER, edge=GREY, size=9.2)
        ax.plot([2.9, 3.3], [y, y], color=GREY, lw=1, ls=":")
        if i:
            arrow(ax, (1.55, y + 0.39), (1.55, y + 0.23))
        y -= 0.62
    arrow(ax, (1.55, y + 0.39), (1.55, y + 0.2))
    labelled_box(ax, 1.55, y - 0.06, 2.7, 0.52, "compute the loss and\nits gradient on a batch", fill=MACHINE)
    labelled_box(ax, 1.55, y - 0.78, 2.7, 0.46, "update $\\theta$", fill=MACHINE)
    arrow(ax, (1.55, y - 0.32), (1.55, y - 0.55))
    polyline(ax, [(2.9, y - 0.78), (3.25, y - 0.78), (3.25, y - 0.06), (2.9, y - 0.06)], colour=BLUE)
    ax.text(3.35, y - 0.42, "repeat\n$t = 1, 2, \\dots$", fontsize=10, va="center", color=BLUE)
    arrow(ax, (1.55, y - 1.01), (1.55, y - 1.18))
    ax.text(1.55, y - 1.3, "model $f_{\\theta^*}$", fontsize=11, ha="center", va="center")
    return fig, (
        "A flow chart of ordinary training. Six boxes chosen by a person: data and their processing, the "
        "architecture, the initial "
        "parameters, the optimiser, the learning rate, loss and other settings. Beside each stands the field "
        "that learns it: augmentation "
        "with DADA, architecture search, MAML, learned update rules, Meta-SGD, chapter 18 for the settings. Below, the part "
        "of the machine: compute "
        "loss and gradient, update the parameters, repeat, until a trained model comes out."
    )


def stage_one():
    """Training on training tasks: three tasks, their query losses, the sum, the way back to ω."""
    fig, ax = canvas(5.4, 5.0)
    labelled_box(ax, 2.95, 4.65, 1.6, 0.5, "$F_\\omega$", fill=MACHINE, size=13)
    xs = (1.3, 2.95, 4.6)
    for x, name in zip(xs, ("1", "2", "T"), strict=True):
        arrow(ax, (2.95 + 0.45 * (x - 2.95), 4.4), (x, 3.98))
        labelled_box(ax, x, 3.7, 1.35, 0.54, f"support set\nof task ${name}$", fill=DATA, size=9.5)
        arrow(ax, (x, 3.43), (x, 3.1))
        labelled_box(ax, x, 2.86, 1.1, 0.46, f"$\\theta_{name}$", fill=MACHINE, size=13)
        arrow(ax, (x, 2.63), (x, 2.3))
        labelled_box(ax, x, 2.03, 1.35, 0.54, f"query set\nof task ${name}$", fill="#F4E1EC", size=9.5)
        arrow(ax, (x, 1.76), (x, 1.47))
        ax.text(x, 1.32, f"$l_{name}$", fontsize=13, ha="center", va="center")
        arrow(ax, (x + 0.12 * (2.95 - x), 1.2), (2.95 + 0.4 * (x - 2.95), 0.86))
    ax.text(3.78, 2.86, "$\\cdots$", fontsize=14, ha="center", va="center")
    labelled_box(ax, 2.95, 0.6, 3.0, 0.5, "$L(\\omega) = l_1 + l_2 + \\dots + l_T$", fill=PAPER, size=12)
    polyline(ax, [(1.45, 0.6), (0.34, 0.6), (0.34, 4.65), (2.15, 4.65)], colour=RED, style="--", width=1.6)
    ax.text(
        0.17,
        2.7,
        "change $\\omega$ so that $L$ falls",
        fontsize=10,
        color=RED,
        rotation=90,
        ha="center",
        va="center",
    )
    ax.text(
        2.95,
        0.14,
        "by its gradient; else by RL or evolution",
        fontsize=9.5,
        ha="center",
        va="center",
        color=RED,
    )
    return fig, (
        "Block diagram of stage one. The learner F with settings omega receives the support sets of tasks 1 to "
        "T and turns each into its own "
        "parameters theta 1 to theta T. Each is scored on the query set of its task, which gives the losses l "
        "1 to l T. Their sum is the "
        "loss of omega. A dashed line leads from the sum back to F: omega is changed so that the sum falls."
    )


def stage_two():
    """The test task: ω stands still."""
    fig, ax = canvas(5.4, 2.1)
    labelled_box(ax, 0.9, 1.0, 1.3, 0.6, "support set of\nthe test task", fill=DATA, size=9.5)
    labelled_box(ax, 2.55, 1.0, 1.1, 0.6, "$F_{\\omega^*}$", fill=MACHINE, size=13)
    labelled_box(ax, 3.75, 1.0, 0.7, 0.6, "$\\theta$", fill=MACHINE, size=13)
    labelled_box(ax, 4.8, 1.0, 0.9, 0.6, "query\nset", fill="#F4E1EC", size=9.5)
    arrow(ax, (1.55, 1.0), (2.0, 1.0))
    arrow(ax, (3.1, 1.0), (3.4, 1.0))
    arrow(ax, (4.1, 1.0), (4.35, 1.0))
    arrow(ax, (4.8, 0.7), (4.8, 0.42))
    ax.text(4.8, 0.26, "score", fontsize=11, ha="center", va="center")
    arrow(ax, (2.55, 1.68), (2.55, 1.3), colour=BLUE)
    ax.text(
        2.55,
        1.84,
        "$\\omega^*$ from stage one, fixed from now on",
        fontsize=10.5,
        ha="center",
        va="center",
        color=BLUE,
    )
    ax.text(
        0.9, 0.26, "no arrow leads back to $\\omega$", fontsize=9.5, ha="center", va="center", color="#444444"
    )
    return fig, (
        "Block diagram of stage two. The support set of the test task goes into the learner F with the "
        "settings omega found in stage one, "
        "which are fixed; out come parameters theta, scored on the query set of the same task. No arrow leads "
        "back to omega."
    )


def lifelong_and_meta():
    """One model for all tasks against one learner and a model for each."""
    fig, ax = canvas(5.4, 3.6)
    ax.text(1.3, 3.38, "life-long learning", fontsize=11.5, weight="bold", ha="center")
    ax.text(4.1, 3.38, "meta-learning", fontsize=11.5, weight="bold", ha="center")
    ax.plot([2.7, 2.7], [0.1, 3.5], color=GREY, lw=0.8, ls=":")
    for i, y in enumerate((2.75, 1.85, 0.95), 1):
        labelled_box(ax, 0.6, y, 0.85, 0.46, f"task {i}", fill=DATA)
        labelled_box(ax, 1.95, y, 0.95, 0.5, "model $f$", fill=MACHINE)
        arrow(ax, (1.03, y), (1.47, y))
        if i < 3:
            arrow(ax, (1.95, y - 0.25), (1.95, y - 0.65), colour=BLUE)
    ax.text(1.3, 0.34, "one model, which must\nnot forget task 1", fontsize=9.8, ha="center", va="center")
    labelled_box(ax, 4.1, 1.85, 0.62, 2.3, "$F_\\omega$", fill=MACHINE, size=13)
    for i, y in enumerate((2.75, 1.85, 0.95), 1):
        labelled_box(ax, 3.22, y, 0.75, 0.46, f"task {i}", fill=DATA)
        arrow(ax, (3.6, y), (3.79, y))
        arrow(ax, (4.41, y), (4.6, y))
        labelled_box(ax, 4.95, y, 0.68, 0.5, f"$f_{i}$", fill=MACHINE, size=12)
    ax.text(4.1, 0.34, "one learner, and a\nmodel for each task", fontsize=9.8, ha="center", va="center")
    return fig, (
        "Left, life-long learning: tasks 1, 2 and 3 arrive one after the other at the same model, which is "
        "handed on from task to task. "
        "Right, meta-learning: tasks 1, 2 and 3 go into one learner F, which returns a model of its own for "
        "each."
    )


# -- chapter 1: the bus lines ----------------------------------------------------------------------------------------


def known_lines(days: Tensor, new: Tensor):
    """Delays of known bus lines [lines, days] and the few known ones of a new line [days]."""
    fig, ax = figure(width=5.2, height=3.3)
    lines = days.shape[0]
    for i in range(lines):
        ax.plot(days[i], torch.full_like(days[i], lines - i), "o", color=GREY, alpha=0.55, markersize=5)
        ax.plot(days[i].mean(), lines - i, "|", color=BLACK, markersize=17, mew=2.2)
    ax.plot(new, torch.zeros_like(new), "v", color=BLUE, markersize=10)
    labels = ["new line"] + [f"line {lines - i}" for i in range(lines)]
    ax.set(xlabel="minutes late", ylim=(-0.7, lines + 0.6))
    ax.set_yticks(range(lines + 1), labels)
    means = days.mean(1)
    values = " and ".join(f"{v:.1f}" for v in new.tolist())
    return fig, (
        f"Delays in minutes of {lines} known bus lines, {days.shape[1]} days each; the means of the lines lie "
        f"between {means.min():.1f} and "
        f"{means.max():.1f} minutes. In the bottom row, a new line with {len(new)} days only: {values} minutes."
    )


def omega_path(path: Tensor, optimum: tuple[float, float], objective):
    """The way of ω = (start, rate) over the contours of the expected query loss. path [steps + 1, 2]."""
    fig, ax = figure(width=5.2, height=3.8)
    start = torch.linspace(-0.6, 5.0, 140, dtype=torch.float64)
    rate = torch.linspace(-0.15, 1.15, 140, dtype=torch.float64)
    grid = objective(start[None, :], rate[:, None])
    low = float(objective(torch.tensor(optimum[0]), torch.tensor(optimum[1])))
    levels = [low + d for d in (0.05, 0.2, 0.5, 1, 2, 4, 8)]
    contours = ax.contour(start, rate, grid, levels=levels, colors=GREY, linewidths=0.8)
    ax.clabel(contours, fontsize=8, fmt="%.1f")
    ax.plot(path[:, 0], path[:, 1], color=BLUE, lw=2.2, label="path of ω")
    ax.plot(*path[0], "s", color=BLACK, markersize=8, label="set by hand")
    ax.plot(*path[-1], "o", color=BLUE, markersize=8, label="learned")
    ax.plot(*optimum, "*", color=RED, markersize=15, label="best, by the formula")
    ax.set(xlabel="start $w^0$ (minutes)", ylabel="rate α", ylim=(-0.15, 1.1))
    ax.legend(fontsize=9, loc="lower left")
    return fig, (
        "Contours of the expected query loss over start and rate. The path of omega begins at start "
        f"{path[0, 0]:.1f}, rate {path[0, 1]:.1f} and ends at start {path[-1, 0]:.2f}, rate {path[-1, 1]:.2f}, "
        "beside the star of the "
        f"formula at start {optimum[0]:.2f}, rate {optimum[1]:.2f}."
    )


def training_tasks(counts: list[int], losses: Tensor, best: float, by_hand: float):
    """Query loss on new tasks against the number of training tasks. losses [counts, runs]."""
    fig, ax = figure(width=5.2, height=3.2)
    for c, row in zip(counts, losses, strict=True):
        ax.plot([c] * len(row), row, "o", color=BLUE, alpha=0.35, markersize=4.5, mew=0)
    mean = losses.median(1).values
    ax.plot(counts, mean, color=BLUE, lw=2, label="learned F (median of the runs)")
    ax.axhline(by_hand, color=BLACK, ls=":", lw=1.4, label="F set by hand")
    ax.axhline(best, color=RED, ls="--", lw=1.4, label="best F, by the formula")
    ax.set(
        xscale="log",
        xlabel="number of training tasks",
        ylabel="query loss on new tasks",
        ylim=(best - 0.2, by_hand + 1.6),
    )
    ax.set_xticks(counts, [str(c) for c in counts])
    ax.minorticks_off()
    ax.legend(fontsize=9, loc="upper right")
    said = ", ".join(f"{c} tasks {m:.2f}" for c, m in zip(counts, mean.tolist(), strict=True))
    return fig, (
        f"Query loss on new tasks against the number of training tasks, {losses.shape[1]} runs each, median: "
        f"{said}. Lines: {by_hand:.2f} "
        f"for the learner set by hand, {best:.2f} for the best one."
    )


# -- chapter 2: tasks --------------------------------------------------------------------------------------------------


def _picture(ax, image: Tensor, *, colour=BLACK, width: float = 0.8):
    ax.imshow(image, cmap="gray_r", interpolation="nearest", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(True)
    ax.spines[:].set_color(colour)
    ax.spines[:].set_linewidth(width)


def game(support: Tensor, query: Tensor):
    """Rounds of a few-shot game: support [R, N, H, W], query [R, H, W]."""
    R, N = support.shape[:2]
    ratios = [1] * N + [0.35, 1]
    fig, axes = figure(
        R, N + 2, width=5.4, height=0.86 * R + 0.35, gridspec_kw={"width_ratios": ratios}, squeeze=False
    )
    for r in range(R):
        for n in range(N):
            _picture(axes[r, n], support[r, n])
        axes[r, N].axis("off")
        _picture(axes[r, N + 1], query[r], colour=PURPLE, width=2.0)
        axes[r, 0].set_ylabel("ABCDEFGH"[r], rotation=0, fontsize=13, labelpad=10, va="center")
    for n in range(N):
        axes[0, n].set_title(f"{n + 1}", fontsize=12)
    axes[0, N + 1].set_title("which?", fontsize=11, color=PURPLE)
    return fig, (
        f"{R} rounds of a game, one per row. Each row shows {N} characters of different classes, numbered 1 to "
        f"{N}, and at the right one "
        "new drawing of one of these classes."
    )


def episode_sets(support: Tensor, query: Tensor, n_way: int, what: str):
    """One episode as a grid, a class per row. support [N·K, H, W], query [N·Q, H, W], ordered by class."""
    K, Q = support.shape[0] // n_way, query.shape[0] // n_way
    ratios = [1] * K + [0.3] + [1] * Q
    width = 5.4
    height = width / sum(ratios) * 1.02 * n_way + 0.5
    fig, axes = figure(
        n_way, K + 1 + Q, width=width, height=height, gridspec_kw={"width_ratios": ratios}, squeeze=False
    )
    for n in range(n_way):
        for k in range(K):
            _picture(axes[n, k], support[n * K + k], width=1.2)
        axes[n, K].axis("off")
        for q in range(Q):
            _picture(axes[n, K + 1 + q], query[n * Q + q], colour=PURPLE, width=1.2)
        axes[n, 0].set_ylabel(f"label {n}", fontsize=10)
    axes[0, (K - 1) // 2].set_title("support", fontsize=11)
    axes[0, K + 1 + (Q - 1) // 2].set_title("query", fontsize=11, color=PURPLE)
    return fig, (
        f"One episode of {what}: {n_way} rows, one class each; {K} support drawing{'s' if K > 1 else ''} of "
        "the class in the left block, "
        f"{Q} other drawings of it in the query block at the right."
    )


def rotations(per_task: Tensor, as_classes: Tensor, what: str):
    """The same character under the two conventions: per_task [episodes, H, W], as_classes [4, H, W]."""
    n = max(len(per_task), len(as_classes))
    fig, axes = figure(2, n, width=5.4, height=2.9, squeeze=False)
    for i in range(n):
        for row, images in enumerate((per_task, as_classes)):
            if i < len(images):
                _picture(axes[row, i], images[i], colour=(BLUE, GREEN)[row], width=1.6)
                axes[row, i].set_title(f"{('episode', 'class')[row]} {i + 1}", fontsize=10)
            else:
                axes[row, i].axis("off")
    axes[0, 0].set_ylabel("one class", fontsize=10, color=BLUE)
    axes[1, 0].set_ylabel("four classes", fontsize=10, color=GREEN)
    return fig, (
        f"One character ({what}). Upper row: in {len(per_task)} episodes it is the same class, turned by a "
        "random multiple of 90 degrees in "
        f"each. Lower row: its {len(as_classes)} rotations are {len(as_classes)} different classes."
    )


def resized(original: Tensor, pictures: dict[str, Tensor]):
    """A large bitmap and what becomes of it under several ways to shrink it. All images in [0, 1]."""
    fig, axes = figure(1, 1 + len(pictures), width=5.6, height=2.5, squeeze=False)
    _picture(axes[0, 0], original)
    axes[0, 0].set_title(f"file, {original.shape[0]}×{original.shape[1]}", fontsize=9.5)
    said = []
    for ax, (name, image) in zip(axes[0, 1:], pictures.items(), strict=True):
        _picture(ax, image)
        ax.set_title(name, fontsize=9.5)
        said.append(f"{name.replace(chr(10), ' ')}: {len(image.unique())} grey values")
    return fig, "A bitmap of a stroke character and its small copies. " + "; ".join(said) + "."


def sine_tasks(x: Tensor, curves: Tensor, support_x: Tensor, support_y: Tensor):
    """Sine tasks with their support points: x [P], curves [T, P], support_x and support_y [T, K]."""
    fig, ax = figure(width=5.2, height=3.2)
    colours = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY)
    for i, curve in enumerate(curves):
        ax.plot(x, curve, color=colours[i % 6], lw=1.6, alpha=0.8)
        ax.plot(support_x[i], support_y[i], "v", color=colours[i % 6], markersize=7)
    ax.set(xlabel="x", ylabel="y")
    heights = ", ".join(f"{float(c.abs().max()):.1f}" for c in curves)
    return fig, (
        f"{len(curves)} sine waves between x = {float(x[0]):.0f} and {float(x[-1]):.0f}, of largest heights "
        f"{heights}, each with "
        f"{support_x.shape[1]} support points."
    )


# -- chapter 2: measuring ---------------------------------------------------------------------------------------------


def accuracies(scores: Tensor, chance: float):
    """Histogram of the accuracies of single tasks, with their mean and its 95 % interval."""
    fig, ax = figure(width=5.2, height=3.0)
    values, counts = scores.unique(return_counts=True)
    gap = float((values[1:] - values[:-1]).min()) if len(values) > 1 else 0.04
    ax.bar(100 * values, counts, width=85 * gap, color=SKY)
    mean, s, n = float(scores.mean()), float(scores.std()), len(scores)
    half = float(ci95(scores, correction=1))
    ax.axvspan(
        100 * (mean - half), 100 * (mean + half), color=RED, alpha=0.35, lw=0, label="mean ± 1.96 s/√n"
    )
    ax.axvline(100 * chance, color=BLACK, ls=":", lw=1.4, label="chance")
    ax.set(xlabel="accuracy on the query set of one task (%)", ylabel="tasks", xlim=(-3, 103))
    ax.legend(fontsize=9)
    return fig, (
        f"Histogram of the accuracies of {n} tasks. They reach from {100 * float(values[0]):.0f} % to "
        f"{100 * float(values[-1]):.0f} %, with "
        f"standard deviation {100 * s:.1f}; a narrow band at {100 * mean:.1f} plus or minus {100 * half:.1f} % "
        "marks the mean and its interval."
    )


def interval_width(spreads: dict[str, float], marks: tuple[int, ...] = (600, 10_000)):
    """Half-width of the 95 % interval against the number of tasks, for several standard deviations over tasks."""
    fig, ax = figure(width=5.2, height=3.3)
    n = torch.logspace(1, 5, 60)
    said = []
    for i, (name, s) in enumerate(spreads.items()):
        colour = (BLUE, ORANGE, GREEN, PURPLE)[i % 4]
        ax.plot(n, 196 * s / n.sqrt(), color=colour, lw=1.8, label=name)
        for mark in marks:
            ax.plot(mark, 196 * s / mark**0.5, "o", color=colour, markersize=6)
        said.append(name + ": " + ", ".join(f"{196 * s / m**0.5:.2f} at {m:,} tasks" for m in marks))
    ax.set(xscale="log", yscale="log", xlabel="test tasks n", ylabel="half-width (percentage points)")
    ax.legend(fontsize=9)
    return (
        fig,
        "Half-width of the 95 % interval against the number of test tasks, straight lines falling with the "
        "square root. " + "; ".join(said) + ".",
    )


def repeated_intervals(means: Tensor, halves: Tensor, truth: float):
    """Intervals of repeated evaluations; those that miss the truth are red."""
    fig, ax = figure(width=5.2, height=3.0)
    miss = (means - truth).abs() > halves
    for i, (m, h, out) in enumerate(zip(means.tolist(), halves.tolist(), miss.tolist(), strict=True)):
        ax.plot([i, i], [100 * (m - h), 100 * (m + h)], color=RED if out else BLUE, lw=1.6)
    ax.axhline(100 * truth, color=BLACK, ls="--", lw=1.2, label="mean over very many tasks")
    ax.set(xlabel="evaluation number", ylabel="accuracy (%)")
    ax.margins(y=0.14)
    ax.legend(fontsize=9, loc="lower right")
    return fig, (
        f"{len(means)} repeated evaluations of one learner, each a vertical bar for its 95 % interval; a "
        "dashed line marks the mean over very "
        f"many tasks, {100 * truth:.1f} %. {int(miss.sum())} of the bars, drawn in red, miss it."
    )


def paired(first: Tensor, second: Tensor, names: tuple[str, str]):
    """Two learners on the same tasks: their own intervals, and the interval of the paired difference."""
    fig, axes = figure(2, 1, width=5.2, height=3.3, gridspec_kw={"height_ratios": [2, 1.2]})
    n = len(first)
    said = []
    for i, (scores, name) in enumerate(zip((first, second), names, strict=True)):
        mean, half = 100 * float(scores.mean()), 100 * float(ci95(scores, correction=1))
        axes[0].errorbar(mean, 1 - i, xerr=half, fmt="o", color=(GREY, BLUE)[i], capsize=4, lw=1.8)
        said.append(f"{name} {mean:.1f} plus or minus {half:.1f} %")
    axes[0].set_yticks([1, 0], list(names))
    axes[0].set(ylim=(-0.6, 1.6), xlabel="accuracy (%)")
    difference = second - first
    mean, half = 100 * float(difference.mean()), 100 * float(ci95(difference, correction=1))
    axes[1].errorbar(mean, 0, xerr=half, fmt="o", color=GREEN, capsize=4, lw=1.8)
    axes[1].axvline(0, color=BLACK, lw=1, ls=":")
    axes[1].set_yticks([0], ["difference\nper task"])
    axes[1].set(ylim=(-0.6, 0.6), xlabel="percentage points")
    said.append(f"the paired difference {mean:.2f} plus or minus {half:.2f} points")
    return fig, f"Two learners on the same {n} tasks with 95 % intervals: " + "; ".join(said) + "."
