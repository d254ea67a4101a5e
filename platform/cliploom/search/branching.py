"""A run that goes on from another's checkpoint, as population-based training has it."""

from __future__ import annotations

from cliploom import storage
from cliploom.training import checkpoint


def copy_checkpoint(source: str, target: str, step: int) -> None:
    """Give the run in the folder `target` the checkpoint of `step` of that in `source`, where it has not begun yet.

    Raises:
        RuntimeError: there is no such checkpoint.
    """
    if storage.files(storage.join(target, "attempts")):
        return
    found = next((one for one in checkpoint.committed(source) if one.progress.step == step), None)
    if found is None:
        raise RuntimeError(f"{source} has no checkpoint of step {step}")
    folder = storage.join(target, "checkpoints", storage.name(found.uri))
    for name in (*found.files, checkpoint.MARKER):  # by the marker it is there, so it comes last
        storage.write(storage.join(folder, name), storage.read(storage.join(found.uri, name)))
    for attempt in storage.files(storage.join(source, "attempts")):
        if int(storage.name(attempt.uri).split(".")[0]) <= found.attempt:
            storage.write(storage.join(target, "attempts", storage.name(attempt.uri)), storage.read(attempt.uri))
