"""What the doctor concludes from facts about a machine; the facts are given, none is this machine's."""

import resource
import types

import pytest
import torch

from e5ft.app import machine_checks as checks


def replaced(monkeypatch, **values):
    for name, value in values.items():
        monkeypatch.setattr(checks, name, value)


@pytest.fixture
def cpu(composed):
    def config(*overrides):
        return composed("train", "training.use_cpu=true", *overrides)

    return config


@pytest.fixture
def gpu(monkeypatch, composed):
    def config(*overrides, capability=(9, 0), count=1):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        found = types.SimpleNamespace(name="GPU", major=capability[0], minor=capability[1], total_memory=80e9)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: found)
        return composed("train", *overrides)

    return config


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("version", "state"), [((3, 10, 9), "fault"), ((3, 11, 0), "ok"), ((3, 14, 1), "ok")])
def test_python(monkeypatch, version, state):
    monkeypatch.setattr(checks.sys, "version_info", version)
    assert checks.check_python(None).state == state


@pytest.mark.parametrize(
    ("torch_version", "transformers_version", "state", "words"),
    [
        ("2.13.0+cpu", "5.23.0", "ok", "2 as in"),
        ("2.10.1", "5.23.0", "note", "torch 2.10.1 instead of ==2.13.0"),
        ("2.9.1", "5.23.0", "fault", "torch 2.9.1 is below 2.10"),
        ("2.13.0", "5.2.9", "fault", "transformers 5.2.9 is below 5.3"),
        ("2.13.0", None, "fault", "transformers is missing"),
    ],
)
def test_packages(monkeypatch, tmp_path, torch_version, transformers_version, state, words):
    """Also from a lock file with hashes and comments, and with what is for another system."""
    lock = "torch==2.13.0  # CPU or CUDA\n-r more.txt\ntransformers==5.23.0 \\\n    --hash=sha256:ab\nmacpack==1 ; sys_platform == 'plan9'\n"
    (tmp_path / "requirements.txt").write_text(lock)
    versions = {"torch": torch_version, "transformers": transformers_version}

    def version(name):
        if versions[name] is None:
            raise checks.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(checks.metadata, "version", version)
    replaced(monkeypatch, PROJECT=tmp_path)
    found = checks.check_packages(None)
    assert found.state == state and words in found.text


@pytest.mark.parametrize(
    ("cores", "threads", "processes", "state", "words"),
    [
        (4, 4, "1", "ok", "4 cores"),
        (2, 8, "1", "note", "OMP_NUM_THREADS=2"),
        (4, 4, "2", "note", "=2"),
        (0.5, 1, "1", "ok", "0.5"),
    ],
)
def test_threads(monkeypatch, cpu, cores, threads, processes, state, words):
    replaced(monkeypatch, usable_cores=lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    found = checks.check_device(cpu())
    assert found.state == state and words in f"{found.text} {found.remedy}"


def test_gpus(gpu, monkeypatch):
    assert "capability 9.0, 80.0 GB" in checks.check_device(gpu()).text
    assert checks.check_device(gpu(capability=(7, 5))).state == "note"
    found = checks.check_device(gpu(count=4))
    assert found.state == "fault" and "--nproc_per_node 4" in found.remedy
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert checks.check_device(gpu(count=4)).state == "ok"


@pytest.mark.parametrize(
    ("overrides", "emulated", "state"),
    [
        ([], True, "ok"),
        ([], False, "ok"),
        (["training.bf16=true"], True, "note"),
        (["training.bf16=true"], False, "ok"),
        (["training.fp16=true"], False, "fault"),
    ],
)
def test_precision_on_a_cpu(monkeypatch, cpu, overrides, emulated, state):
    replaced(monkeypatch, bf16_is_emulated=lambda: emulated)
    found = checks.check_precision(cpu(*overrides))
    assert found.state == state
    assert ("try training.bf16=true" in found.text) == (not overrides and not emulated)


def test_precision_on_a_gpu(gpu):
    assert checks.check_precision(gpu("training.bf16=true")).state == "ok"
    assert "training.bf16=true" in checks.check_precision(gpu()).remedy
    found = checks.check_precision(gpu("training.bf16=true", capability=(7, 5)))
    assert found.state == "note" and found.remedy == "training.fp16=true"


def test_limits(monkeypatch, cpu):
    limit, free = [65536], [1e9]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit[0], -1))
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=free[0]))
    assert checks.check_limits(cpu()).state == "ok"
    with_workers = cpu("training.dataloader_num_workers=2")
    assert checks.check_limits(with_workers).state == "ok"
    free[0] = 64e6
    assert "--shm-size" in checks.check_limits(with_workers).remedy
    assert checks.check_limits(cpu()).state == "ok"  # without workers nobody uses it
    limit[0] = 256
    assert "ulimit" in checks.check_limits(cpu()).remedy
    limit[0] = resource.RLIM_INFINITY
    assert checks.check_limits(cpu()).state == "ok"


WHOLE = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("given", "state", "words"),
    [
        ({}, "ok", "one"),
        (WHOLE, "ok", "2 processes"),
        ({**WHOLE, "MASTER_ADDR": ""}, "fault", "MASTER_ADDR not set"),
        ({**WHOLE, "RANK": "2"}, "fault", "RANK=2 of WORLD_SIZE=2"),
        ({**WHOLE, "MASTER_PORT": "x"}, "fault", "MASTER_PORT=x"),
        ({"SLURM_NTASKS": "4"}, "note", "SLURM has 4 tasks"),
    ],
)
def test_processes(monkeypatch, cpu, given, state, words):
    config = cpu()
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = checks.check_processes(config)
    assert found.state == state and words in found.text


def test_more_processes_than_gpus(monkeypatch, gpu):
    config = gpu(count=1)
    for name, value in WHOLE.items():
        monkeypatch.setenv(name, value)
    assert "LOCAL_RANK=1, but 1 GPUs" in checks.check_processes(config).text


def test_optional_packages(monkeypatch, cpu):
    replaced(monkeypatch, _importable=lambda module: module == "faiss")
    found = checks.check_optional(cpu())
    assert found.state == "ok" and found.text.startswith("faiss-cpu; not there: kiwipiepy")
    found = checks.check_optional(cpu("evaluation.bm25=kiwi", "model.lora.rank=4"))
    assert found.state == "fault" and found.remedy == "pip install kiwipiepy peft"
    replaced(monkeypatch, _importable=lambda module: False)
    config = cpu("rounds.count=2", "rounds.mining.search=ivfpq")
    assert checks.check_optional(config).remedy == "pip install faiss-cpu"
