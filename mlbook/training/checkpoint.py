"""Checkpoints: exact to resume, tensors only. The header of the file carries what the tensors belong to."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import torch

from mlbook.data.tensor_file import load_tensors, save_tensors
from mlbook.errors import CheckpointError
from mlbook.meta_learners.base import Meta, State, leaves

SEPARATOR = "/"
SCALER = ("scale", "_growth_tracker")
"""What changes of a ``GradScaler``."""
DEVICE = "device"
"""The entry of a resume file's header that names the kind of device; its generator's state is of no use to another kind."""


def flatten(meta: Meta) -> dict[str, torch.Tensor]:
    return {group + SEPARATOR + name: t for group, tensors in meta.items() for name, t in tensors.items()}


def unflatten(tensors: dict[str, torch.Tensor]) -> Meta:
    meta: Meta = {}
    for key, tensor in tensors.items():
        group, name = key.split(SEPARATOR, 1)
        meta.setdefault(group, {})[name] = tensor
    return meta


def save_resume(
    path: Path,
    state: State,
    generator: torch.Generator,
    header: dict[str, str],
    extra: dict[str, torch.Tensor],
) -> None:
    """All that the rest of a run depends on: meta-parameters, optimiser, meta-step and generator; ``extra`` rides along."""
    tensors = {"meta" + SEPARATOR + key: t for key, t in flatten(state.meta).items()}
    for index, moments in state.optimizer.state_dict()["state"].items():
        for key, value in moments.items():
            tensors[f"optimizer{SEPARATOR}{index}{SEPARATOR}{key}"] = torch.as_tensor(value)
    tensors["meta_step"] = torch.tensor(state.meta_step)
    if state.scaler is not None:
        scaler = state.scaler.state_dict()
        tensors["scaler"] = torch.tensor([scaler[key] for key in SCALER], dtype=torch.float64)
    tensors["generator"] = generator.get_state()
    save_tensors(path, {**tensors, **extra}, header)


def load_resume(path: Path, state: State, generator: torch.Generator, header: dict[str, str]) -> State:
    """The saved state in place of ``state`` (which gives shapes, device and optimiser); sets the generator.

    Refuses a file whose header differs from ``header``: it belongs to another run. A state that was saved on another kind of
    device goes on with a new stream of random numbers, which depends on the run's seed and on the meta-step only.
    """
    tensors, found = load_tensors(path)
    for key, value in header.items():
        if found.get(key) != value:
            raise CheckpointError(
                f"{path} was made with {key} = {found.get(key)}, this run has {value}; "
                "choose another --out or the same settings"
            )
    try:
        return _restore(path, tensors, state, generator, device_of(tensors, found))
    except CheckpointError:
        raise
    except (LookupError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged ({one_line(error)}); choose another --out") from None


def one_line(error: Exception) -> str:
    """The message of an exception without its line breaks."""
    text = f"no entry {error}" if isinstance(error, KeyError) else str(error)
    return " ".join(text.split())


def device_of(tensors: dict[str, torch.Tensor], header: dict[str, str]) -> str:
    """The kind of device that a state was saved on: ``cpu`` or ``cuda``.

    Files from before it stood in the header tell it by the generator's state: 16 bytes on a GPU, thousands on a CPU.
    """
    return header.get(DEVICE) or ("cuda" if tensors["generator"].numel() == 16 else "cpu")


def begin_new_stream(generator: torch.Generator, meta_step: int) -> None:
    """Seed a generator by its seed and the meta-step."""
    digest = hashlib.sha256(f"{generator.initial_seed()} {meta_step}".encode()).digest()
    generator.manual_seed(int.from_bytes(digest[:7], "little"))


def _restore(
    path: Path, tensors: dict[str, torch.Tensor], state: State, generator: torch.Generator, saved_on: str
) -> State:
    meta = unflatten({k[5:]: t for k, t in tensors.items() if k.startswith("meta" + SEPARATOR)})
    targets, saved = leaves(state.meta), leaves(meta)
    if [t.shape for t in targets] != [t.shape for t in saved]:
        raise CheckpointError(f"{path} holds other parameters than this experiment has")
    with torch.no_grad():
        for target, tensor in zip(targets, saved, strict=True):
            target.copy_(tensor)
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer" + SEPARATOR):
            _, index, name = key.split(SEPARATOR)
            moments.setdefault(int(index), {})[name] = tensor
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    if state.scaler is not None and "scaler" in tensors:
        scale, tracker = tensors["scaler"].tolist()
        changed = dict(zip(SCALER, (scale, int(tracker)), strict=True))
        state.scaler.load_state_dict({**state.scaler.state_dict(), **changed})
    meta_step = int(tensors["meta_step"])
    if saved_on == generator.device.type:
        generator.set_state(tensors["generator"])
    else:
        begin_new_stream(generator, meta_step)
    return replace(state, meta_step=meta_step)
