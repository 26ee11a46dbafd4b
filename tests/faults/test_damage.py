"""Files truncated or zeroed at random: the trial or study is recovered or refused, and never silently begun again."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support.victim import Victim, stamp

from rlvo.config.loading import load_study
from rlvo.config.workdir import Workdir
from rlvo.errors import RlvoError
from rlvo.progress import no_progress
from rlvo.study.inputs import open_study
from rlvo.training import checkpoint
from rlvo.training.fit import Report, fit
from rlvo.training.records import BEST_WEIGHTS, EPOCHS, PREDICTIONS, RECORD, CompletionRecord

STOPPED, LAST = 4, 6
"""Epochs of the trial that was interrupted, and of a whole one."""

Train = Callable[[Path, Report], CompletionRecord]


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def train(undisturbed: Victim, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Train]:
    """Trains a trial of six epochs in a folder, or continues it; every epoch is saved."""

    victim = undisturbed.beside(tmp_path_factory.mktemp("damage"))
    study = load_study(victim.root / "victim.yaml")
    inputs = open_study(study, victim.cohort / "cohort.csv", Workdir.at(victim.work), progress=no_progress, workers=1)
    configuration = study.configuration({"training.epochs": LAST, "training.learning_rate": 1e-2})
    data, identity = inputs.fold_data(0), inputs.identity(configuration.key, 0)
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "WORTH", 0)
        yield lambda folder, report: fit(configuration, data, folder, identity, seed=1, device="cpu", report=report)


@pytest.fixture(scope="module")
def trials(train: Train, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trial that has ended, and the same stopped on the way."""

    def stop(epoch: int, metrics: dict[str, float]) -> None:
        if epoch == STOPPED:
            raise StoppedError

    folder = tmp_path_factory.mktemp("trials")
    train(folder / "ended", lambda epoch, metrics: None)
    with pytest.raises(StoppedError):
        train(folder / "stopped", stop)
    return {path.name: path for path in folder.iterdir()}


def damage(path: Path, choose: random.Random) -> None:
    """Cut the file at random, or write zeros over some or all of it."""
    content = path.read_bytes()
    start, end = sorted(choose.sample(range(len(content) + 1), 2))
    damaged = {
        "cut": content[:start],
        "hole": content[:start] + bytes(end - start) + content[end:],
        "zeros": bytes(len(content)),
        "empty": b"",
    }
    path.write_bytes(damaged[choose.choice(list(damaged))])


def test_a_trials_files(train: Train, trials: dict[str, Path], tmp_path: Path, rounds: int) -> None:
    choose, outcomes = random.Random(0), []
    whole = [(trials["ended"] / name).read_bytes() for name in (EPOCHS, PREDICTIONS, BEST_WEIGHTS)]
    for number in range(60 * rounds):
        state = choose.choice(list(trials))
        folder = Path(shutil.copytree(trials[state], tmp_path / str(number)))
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
        broken = choose.sample(files, choose.randint(1, 3))
        for path in broken:
            damage(path, choose)
        begun: list[int] = []
        try:
            train(folder, lambda epoch, metrics, begun=begun: begun.append(epoch))
        except RlvoError as error:
            outcomes.append(error.what)
            assert not begun
        else:
            assert [(folder / name).read_bytes() for name in (EPOCHS, PREDICTIONS, BEST_WEIGHTS)] == whole
            assert begun in ([], [5, 6], [4, 5, 6])  # one epoch is repeated at most
            outcomes.append("recovered")
        shutil.rmtree(folder)
    assert set(outcomes) == {"recovered", "the file is missing or altered"}
    assert outcomes.count("recovered") > 10 * rounds


@pytest.mark.parametrize("name", [RECORD, PREDICTIONS, EPOCHS])
def test_an_ended_trial_is_completed_again_as_the_refusal_says(
    train: Train, trials: dict[str, Path], tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(trials["ended"], tmp_path / "trial"))
    (folder / name).write_bytes(b"")

    def never(epoch: int, metrics: dict[str, float]) -> None:
        pytest.fail("trained again")

    with pytest.raises(RlvoError, match=f"{name}: the file is missing or altered.*delete the trial's {RECORD}"):
        train(folder, never)
    (folder / RECORD).unlink()
    train(folder, never)
    for path in (RECORD, EPOCHS, PREDICTIONS, BEST_WEIGHTS):
        assert (folder / path).read_bytes() == (trials["ended"] / path).read_bytes()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("study.json", "cut"),
        ("split.json", "zeros"),
        ("inputs.json", "cut"),
        ("optuna.journal", "cut"),
        ("optuna.journal", "zeros"),
        ("trials/*/configuration.json", "zeros"),
        ("trials/*/fold-0/record.json", "cut"),
        ("trials/*/fold-1/last/state.pt", "zeros"),
    ],
)
def test_a_studys_files(undisturbed: Victim, tmp_path: Path, name: str, kind: str) -> None:
    victim = undisturbed.beside(tmp_path, copied=True)
    broken = sorted(victim.folder.glob(name))[0]
    trial = sorted(victim.folder.glob("trials/*/fold-1"))[0]
    (trial / RECORD).unlink()  # one trial is unfinished: its driver died after its last epoch
    ended, saved = victim.ended(), stamp(trial / "last" / "manifest.json")
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2] if kind == "cut" else bytes(len(content)))
    ended = {trial: files for trial, files in ended.items() if broken not in files}

    code, said = victim.wait(victim.start())
    assert "Traceback" not in said, said
    assert all(victim.ended()[trial] == files for trial, files in ended.items())
    assert stamp(trial / "last" / "manifest.json") == saved  # not begun again
    if code:
        assert code == 2
        assert said.splitlines()[-1].startswith("error: ")
    else:  # recovered, but for a trial that is refused
        for one, other in zip(victim.result["configurations"], undisturbed.result["configurations"], strict=True):
            assert one == other or "missing or altered" in str(one["failures"])
