"""What a run keeps of itself: any tensors, two states, and only whole ones are believed."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from builders import train_config
from maml_en_llm.names import unfinished
from maml_en_llm.training.checkpoint import RunDirectory, read_metrics

STATE = {
    "weights": torch.arange(6.0).view(2, 3),
    "turned": torch.arange(6.0).view(2, 3).T,
    "step": torch.tensor(7),
    "mask": torch.tensor([True, False]),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 4),
}


def directory(folder: Path, resume: bool = False, **changes: Any) -> RunDirectory:
    run = RunDirectory(train_config(Path("c"), Path("m"), folder / "run", batches=100, **changes), {}, resume)
    run.begin()
    return run


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[n], expected[n]) and found[n].dtype == expected[n].dtype for n in expected
    )


def state(number: int) -> dict[str, Tensor]:
    return {name: tensor if tensor.dtype == torch.bool else tensor + number for name, tensor in STATE.items()}


def files(run: RunDirectory) -> list[Path]:
    return sorted((run.folder / "checkpoints").iterdir())


def test_any_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    run = directory(tmp_path)
    assert run.restore(STATE) == (0, {})
    shared = torch.arange(10.0)
    held = STATE | {"a": shared, "b": shared, "part": shared[2:4]}
    run.save(4, held, {"rate": 0.5, "names": ["é"]})
    again = directory(tmp_path, resume=True)
    batches, found = again.restore(held)
    assert batches == 4
    assert same(found, held)
    assert again.extra == {"rate": 0.5, "names": ["é"]}


def test_the_last_two_are_kept_until_the_end(tmp_path: Path) -> None:
    run = directory(tmp_path)
    for batches in (2, 4, 90):
        run.save(batches, state(batches))
    assert [int(path.name[:9]) for path in files(run)] == [4, 90]
    run.finish()
    assert not (run.folder / "checkpoints").exists()


def test_a_file_of_others_among_checkpoints_stays(tmp_path: Path) -> None:
    run = directory(tmp_path)
    run.save(2, state(2))
    mine = run.folder / "checkpoints" / "000000001-mine.safetensors"
    mine.write_text("mine")
    for batches in (4, 90):
        run.save(batches, state(batches))
    assert run.restore(STATE)[0] == 90
    run.finish()
    assert files(run) == [mine]
    assert mine.read_text() == "mine"


def truncate(path: Path, _: Any) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip(path: Path, generator: torch.Generator) -> None:
    content = bytearray(path.read_bytes())
    bit = int(torch.randint(8 * len(content), (1,), generator=generator))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def replace(changes: dict[str, Tensor]) -> Callable[[Path, Any], None]:
    def put(path: Path, _: Any) -> None:
        """A file that is whole, under its right name, with other tensors."""
        other = RunDirectory(train_config(Path("c"), Path("m"), path.parent / "other", batches=100), {})
        other.begin()
        other.save(int(path.name[:9]), {n: t for n, t in (STATE | changes).items() if t is not None})
        path.unlink()
        (written,) = files(other)
        written.rename(path.parent / written.name)

    return put


def rename(number: int) -> Callable[[Path, Any], None]:
    return lambda path, _: path.rename(path.with_name(f"{number:09d}{path.name[9:]}")) and None


DAMAGES: dict[str, Callable[[Path, Any], None]] = {
    "it is damaged": truncate,
    "is torch.float32 (3, 2), not torch.float32 (2, 3)": replace({"weights": torch.zeros(3, 2)}),
    "step is torch.float32 (), not torch.int64 ()": replace({"step": torch.tensor(7.0)}),
    "it belongs to another model or method": replace({"foreign": torch.zeros(1)}),
    "another model or method": replace({"weights": None}),  # type: ignore[dict-item]
    "this run has no checkpoint after 100 batches": rename(100),
    "this run has no checkpoint after 5 batches": rename(5),
    "no checkpoint has such a name": lambda path, _: path.rename(path.with_name("9.safetensors")) and None,
    "damaged": lambda path, _: path.write_bytes(b"") and None,
}


@pytest.mark.parametrize("words", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = directory(tmp_path)
    run.save(2, state(2))
    run.save(4, state(4))
    DAMAGES[words](files(run)[-1], torch.Generator())
    batches, found = directory(tmp_path, resume=True).restore(STATE)
    assert batches == 2
    assert same(found, state(2))
    assert words in capsys.readouterr().err


def test_any_flipped_bit_is_seen(tmp_path: Path) -> None:
    run, generator = directory(tmp_path), torch.Generator().manual_seed(0)
    run.save(4, STATE)
    (path,) = files(run)
    whole = path.read_bytes()
    for _ in range(100):
        flip(path, generator)
        with pytest.raises(ValueError, match=r"no checkpoint in .* can be used"):
            run.restore(STATE)
        path.write_bytes(whole)
    assert run.restore(STATE)[0] == 4


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = directory(tmp_path)
    run.save(2, state(2))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*checkpoints'"):
            run.save(4, state(4))
    assert [path.name[:9] for path in files(run)] == ["000000002"]
    assert same(run.restore(STATE)[1], state(2))


def test_metrics_end_where_the_checkpoint_does(tmp_path: Path) -> None:
    run = directory(tmp_path)
    for batches in (2, 4, 6):
        run.log({"batches": batches})
        if batches == 4:
            run.save(batches, STATE)
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('damaged\n{"batches": 3')
    run.restore(STATE)
    assert read_metrics(run.folder) == [{"batches": 2}, {"batches": 4}]


def test_what_a_kill_leaves_of_the_first_instant_is_taken_up(tmp_path: Path) -> None:
    config = train_config(Path("c"), Path("m"), tmp_path / "run")
    folder = tmp_path / "run"
    for names in (
        [unfinished(Path("config.yaml")).name],
        ["config.yaml"],
        ["config.yaml", "data.json", unfinished(Path("run.json")).name],
    ):
        RunDirectory(config, {}).begin()
        whole = {path.name: path.read_bytes() for path in folder.iterdir()}
        for path in folder.iterdir():
            path.unlink()
        for name in names:
            (folder / name).write_bytes(whole.get(name, b"half"))
        RunDirectory(config, {}).begin()
        assert whole.keys() <= {path.name for path in folder.iterdir()}
        for path in folder.iterdir():
            path.unlink()
    (folder / "data.json").write_text(json.dumps({"precious": 1}))
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        RunDirectory(config, {})
    (folder / "config.yaml").write_text("model: other")
    with pytest.raises(ValueError, match="already holds a run"):
        RunDirectory(config, {})


@pytest.mark.parametrize("text", ["[]", "", "{}", "method: metaicl", "3", "method: [3]"])
def test_a_configuration_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    run = directory(tmp_path)
    run.save(2, STATE)
    (run.folder / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml|must be one of"):
        directory(tmp_path, resume=True)


def test_a_folder_that_is_no_model_does_not_end_a_run(tmp_path: Path) -> None:
    run = directory(tmp_path)
    assert not run.finished
    run.model.mkdir()
    for content in ({}, {"maml_en_llm.json": b"{}"}, {"maml_en_llm.json": b'{"config": {}}', "m.safetensors": b"no"}):
        for name, written in content.items():
            (run.model / name).write_bytes(written)
        with pytest.raises(ValueError, match="model is not a model that a run wrote; move it away"):
            _ = run.finished
    safetensors.torch.save_file(STATE | {"turned": torch.zeros(1)}, run.model / "m.safetensors")
    assert run.finished
