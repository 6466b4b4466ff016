"""The command line: ``python -m mlbook ...``. Bad input gets one line on stderr and exit status 2."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import NoReturn

from mlbook.errors import UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m mlbook", description="Meta-learning experiments of the book.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    listing = commands.add_parser("experiments", help="list the named experiments")
    listing.add_argument("--json", action="store_true", help="print JSON")

    training = commands.add_parser(
        "train", help="train an experiment; --resume goes on after an interruption"
    )
    training.add_argument("name", metavar="NAME")
    training.add_argument("--preset", default="quick", help="quick, colab or paper (default: quick)")
    training.add_argument("--meta-steps", type=int, metavar="N", help="instead of the preset's number")
    training.add_argument("--seed", type=int, default=0, metavar="S")
    training.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    training.add_argument("--out", type=Path, metavar="DIR", help="default: runs/NAME-PRESET-seedS")
    training.add_argument("--resume", action="store_true", help="go on from DIR/resume")
    training.add_argument(
        "--checkpoint-every",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how often DIR/resume is written",
    )
    training.add_argument(
        "--time-limit", type=float, metavar="MINUTES", help="stop then, with all that --resume needs to go on"
    )
    training.add_argument(
        "--tasks", type=int, metavar="N", help="meta-test tasks at the end (default: the preset's number)"
    )
    training.add_argument(
        "--precision",
        default="float32",
        help="rounding in matrix products: float32, tf32 (factors) or bf16 (factors and products); default: float32",
    )
    training.add_argument(
        "--no-graph",
        action="store_true",
        help="on one GPU: start every kernel by itself, without a CUDA graph",
    )

    training.add_argument(
        "--deterministic",
        action="store_true",
        help="on a GPU: only operations that give the same bits every time (slower)",
    )

    evaluating = commands.add_parser("evaluate", help="evaluate a shipped or an own checkpoint")
    evaluating.add_argument("name", metavar="NAME|CHECKPOINT")
    evaluating.add_argument(
        "--tasks", type=int, metavar="N", help="default: 600, or all where there are fewer"
    )
    evaluating.add_argument("--seed", type=int, default=1, metavar="S")
    evaluating.add_argument("--device", default="auto")
    evaluating.add_argument(
        "--batch-norm",
        metavar="MODE",
        help="transductive, support_and_query, support or none (default: the experiment's)",
    )
    evaluating.add_argument("--json", action="store_true", help="print JSON")

    predicting = commands.add_parser(
        "predict", help="classify pictures with a checkpoint and a few labelled ones"
    )
    predicting.add_argument("name", metavar="NAME|CHECKPOINT")
    predicting.add_argument(
        "--support",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="one folder per class, a few pictures in each",
    )
    predicting.add_argument(
        "--images", type=Path, nargs="+", required=True, metavar="FILE", help="what to classify"
    )
    predicting.add_argument("--steps", type=int, metavar="N", help="inner steps (default: the experiment's)")
    predicting.add_argument(
        "--batch-norm",
        metavar="MODE",
        help="support_and_query (default: each picture together with the support set), support, transductive or none",
    )
    predicting.add_argument("--device", default="auto")
    predicting.add_argument("--json", action="store_true", help="print JSON")

    ledger = commands.add_parser("results", help="published results beside ours")
    ledger.add_argument("--json", action="store_true", help="print JSON")
    ledger.add_argument("--pending", action="store_true", help="only what has no full-length run yet")

    data = commands.add_parser("data", help="list, get, import or verify data sets")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=_Parser)
    actions.add_parser("list", help="what is there")
    for action, text in (("get", "download"), ("verify", "check the stored file")):
        actions.add_parser(action, help=text).add_argument("dataset", metavar="DATASET")
    importing = actions.add_parser("import", help="read from a local folder or archive")
    importing.add_argument("dataset", metavar="DATASET")
    importing.add_argument("--from", dest="sources", type=Path, nargs="+", required=True, metavar="PATH")
    _add_features(commands)
    own = actions.add_parser("import-images", help="make a few-shot benchmark of a folder of class folders")
    own.add_argument("dataset", metavar="NAME", help="its name from then on, as in maml-NAME-5w1s")
    own.add_argument("--from", dest="source", type=Path, required=True, metavar="PATH")
    own.add_argument(
        "--size", type=int, default=84, metavar="PIXELS", help="pictures become squares of this size"
    )
    own.add_argument("--grey", action="store_true", help="drop the colours")
    arrays = actions.add_parser(
        "import-tensors", help="make a few-shot benchmark of arrays: images, signals or tables"
    )
    arrays.add_argument("dataset", metavar="NAME", help="its name from then on, as in maml-NAME-5w1s")
    arrays.add_argument(
        "--from",
        dest="source",
        type=Path,
        required=True,
        metavar="FILE",
        help=".npz or .safetensors with x [n, ...] and y [n]; split [n], if it has one, says train, validation or test",
    )
    for command in (own, arrays):
        command.add_argument("--dry-run", action="store_true", help="say what was read, and write nothing")
    return parser


def _add_features(commands) -> None:
    features = commands.add_parser("features", help="list, extract, import or verify sets of image features")
    actions = features.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=_Parser)
    actions.add_parser("list", help="what is there")
    extracting = actions.add_parser("extract", help="all pictures through a trained backbone, once")
    extracting.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="of a backbone-... experiment"
    )
    extracting.add_argument("--name", metavar="NAME", help="of the set (default: that of the backbone)")
    extracting.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    importing = actions.add_parser("import", help="read the published pickles of LEO")
    importing.add_argument("name", metavar="NAME", help="mini-deepmind or tiered-deepmind")
    importing.add_argument("--from", dest="source", type=Path, required=True, metavar="FOLDER")
    actions.add_parser("verify", help="check the stored files").add_argument("name", metavar="NAME")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    try:
        options = _parser().parse_args(arguments)
        status = {
            "experiments": _experiments,
            "train": _train,
            "evaluate": _evaluate,
            "predict": _predict,
            "results": _results,
            "data": _data,
            "features": _features,
        }[options.command](options)
        sys.stdout.flush()  # here, where a full disk can still be told
        return status
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt as error:
        print(f"\nmlbook: {error.args[0] if error.args else 'interrupted'}", file=sys.stderr)
        return 130
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        if (said := sentence(error)) is None:
            raise
        print(f"mlbook: {said}", file=sys.stderr)
        if isinstance(error, OSError):
            _forget_output()
        return 2


def sentence(error: Exception) -> str | None:
    """What the user is told of an error that bad input, a disk or a full memory can cause; None for a fault of the program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        names = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        return f"{names or 'a file'} cannot be used ({error.strerror or error})"
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError" or "CUDA error: out of memory" in text:
        return "the memory of the GPU is full; end what else runs there, or use --device cpu"
    if "no kernel image is available" in text:
        return "this build of torch has no code for this GPU; use --device cpu, or install another build"
    if "does not have a deterministic implementation" in text:
        return f"torch has no repeatable form of {text.split()[0]}; train without --deterministic"
    # torch reports the computer's memory as a RuntimeError
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return "the memory of this computer is full; end what else runs here, or take fewer or smaller tasks"
    return None


def _forget_output() -> None:
    """Python would try again at its end to write what standard output could not take, with a message of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _experiments(options) -> int:
    from mlbook.data import own_sets
    from mlbook.experiments import EXPERIMENTS
    from mlbook.experiments.imported import methods

    rows = [
        {
            "name": e.name,
            "dataset": e.dataset,
            "model": e.model,
            "n_way": e.n_way,
            "k_shot": e.k_shot,
            "published": e.published,
            "presets": {
                k: {"meta_steps": p.meta_steps, "meta_batch_size": p.meta_batch_size}
                for k, p in e.presets.items()
            },
        }
        for e in EXPERIMENTS.values()
    ]
    if options.json:
        print(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        presets = "  ".join(f"{name} {p['meta_steps']:,}" for name, p in row["presets"].items())
        print(f"{row['name']:28} {row['dataset']:9} {row['model']:14} meta-steps: {presets}")
    for name in own_sets.imported():
        if its := methods(name):
            print(f"METHOD-{name}-NwKs with any N and K; METHOD is one of {', '.join(its)}")
    return 0


def _train(options) -> int:
    from mlbook.training.runner import run

    record = run(
        options.name,
        preset=options.preset,
        meta_steps=options.meta_steps,
        seed=options.seed,
        device=options.device,
        out=options.out,
        resume=options.resume,
        checkpoint_seconds=options.checkpoint_every,
        precision=options.precision,
        graph=not options.no_graph,
        evaluation_tasks=options.tasks,
        time_limit=None if options.time_limit is None else 60 * options.time_limit,
        deterministic=options.deterministic,
    )
    if record is not None:  # of several processes, the first one speaks
        print(_sentence(options.name, record["evaluation"]))
    elif options.time_limit is not None:
        print(f"{options.name}: time is up; the same command with --resume goes on")
    return 0


def _evaluate(options) -> int:
    from mlbook import experiments
    from mlbook.data.progress import ProgressLine
    from mlbook.training import evaluation
    from mlbook.training.memory import keep_freed_memory
    from mlbook.training.runner import check_data, choose_device, evaluate_setup, use_precision

    if options.tasks is not None and options.tasks < 2:
        raise UserError(f"--tasks must be at least 2 (an interval needs two), not {options.tasks}")
    if not 0 <= options.seed <= evaluation.LARGEST_SEED:
        raise UserError(f"--seed must be from 0 to {evaluation.LARGEST_SEED}, got {options.seed}")
    device = choose_device(options.device)
    path, config, meta = _trained(options.name, device)
    if note := check_data(path, config):
        print(f"mlbook: {note}", file=sys.stderr)
    setup = experiments.setup(config)
    use_precision("float32", device, setup.learner)
    if device.type == "cpu":
        keep_freed_memory()
    tasks = setup.tasks("test")
    n_tasks = options.tasks or min(600, tasks.n_listed or 600)
    line = ProgressLine(n_tasks, config["name"])
    result = evaluate_setup(
        setup,
        meta,
        tasks,
        n_tasks=n_tasks,
        seed=options.seed,
        batch_norm=options.batch_norm,
        on_progress=line,
    )
    line.close()
    print(json.dumps(result.as_dict()) if options.json else _sentence(config["name"], result.as_dict()))
    return 0


def _trained(name: str, device):
    """A checkpoint's file, its configuration and meta-parameters: of that path, or the one that is shipped for an experiment."""
    from mlbook import experiments, results
    from mlbook.training.runner import load_checkpoint

    path = Path(name)
    if path.suffix == ".safetensors" or path.exists():
        return path, *load_checkpoint(path, device)
    experiments.get(name)
    path = results.pretrained_path(name)
    config, meta = load_checkpoint(path, device)
    if name != config["name"]:  # another protocol
        config = experiments.config(
            name, config["preset"], meta_steps=config["meta_steps"], seed=config["seed"]
        )
    return path, config, meta


def _predict(options) -> int:
    from mlbook.training.prediction import predict, table
    from mlbook.training.runner import choose_device

    _, config, meta = _trained(options.name, choose_device(options.device))
    found = predict(
        config, meta, options.support, options.images, steps=options.steps, batch_norm=options.batch_norm
    )
    print(json.dumps({"experiment": config["name"], **found.as_dict()}) if options.json else table(found))
    return 0


def _sentence(name: str, result: dict) -> str:
    from mlbook.results import score_text

    metric = result["metric"]
    protocol = ", ".join(f"{k} {v}" for k, v in result["protocol"].items())
    return (
        f"{name}: {metric} {score_text(result[metric], result['ci95'], metric)} after {result['step']} inner steps "
        f"over {result['tasks']} meta-test tasks ({protocol})"
    )


def _results(options) -> int:
    from mlbook import results

    rows = results.ledger()
    if options.pending:
        rows = [row for row in rows if results.is_pending(row)]
    print(json.dumps(rows, indent=1) if options.json else results.as_text(rows))
    return 0


def _data(options) -> int:
    from mlbook.data import datasets

    if options.action == "list":
        for dataset in datasets.known().values():
            state = f"at {dataset.path()}" if dataset.available() else "not there"
            print(f"{dataset.name:14} {state:40} {dataset.about}")
        return 0
    if options.action in ("import-images", "import-tensors"):
        return _import_own(options)
    dataset = datasets.get(options.dataset)
    if options.action == "verify":
        print(f"{dataset.name}: {dataset.verify()}")
        return 0
    where = dataset.download() if options.action == "get" else dataset.import_from(options.sources)
    print(f"{dataset.name}: ready at {where}")
    return 0


def _import_own(options) -> int:
    """Read, say what was read, and only then write."""
    from mlbook.data import image_folder, tensor_sets

    if options.action == "import-images":
        found = image_folder.read(
            options.dataset, options.source, size=options.size, grey=options.grey, progress=True
        )
    else:
        found = tensor_sets.read(options.dataset, options.source)
    print("\n".join(found.lines()))
    if options.dry_run:
        print(f"{options.dataset}: nothing was written (--dry-run)")
        return 0
    classes = found.save()
    n_way = min(5, *classes.values())
    print(
        f"{options.dataset}: classes {', '.join(f'{split} {n}' for split, n in classes.items())}; "
        f"train with: python -m mlbook train maml-{options.dataset}-{n_way}w1s"
    )
    return 0


def _features(options) -> int:
    from mlbook.data import feature_sets, pool_files

    if options.action == "list":
        for name in sorted({*feature_sets.known(), *feature_sets.PUBLISHED}):
            state = f"at {feature_sets.stem(name)}" if feature_sets.available(name) else "not there"
            print(f"{name:18} {state}")
        return 0
    if options.action == "verify":
        sizes = {
            split: tuple(feature_sets.load(options.name, split).features.shape) for split in pool_files.SPLITS
        }
        print(
            f"{options.name}: verified; "
            + ", ".join(f"{s} {c} classes × {d}" for s, (c, _, d) in sizes.items())
        )
        return 0
    if options.action == "import":
        print(f"{options.name}: ready at {feature_sets.import_from(options.name, options.source)}")
        return 0
    from mlbook import experiments
    from mlbook.training.feature_extraction import extract
    from mlbook.training.memory import keep_freed_memory
    from mlbook.training.runner import check_data, choose_device, load_checkpoint, use_precision

    device = choose_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    config, meta = load_checkpoint(options.checkpoint, device)
    if note := check_data(options.checkpoint, config):
        print(f"mlbook: {note}", file=sys.stderr)
    use_precision("float32", device, experiments.build_learner(config))
    name = options.name or config["name"].removeprefix("backbone-")
    print(f"{name}: ready at {extract(config, meta, name)}")
    return 0
