"""Train several experiments within a time limit, on a machine that is lent for a while; the next call goes on.

    python tools/train_list.py maml-mini-5w1s fomaml-mini-5w1s --preset paper --minutes 25 --out runs
    python tools/train_list.py --pending --minutes 9 --out runs --unpack before.tar --pack after.tar
    python tools/train_list.py backbone-mini-wrn-28-10 leo-mini-wrn-28-10-5w1s leo-mini-wrn-28-10-5w5s --minutes 25

Experiments are trained in the given order, each with checkpoints and an exact resume; the time that is left goes to the next. A
finished one is evaluated under its protocol (600 meta-test tasks for MAML, 10,000 for Reptile) and leaves its checkpoint and
run record in OUT/NAME (a finished backbone also makes its features); ``tools/ship_run.py OUT/NAME`` takes them into the
package. --pack writes all run folders into one tar file, --unpack puts such a file back: where little travels between two
machines, one file does. The data sets have to be there (``python -m mlbook data import ...``). The last line on standard output
is a summary in JSON. Exit status: 0 when all are finished, 3 when some are not, 2 on bad input.
"""

import argparse
import json
import os
import sys
import tarfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from mlbook import experiments, results
from mlbook.cli import sentence
from mlbook.data import feature_sets
from mlbook.data.disk import reason
from mlbook.data.tensor_file import write_atomically
from mlbook.errors import UserError
from mlbook.training.feature_extraction import extract
from mlbook.training.run_folder import LOCK, locked
from mlbook.training.runner import check_data, choose_device, load_checkpoint, run, use_precision


def pending() -> list[str]:
    """Experiments without a run at full length, in the order of the ledger; of those with one training, the one that trains."""
    names = [experiments.trained_by(row["experiment"]) for row in results.ledger() if results.is_pending(row)]
    return list(dict.fromkeys(names))


def train_list(
    names: list[str], out: Path, *, preset: str, minutes: float, device: str, seed: int, tasks: int | None
) -> dict[str, str]:
    """What became of every experiment: ``finished``, ``meta-step n of m`` or ``not started``, or the reason why it failed."""
    until = time.monotonic() + 60 * minutes
    state = {}
    for name in names:
        folder = out / name
        try:
            if (folder / "record.json").exists():
                wanted = experiments.run_id(experiments.config(experiments.get(name), preset, seed=seed))
                if json.loads((folder / "record.json").read_text())["run"] != wanted:
                    raise UserError(f"{folder} holds a finished run of another configuration")
                _features_of(name, folder, device)
                state[name] = "finished"
                continue
            left = until - time.monotonic()
            if left <= 0:
                state[name] = _position(folder)
                continue
            record = run(
                name,
                preset=preset,
                seed=seed,
                device=device,
                out=folder,
                resume=folder.exists(),
                evaluation_tasks=tasks,
                time_limit=left,
            )
            state[name] = _position(folder) if record is None else "finished"
            if record is not None:
                _features_of(name, folder, device)
        except (UserError, OSError, MemoryError, RuntimeError) as error:  # the others may still do
            if (said := sentence(error)) is None:
                raise
            state[name] = f"failed: {said}"
    return state


def _features_of(name: str, folder: Path, device: str) -> None:
    """The features that a finished backbone makes, where they are not there yet: the rows over them may come next."""
    own = name.removeprefix("backbone-")
    if own != name and not feature_sets.available(own):
        path, where = folder / "checkpoint.safetensors", choose_device(device)
        config, meta = load_checkpoint(path, where)
        check_data(path, config)
        use_precision("float32", where, experiments.build_learner(config))
        extract(config, meta, own)


def _position(folder: Path) -> str:
    log = folder / "log.csv"
    if not log.exists():
        return "not started"
    lines = log.read_text(errors="replace").splitlines() or [""]
    return f"stopped after meta-step {lines[-1].split(',')[0]}"


def pack(out: Path, file: Path) -> None:
    """All run folders in one tar file, which is there whole or not at all."""
    part = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with tarfile.open(part, "w") as tar:
            for path in sorted(out.glob("*/**/*")):
                if path.is_file() and not path.name.startswith("."):  # locks, and what is being written
                    tar.add(path, path.relative_to(out).as_posix())
        os.replace(part, file)
    except OSError as error:
        raise UserError(f"{file} cannot be written ({reason(error)})") from None
    finally:
        with suppress(OSError):
            part.unlink()


def unpack(file: Path, out: Path) -> None:
    """Run folders from a file of ``pack``. Nothing is written outside ``out``, into a folder that a training has, or
    from a file that is damaged."""
    try:
        with tarfile.open(file) as tar, ExitStack() as held:
            members = tar.getmembers()
            for member in members:
                parts = Path(member.name).parts
                if not member.isfile() or ".." in parts or Path(member.name).is_absolute():
                    raise UserError(f"{file} holds {member.name!r}, which is no file of a run")
                tar.extractfile(member).read()  # raises where the file ends too early
            for folder in sorted(
                {out / Path(member.name).parts[0] for member in members if "/" in member.name}
            ):
                folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(
                    locked(folder / LOCK, f"a training is writing to {folder}; wait for its end", str(folder))
                )
            for member in members:
                write_atomically(out.joinpath(*Path(member.name).parts), tar.extractfile(member).read())
    except (tarfile.TarError, OSError, EOFError) as error:
        # tarfile lists on further lines what it tried
        raise UserError(f"{file} cannot be unpacked ({str(error).split(chr(10))[0].rstrip(':')})") from None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--pending", action="store_true", help="all experiments without a run at full length")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--minutes", type=float, required=True, help="time limit of this call")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", type=int, help="meta-test tasks (default: the preset's)")
    parser.add_argument("--pack", type=Path, metavar="FILE")
    parser.add_argument("--unpack", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        names = options.names + (pending() if options.pending else [])
        if not names:
            raise UserError("name some experiments, or --pending")
        for name in names:
            experiments.get(name).preset(options.preset)
        if not options.minutes > 0:
            raise UserError("--minutes must be a positive number")
        if options.unpack:
            unpack(options.unpack, options.out)
        state = train_list(
            names,
            options.out,
            preset=options.preset,
            minutes=options.minutes,
            device=options.device,
            seed=options.seed,
            tasks=options.tasks,
        )
        if options.pack:
            pack(options.out, options.pack)
    except KeyboardInterrupt as error:
        print(f"\ntrain_list: {error.args[0] if error.args else 'interrupted'}", file=sys.stderr)
        return 130
    except (UserError, OSError) as error:
        print(f"train_list: {sentence(error)}", file=sys.stderr)
        return 2
    print(json.dumps(state))
    return 0 if all(value == "finished" for value in state.values()) else 3


if __name__ == "__main__":
    sys.exit(main())
