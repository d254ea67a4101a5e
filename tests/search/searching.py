"""A search whose trials cost next to nothing, as a process: `python -m search.searching METHOD FOLDER [SECONDS]`."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from cliploom.cluster import connect
from cliploom.search import space, tpe, tuner
from cliploom.search.records import LOSS, Measured, Records, Status
from cliploom.settings.cluster import Ray
from cliploom.settings.search import Span, Tune

TRIALS = 6
EVALUATIONS = {"asha": 3, "tpe": 3, "pbt": 6}  # Tune passes over a chance to copy while a better trial is saved
RATE = "train.learning_rate"
SPACE = {RATE: Span(low=1e-4, high=1.0, log=True)}


class Toy:
    """Reports a loss that falls, the lower the nearer the rate is to 0.01; rates above 0.35 always fail."""

    def __init__(self, folder: Path, evaluations: int, seconds: float) -> None:
        self.folder, self.evaluations, self.seconds = folder, evaluations, seconds

    def __call__(self, start: tuner.Start, report: tuner.Report, stop: threading.Event) -> None:
        rate = float(start.branch.settings[RATE])
        with (self.folder / "log").open("a") as log:
            log.write(f"{start.number} begins\n")
        if rate > 0.35:
            raise ValueError("the loss is not finite")
        for step in range(1, self.evaluations + 1):
            if any(point["step"] == step for point in start.known) or stop.wait(self.seconds):
                continue
            with (self.folder / "log").open("a") as log:
                log.write(f"{start.number} works {step}\n")
            report({"step": step, "samples": 10 * step, LOSS: abs(rate - 0.01) + 1 / step})


class Teller:
    """Prints what it is told, a line of JSON each."""

    def began(self, number: int, settings: space.Settings) -> None:
        print(json.dumps(["began", number]), flush=True)

    def measured(self, number: int, settings: space.Settings, point: Measured) -> None:
        print(json.dumps(["measured", number, point["step"]]), flush=True)

    def ended(self, number: int, status: Status, reason: str) -> None:
        print(json.dumps(["ended", number, status, reason]), flush=True)

    def recorded(self, number: int, status: Status) -> None:
        print(json.dumps(["recorded", number]), flush=True)


def main(method: str, folder: Path, seconds: float = 0.0) -> None:
    """Search to the end."""
    settings = Tune(method=method, trials=TRIALS, evaluations=EVALUATIONS[method], reduction=2, space=SPACE)
    records = Records(str(folder))

    def propose(number: int) -> space.Settings:
        if method == "tpe":
            known = [(t.settings, t.points[-1][LOSS]) for t in records.all() if t.status == "finished"]
            return tpe.propose(SPACE, 0, number, known)
        return space.draw(SPACE, 0, number)

    folder.mkdir(parents=True, exist_ok=True)
    with connect(Ray(address=os.environ.get("RAY_ADDRESS"), cpus=2), dashboard=True):
        tuner.search(settings, propose, Toy(folder, EVALUATIONS[method], seconds), records, Teller(), {"CPU": 0.9})


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(float, sys.argv[3:]))
