"""Reptile on images, and the comparisons of its inner gradients. Tasks and options are those of ``images``."""

from __future__ import annotations

from mlbook.experiments.experiment import Experiment, Preset
from mlbook.experiments.images import learner, protocol, tasks

__all__ = ["images", "learner", "protocol", "rows", "tasks"]


def images(
    dataset: str, n_way: int, k_shot: int, transductive: bool, image: tuple[int, int, int] | None = None
) -> Experiment:
    """The official commands: Adam with β₁ = 0 whose second moments live on; ten examples per class in meta-training on Omniglot,
    15 on miniImageNet (and on pictures of one's own), whatever K.

    The experiments of one ``n_way`` have the same meta-training, so the 1-shot one brings the records of all.
    """
    drawings = dataset in ("omniglot", "glyphs")
    cell = f"{dataset}-{n_way}w{{}}s"
    names = [f"reptile-{cell.format(k)}{t}" for k in (1, 5) for t in ("", "-transductive")]
    name = f"reptile-{cell.format(k_shot)}" + ("-transductive" if transductive else "")
    if not drawings:
        rate, steps, batch, test_batch, length = 1e-3, 8, 10, 5 if k_shot == 1 else 15, 100_000
    elif n_way == 5:
        rate, steps, batch, test_batch, length = 1e-3, 5, 10, 5, 100_000
    else:
        rate, steps, batch, test_batch, length = 5e-4, 10, 20, 10, 200_000
    short = 10_000 if drawings and n_way == 5 else 5_000
    return Experiment(
        name=name,
        family="reptile",
        dataset=dataset,
        model="conv4_reptile" if drawings else "conv4_pooled_reptile",
        learner={
            "method": "reptile",
            "optimizer": "adam",
            "meta_lr": 1.0,
            "inner_lr": rate,
            "inner_steps": steps,
        },
        n_way=n_way,
        k_shot=10 if drawings else 15,
        n_query=0,
        test_shot=k_shot,
        test_query=1,
        test_steps=50,
        report_step=50,
        scored_steps=(0, 1, 2, 5, 10, 20, 50),
        options={
            "image": image,
            "preparation": "reptile" if drawings else None,
            "inner_batch": batch,
            "test_batch": test_batch,
            "test_batch_norm": None if transductive else "support_and_query",
        },
        shares_training_with=tuple(other for other in names if other != name) if name == names[0] else (),
        published=name if dataset in ("omniglot", "mini") else None,
        presets={
            "quick": Preset(40 if drawings else 10, 5, evaluation_tasks=100 if drawings else 20),
            "colab": Preset(short, 5, evaluation_tasks=1_000),
            "paper": Preset(length, 5, evaluation_tasks=10_000),
        },
    )


def _harness(
    name: str, *, k: int, meta_lr: float = 0.25, shots: int, n_query: int = 0, **learner
) -> Experiment:
    """Sections 6.2 and 6.3 of the Reptile paper: Omniglot 5-way 5-shot, plain gradient descent on mini-batches of 25.

    The published rate, 0.003, is for the sum over a mini-batch; on its mean it is 25 times that.
    """
    return Experiment(
        name=name,
        family="reptile",
        dataset="omniglot",
        model="conv4_reptile",
        learner={"method": "reptile", "inner_lr": 0.075, "inner_steps": k, "meta_lr": meta_lr, **learner},
        n_way=5,
        k_shot=shots,
        n_query=n_query,
        test_shot=5,
        test_query=1,
        test_steps=5,
        report_step=5,
        options={
            "preparation": "reptile",
            "inner_batch": 25,
            "test_batch": 25,
            "test_batch_norm": "support_and_query",
        },
        presets={
            "quick": Preset(40, 5, evaluation_tasks=100),
            "colab": Preset(1_000, 5, evaluation_tasks=1_000),
            "paper": Preset(40_000, 5, evaluation_tasks=10_000),
        },
    )


def _gradient_combinations() -> list[Experiment]:
    """Which of the inner gradients g₁ … g₄ θ moves along: one of them, their sum, or their sum with a step k times smaller."""
    rows = [_harness("reptile-gradients-g1", k=1, shots=5)]
    for k, smaller in ((2, 0.125), (3, 0.08325), (4, 0.0625)):
        rows += [
            _harness(f"reptile-gradients-g{k}", k=k, shots=5 * k, follow="last_step"),
            _harness(f"reptile-gradients-sum{k}", k=k, shots=5 * k),
            _harness(f"reptile-gradients-mean{k}", k=k, shots=5 * k, meta_lr=smaller),
        ]
    return rows


def _tails() -> list[Experiment]:
    """Whether the last mini-batch, whose gradient FOMAML follows, was seen before: eight steps on the same 25 examples (shared),
    or seven, and the eighth on 25 others (separate). Reptile takes eight on the same."""
    return [
        _harness("fomaml-tail-shared", k=8, shots=5, follow="last_step"),
        _harness("fomaml-tail-separate", k=8, shots=5, n_query=5, follow="last_step", tail="query"),
        _harness("reptile-tail-shared", k=8, shots=5),
    ]


def rows() -> list[Experiment]:
    sets = (("omniglot", 5), ("omniglot", 20), ("mini", 5), ("glyphs", 5))
    found = [images(dataset, n, k, t) for dataset, n in sets for k in (1, 5) for t in (False, True)]
    return [*found, *_gradient_combinations(), *_tails()]
