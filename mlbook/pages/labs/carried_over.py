"""The lab "What is carried over?": bus lines as tasks, and a learner that is judged on lines it has never seen."""

from __future__ import annotations

import torch
import traitlets

from mlbook.pages.labs import assets

LEARNERS = ("nothing", "mean", "both", "hand")
CITIES, SIGMA = (3.0, 9.0), 2.0
"""Mean delay of the lines of a city and of another one, and the standard deviation of a day, in minutes (chapter 1)."""
LINES, DAYS, DRAWS, FRESH, SHOTS = 20, 12, 5, 8, 10
"""Most training lines, days of each, sets of training lines, new lines, most days of a new line."""
DELAYS, SPREADS, SEED = (-4.0, 14.0), (0.0, 3.0), 514
"""What the page opens with is typical: six lines whose best start and rate are near those of the whole city."""


class CarriedOver(assets.Lab):
    """Choose what a learner keeps of the training tasks, and see its loss on them and on new tasks.

    A task is a bus line: its typical delay is drawn about the mean of the city with standard deviation ``spread``, its days about
    the typical delay with 2 minutes. The learner takes one gradient step with rate α from a start w on the days of the support
    set, θ = w − α(w − x̄). Its loss on the training lines is the mean over all splits of their 12 days, that on new lines is
    chapter 1's closed form (eq-01-expected).

    The arguments are the state in which the lab opens, and later the traits that follow what the reader does: ``learner``, what
    is carried over: ``nothing`` (w = 0, α = 1), ``mean`` (w is the mean of the training lines, α = 0), ``both`` (the w and α with
    the smallest loss on the training lines), ``hand`` (``start`` in minutes and ``rate`` from 0 to 1); ``tasks``, training lines
    from 1 to 20; ``shots`` K, from 1 to 10; ``spread`` s from 0 to 3 minutes; ``away``, whether new lines are in another city.
    Further traits: ``lines`` and ``line``, which draw of training lines and which new line is shown.
    Raises ``UserError`` for what the lab cannot show.
    """

    _esm, _css = assets.sources("carried_over", "plane")

    learner = traitlets.Unicode().tag(sync=True)
    start = traitlets.Float().tag(sync=True)
    rate = traitlets.Float().tag(sync=True)
    tasks = traitlets.Int().tag(sync=True)
    shots = traitlets.Int().tag(sync=True)
    spread = traitlets.Float().tag(sync=True)
    away = traitlets.Bool().tag(sync=True)
    lines = traitlets.Int().tag(sync=True)
    line = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        learner: str = "nothing",
        *,
        start: float = 0.0,
        rate: float = 1.0,
        tasks: int = 6,
        shots: int = 2,
        spread: float = 1.2,
        away: bool = False,
    ) -> None:
        g = torch.Generator().manual_seed(SEED)
        lines = torch.randn(DRAWS, LINES, 1 + DAYS, generator=g, dtype=torch.float64)
        fresh = torch.randn(FRESH, 1 + SHOTS, generator=g, dtype=torch.float64)
        super().__init__(
            setup={
                "cities": list(CITIES),
                "sigma": SIGMA,
                "delays": list(DELAYS),
                "most": SHOTS,
                "lines": ((1000 * lines).round() / 1000).tolist(),
                "fresh": ((1000 * fresh).round() / 1000).tolist(),
            },
            learner=assets.one_of(learner, "learner", LEARNERS),
            start=assets.within(start, "start", DELAYS),
            rate=assets.within(rate, "rate", (0, 1)),
            tasks=assets.whole(tasks, "tasks", 1, LINES),
            shots=assets.whole(shots, "shots", 1, SHOTS),
            spread=assets.within(spread, "spread", SPREADS),
            away=bool(away),
            lines=0,
            line=0,
        )
