"""The lab "The estimator playground": Gumbel-softmax, REINFORCE and RELAX on a choice whose gradient is known."""

from __future__ import annotations

from collections.abc import Sequence

import traitlets

from mlbook.pages.labs import assets

OUTPUTS, LOGITS, TEMPERATURE, SCALE = (-2.0, 2.0), (-3.0, 3.0), (0.1, 2.0), (0.0, 2.0)
DRAWS, OPTIONS = 1000, 4


class ChoiceGradients(assets.Lab):
    """Shape what four options give, say what is wanted, and compare three estimates of the gradient of the mean loss.

    Option k gives the output v_k; the loss of a choice b is f(b) = (b·v − t)². The options are chosen with p = softmax(π). An
    estimate of dJ/dπ, J = Σ p_k f_k, is made from each of 1000 draws; the lab shows how far their mean is from the truth, and
    how much one of them varies, over the temperature. RELAX has the control variate ``scale`` · f(softmax(z / temperature)).

    The arguments are the state in which the lab opens, and later the traits that follow what the reader does: ``outputs`` v and
    ``target`` t from -2 to 2, ``logits`` π from -3 to 3, ``temperature`` from 0.1 to 2, ``scale`` from 0 to 2, and the ``seed``
    of the draws. Raises ``UserError`` for what the lab cannot show.

    Source: Grathwohl et al. (2018), Backpropagation through the Void; Tucker et al. (2017), REBAR.
    """

    _esm, _css = assets.sources("choice_gradients", "plane")

    outputs = traitlets.List().tag(sync=True)
    target = traitlets.Float().tag(sync=True)
    logits = traitlets.List().tag(sync=True)
    temperature = traitlets.Float().tag(sync=True)
    scale = traitlets.Float().tag(sync=True)
    seed = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        outputs: Sequence[float] = (-1.0, -0.2, 0.6, 1.4),
        target: float = 0.2,
        *,
        logits: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
        temperature: float = 0.5,
        scale: float = 0.4,
        seed: int = 1,
    ) -> None:
        super().__init__(
            setup={
                "outputs": list(OUTPUTS),
                "logits": list(LOGITS),
                "temperature": list(TEMPERATURE),
                "scale": list(SCALE),
                "draws": DRAWS,
            },
            outputs=assets.numbers(outputs, "outputs", OPTIONS, OUTPUTS),
            logits=assets.numbers(logits, "logits", OPTIONS, LOGITS),
            target=assets.within(target, "target", OUTPUTS),
            temperature=assets.within(temperature, "temperature", TEMPERATURE),
            scale=assets.within(scale, "scale", SCALE),
            seed=assets.whole(seed, "seed", 1, 2**31 - 1),
        )
