"""In-context learning: linear attention on linear functions, a small transformer on sine waves, on sines and lines, and on linear
functions.

Options of this family: ``network``, what the network is built with; ``least_context``, the fewest support points in
meta-training, where every meta-batch has another number of them up to ``k_shot``.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from mlbook.errors import UserError
from mlbook.experiments.experiment import Experiment, Preset
from mlbook.meta_learners.base import MetaLearner
from mlbook.meta_learners.in_context import InContext
from mlbook.models.attention import ContextTransformer, LinearAttention
from mlbook.tasks import SinesAndLines, Sinusoids
from mlbook.tasks.episode import TaskDistribution
from mlbook.tasks.linear_functions import LinearFunctions
from mlbook.tasks.support_sets import Prefixes

NETWORKS = {"linear_attention": LinearAttention, "context_transformer": ContextTransformer}


def learner(config: dict) -> MetaLearner:
    """``InContext`` around linear attention or a transformer."""
    if config["model"] not in NETWORKS:
        raise UserError(f"no in-context network is named {config['model']!r}")
    with torch.random.fork_rng(devices=[]):  # modules draw initial values from it
        model = NETWORKS[config["model"]](**config["network"])
    options = {key: value for key, value in config["learner"].items() if key != "method"}
    return InContext(model, **options)


def tasks(config: dict, learner: MetaLearner, split: str) -> TaskDistribution:
    """Functions have no splits: they are drawn anew."""
    test = split != "train"
    k_shot = config.get("test_shot", config["k_shot"]) if test else config["k_shot"]
    n_query = config["test_query"] if test else config["n_query"]
    if config["dataset"] == "sinusoid":
        found = Sinusoids(k_shot, n_query)
    elif config["dataset"] == "sinusoid_or_line":
        found = SinesAndLines(k_shot, n_query, noisy_queries=not test)
    elif config["dataset"] == "linear_functions":
        found = LinearFunctions(10, k_shot, n_query)
    elif config["dataset"] == "linear_functions_5d":
        found = LinearFunctions(5, k_shot, n_query, spreads=(1.0,) * 5)
    else:
        found = LinearFunctions(1, k_shot, n_query, half_range=1.0, level=True, noise=0.3)
    least = config.get("least_context")
    return found if test or least is None else Prefixes(found, least)


def protocol(config: dict) -> dict:
    """What has to be the same for two errors to be compared."""
    values = {
        "dataset": config["dataset"],
        "split": "test",
        "k_shot": config.get("test_shot", config["k_shot"]),
        "queries": config["test_query"],
    }
    clean = config["dataset"] in ("sinusoid_or_line", "noisy_lines")
    return values | {"query_noise": 0.0} if clean else values


def _experiment(name: str, dataset: str, model: str, network: dict, learner: dict, **values) -> Experiment:
    """No inner steps: the forward pass is the learning."""
    options = {"network": network, **values.pop("options", {})}
    return Experiment(
        name=name,
        family="in_context",
        dataset=dataset,
        model=model,
        learner={"method": "in_context", **learner},
        test_steps=0,
        report_step=0,
        options=options,
        **values,
    )


def _linear_attention() -> Experiment:
    """One layer as in the notebooks of von Oswald et al. 2023: ten dimensions, ten points, batches of 2,048 tasks with one query,
    Adam with β₁ 0.9, β₂ 0.98, gradients cut to length 0.001. Ours: the first values, of standard deviation 0.1."""
    return _experiment(
        "linear-attention-10d",
        "linear_functions",
        "linear_attention",
        {"features": 10, "layers": 1},
        {"meta_lr": 1e-3, "betas": [0.9, 0.98], "clip_norm": 1e-3},
        k_shot=10,
        n_query=1,
        test_query=1,
        presets={
            "quick": Preset(1_000, 512, evaluation_tasks=2_000),
            "colab": Preset(2_000, 512, evaluation_tasks=10_000),
            "paper": Preset(5_000, 2_048, evaluation_tasks=10_000),
        },
    )


def _lines(layers: int) -> Experiment:
    """Layers of linear attention on noisy lines. Ours."""
    return _experiment(
        f"linear-attention-lines-{layers}",
        "noisy_lines",
        "linear_attention",
        {"features": 2, "layers": layers},
        {"meta_lr": 1e-2, "meta_lr_decay": "cosine", "betas": [0.9, 0.98], "clip_norm": 1.0},
        k_shot=8,
        n_query=8,
        test_query=8,
        options={"least_context": 2},
        presets={
            "quick": Preset(500, 256, evaluation_tasks=2_000),
            "colab": Preset(1_000, 256, evaluation_tasks=10_000),
            "paper": Preset(2_000, 256, evaluation_tasks=10_000),
        },
    )


def _transformer(name: str, dataset: str, *, n_query: int, meta_steps: int, tasks: int) -> Experiment:
    """Three layers, 64 wide, two heads, on one to ten points of each task. Network, rates and length are ours."""
    return _experiment(
        name,
        dataset,
        "context_transformer",
        {"features": 1, "width": 64, "layers": 3, "heads": 2},
        {"meta_lr": 3e-3, "meta_lr_decay": "cosine", "warm_up": 0.02, "clip_norm": 1.0},
        k_shot=10,
        n_query=n_query,
        test_shot=5,
        test_query=50,
        options={"least_context": 1},
        presets={
            "quick": Preset(200, 32),
            "colab": Preset(meta_steps // 2, 32),
            "paper": Preset(meta_steps, 32, evaluation_tasks=tasks),
        },
    )


def _linear_5d() -> Experiment:
    """The same transformer on linear functions of five normal inputs, w ~ N(0, I): those of Garg et al. 2022, who have 20 inputs.
    One to twenty points. No noise in training: so least squares of least norm is the best rule there is, and no learner beside it
    has met noise. Rate and meta-batch by short trials."""
    like = _transformer("transformer-linear-5d", "linear_functions_5d", n_query=5, meta_steps=0, tasks=2_000)
    return replace(
        like,
        options={**like.options, "network": {**like.options["network"], "features": 5}},
        k_shot=20,
        test_shot=10,
        presets={
            "quick": Preset(200, 64),
            "colab": Preset(6_000, 64),
            "paper": Preset(12_000, 64, evaluation_tasks=2_000),
        },
    )


def rows() -> list[Experiment]:
    return [
        _linear_attention(),
        *(_lines(layers) for layers in (1, 2, 3)),
        _transformer("transformer-sinusoid-5shot", "sinusoid", n_query=10, meta_steps=4_000, tasks=600),
        _transformer(
            "transformer-sines-lines-5shot", "sinusoid_or_line", n_query=15, meta_steps=3_000, tasks=2_000
        ),
        _linear_5d(),
    ]
