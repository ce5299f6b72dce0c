"""Jobs run in this process, as Hydra would run them, on the shipped sample with a model of one layer."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from e5ft.app.runs.script import prepare_libraries
from e5ft.app.settings.build import register, settings_of, shipped

TINY = [
    "model.shape.hidden_size=32",
    "model.shape.num_hidden_layers=1",
    "model.shape.num_attention_heads=2",
    "model.shape.intermediate_size=64",
    "model.text.query_max_length=24",
    "model.text.passage_max_length=48",
    "evaluation.intervals=50",
    "training.logging_steps=1",
    "training.per_device_train_batch_size=16",
    "data.max_train_rows=200",
]
register()
prepare_libraries()


@pytest.fixture
def composed(tmp_path, monkeypatch):
    """Compose a script's settings; `run_dir` is where Hydra would have put the job."""
    monkeypatch.chdir(tmp_path)

    def settings(script: str, *overrides: str, run_dir: str = "outputs/test"):
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
            config = compose(script, [*overrides, f"cache_dir={tmp_path / 'cache'}"], return_hydra_config=True)
        config.hydra.runtime.output_dir = str(Path(tmp_path / run_dir))
        config.hydra.runtime.choices = config.hydra.runtime.choices
        HydraConfig.instance().set_config(config)
        plain = config.copy()
        plain._set_flag(["struct", "readonly"], [False, False])
        del plain["hydra"]
        return settings_of(script, plain)

    yield settings
    GlobalHydra.instance().clear()


@pytest.fixture
def trained(composed):
    """Run a tiny training job; returns (objective, folder)."""
    from e5ft.app.commands.rounds import train_rounds

    def run(*overrides: str, run_dir: str = "outputs/test", tiny: bool = True):
        settings = composed("train", "tracking=off", *(TINY if tiny else []), *overrides, run_dir=run_dir)
        folder = Path(HydraConfig.get().runtime.output_dir)
        return train_rounds(settings), folder

    return run
