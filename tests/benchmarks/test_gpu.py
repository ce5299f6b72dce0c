"""The GPU's benchmark on a CPU at a tiny size: every section runs, and sees what is wrong. No time is asserted."""

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import checks, speed
from benchmarks.gpu.setting import Setting
from e5ft.modeling import attention
from e5ft.training.resuming import ResumableTrainer


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return Setting("cpu", "tiny", tmp_path_factory.mktemp("gpu"))


def missed(lines):
    return [line.case for line in lines if line.met is False]


@pytest.mark.parametrize("name", ["attention", "scaler", "accumulation", "fit"])
def test_what_is_right_is_within_its_bounds(setting, name):
    lines = list(command.section(name)(setting))
    assert len(lines) > 3 and missed(lines) == []


def test_a_wrong_attention_is_seen(setting, monkeypatch):
    right = attention._product
    monkeypatch.setattr(attention, "_product", lambda left, right_, factor: right(left, right_, 1.01 * factor))
    assert any("fp32, no dropout: gradient" in case for case in missed(checks.attention(setting)))


def test_another_mask_in_the_backward_pass_is_seen(setting, monkeypatch):
    class Other(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values):
            return values.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * (torch.rand_like(gradient) > 0.1) / 0.9

    right = checks.unpadded_attention
    monkeypatch.setattr(checks, "unpadded_attention", lambda *a, **o: (Other.apply(right(*a, **o)[0]), None))
    assert [case for case in missed(checks._dropped(setting, torch.bfloat16)) if "backward's mask" in case]


def test_a_gradient_twice_too_large_and_skipped_steps_not_counted_are_seen(setting, monkeypatch):
    right = checks.surrogate
    monkeypatch.setattr(checks, "surrogate", lambda *arguments: 2 * right(*arguments))
    assert len(missed(checks.accumulation(setting))) == 4
    monkeypatch.setattr(ResumableTrainer, "_count_skipped", lambda self: None)
    assert any("skipped and counted" in case for case in missed(checks.scaler(setting)))


def test_memory_is_held_beside_what_was_said(setting):
    lines = list(checks.memory(setting))
    assert [line.section for line in lines] == ["Memory"] * len(lines)  # none where a sandbox tells no peak
    assert all(line.ours[0] > 0 for line in lines)


def test_both_trainers_train_and_their_figures_are_beside_each_other(setting):
    found = list(speed.speed(setting, "e5_small"))
    lines, notes = [f for f in found if not isinstance(f, str)], [f for f in found if isinstance(f, str)]
    assert [note for note in notes if "FAILED" in note] == [] and "flash-attn" in notes[0]
    beside = next(line for line in lines if line.case == "tokens" and line.against.startswith("MNRL"))
    assert len(beside.ours) == len(beside.theirs) == 2 and min(*beside.ours, *beside.theirs) > 0


def test_a_step_is_made_smaller_until_it_fits_and_one_contender_s_failure_is_a_row(setting, monkeypatch):
    """Two steps of 2 s: tokens and 6 operations a weight and token, attention's beside, over 2 s and the rate."""

    def contender(*_, name, rows, **__):
        if name == speed.PLAIN:
            raise RuntimeError("no kernel\nat all")
        if rows > 2:
            raise torch.OutOfMemoryError("out of memory")
        return {"wall": [2.0, 2.0], "losses": [1.0] * 4}

    monkeypatch.setattr(speed, "contender", contender)
    monkeypatch.setattr(speed, "matmul_rate", lambda *_: 1e12)
    found = list(speed.speed(setting, "e5_small"))
    assert any("FAILED" in f and f.endswith("MNRL: RuntimeError: no kernel") for f in found if isinstance(f, str))
    lines = {line.case: line.ours for line in found if not isinstance(line, str)}
    tokens, shares = lines["e5ft, 2 rows a step: tokens"], lines["e5ft, 2 rows a step: share of the card's rate"]
    encoder = setting.encoder("mini", padded=False)
    weights = sum(p.numel() for name, p in encoder.named_parameters() if "embeddings" not in name)
    for rate, share in zip(tokens, shares, strict=True):
        products = 6 * weights * rate / 1e12
        assert products < share < 1.1 * products  # short texts: attention's own are few


def test_a_section_has_a_process_of_its_own_and_its_end_is_told():
    lines, notes, failed = command.measured("accumulation", "cpu", "tiny", 300)
    assert (len(lines), notes, failed) == (4, [], [])
    assert command.measured("nowhere", "cpu", "quick", 300)[2][0].startswith("nowhere: exit status 1: FileNotFoundError")
    assert command.measured("attention", "cpu", "tiny", 0.1)[2] == ["attention: ended after 0 s, its budget: it said nothing"]


def test_table_and_json_are_written_and_the_exit_status_tells_of_a_failure(monkeypatch, tmp_path, capsys):
    line = checks.bound("Attention", "fp32", 2.0, most=1.0)
    results = {"scaler": ([], ["not run"], []), "fit": ([line], [], ["fit: gone"])}
    monkeypatch.setattr(command, "measured", lambda name, *_: results[name])
    assert command.main(["--device", "cpu", "--tiny", "--only", "scaler", "--output", str(tmp_path)]) == 0
    assert command.main(["--device", "cpu", "--tiny", "--only", "scaler", "fit", "--output", str(tmp_path)]) == 1
    text = (tmp_path / "gpu.md").read_text()
    assert (
        "- FAILED: fit: gone" in text
        and "**not met**" in text
        and "- not run: not run" in text
        and text in capsys.readouterr().out
    )
    assert '"failures"' in (tmp_path / "gpu.json").read_text()


def test_without_a_gpu_one_line_says_what_to_do(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert command.main([]) == 2 and ": a build without CUDA: pip install" in capsys.readouterr().err
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert command.main([]) == 2 and "sees no GPU: look at nvidia-smi" in capsys.readouterr().err


def test_the_whole_keeps_to_its_time():
    assert sum(full for full, _ in command.BUDGETS.values()) <= 25 * 60
