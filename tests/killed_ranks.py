"""A training whose second process is killed in the third update and, restarted once, when it is done."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import torch

from interruptions import in_update
from maml_en_llm.models import join
from maml_en_llm.training.checkpoint import read_training_config
from maml_en_llm.training.loop import train


def kill() -> None:
    (Path(sys.argv[1]) / "killed-at").write_text(str(time.time()), encoding="utf-8")
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    processes = join(torch.device("cpu"))
    folder, attempt = Path(sys.argv[1]), os.environ["TORCHELASTIC_RESTART_COUNT"]
    config = read_training_config(folder / "killed.yaml")
    if processes.rank == 0:
        found = sorted(path.name.partition("-")[0] for path in (config.output / "checkpoints").glob("*.safetensors"))
        (folder / f"checkpoints-{attempt}").write_text(" ".join(found), encoding="utf-8")
    with in_update(3, kill) if processes.rank == 1 and attempt == "0" else contextlib.nullcontext():
        train(config, resume=True)
    processes.any(False)  # the first has written the model
    if processes.rank == 1:
        kill()
    processes.any(False)  # waits for the second, which is dead
