"""FSDP2 on two gloo processes against the same training unsharded: the real accelerate, made to shard without a GPU."""

import pytest
import torch
from safetensors.torch import load_file

from e5ft.errors import ResumeRefusedError
from e5ft.training.sharding import load_optimizer_state
from tests.test_distributed import launched, rows_file  # noqa: F401  (a fixture)
from tests.training import sharded_processes


def optimizer_after_a_step(rows: int, *, layers: int = 1):
    model = torch.nn.Sequential(*(torch.nn.Linear(4, rows) for _ in range(layers)))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(("rows", "layers"), [(3, 1), (7, 1), (5, 2)])
def test_a_state_of_other_shapes_is_refused_before_a_fused_optimizer_writes_past_its_end(rows, layers):
    ours, theirs = optimizer_after_a_step(5), optimizer_after_a_step(rows, layers=layers)
    before = ours.state_dict()["state"][0]["exp_avg"].clone()
    with pytest.raises(ResumeRefusedError, match=r"optimizer.pt: .*of another model; choose another name=$"):
        load_optimizer_state(ours, theirs.state_dict())
    assert torch.equal(ours.state_dict()["state"][0]["exp_avg"], before)


def test_a_state_of_the_same_shapes_is_taken():
    ours, theirs = optimizer_after_a_step(5), optimizer_after_a_step(5)
    theirs.step()
    load_optimizer_state(ours, theirs.state_dict())
    assert torch.equal(ours.state_dict()["state"][0]["exp_avg"], theirs.state_dict()["state"][0]["exp_avg"])
    factored = torch.optim.Adafactor([torch.nn.Parameter(torch.ones(4, 5))])
    factored.param_groups[0]["params"][0].grad = torch.ones(4, 5)
    factored.step()
    load_optimizer_state(factored, factored.state_dict())


KINDS = ("plain", "compact", "lora")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def found(rows_file, folder):  # noqa: F811
    """What each of two processes found."""
    return launched(sharded_processes.__name__, 2, rows_file, folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [batch for batch, _ in sharded_processes.CUTS])
def test_a_sharded_step_is_the_unsharded_one(found, kind, batch):
    for each in found:
        ours, theirs = each[kind, batch, True], each[kind, batch, False]
        torch.testing.assert_close(ours["losses"], theirs["losses"], rtol=0, atol=1e-6)
        torch.testing.assert_close(ours["norms"], theirs["norms"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours["weights"], theirs["weights"], rtol=0, atol=1e-5)
        assert len(ours["losses"]) == 4 and len(set(ours["losses"])) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_each_process_holds_half_of_the_weights(found, kind):
    for each in found:
        assert each[kind, 16, True]["held"] < 0.55
        assert each[kind, 16, False]["held"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_holds_what_an_unsharded_one_holds(found, folder, kind):
    files = [folder / f"{kind}-saved-{sharded}" / "checkpoint-2" for sharded in (True, False)]
    assert {path.name for path in files[0].iterdir()} == {path.name for path in files[1].iterdir()}
    ours, theirs = (load_file(path / "model.safetensors") for path in files)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-5)
    ours, theirs = (torch.load(path / "optimizer.pt", weights_only=True) for path in files)
    assert ours["state"].keys() == theirs["state"].keys() and ours["state"]
    for number, values in theirs["state"].items():
        for name, tensor in values.items():
            torch.testing.assert_close(ours["state"][number][name], tensor, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("sharded", "before"), [(True, True), (True, False), (False, True)])
def test_either_goes_on_from_either(found, kind, sharded, before):
    """Dropout on. From its own kind of checkpoint to the last bit."""
    for each in found:
        resumed, whole = each[kind, "resumed", sharded, before], each[kind, "saved", sharded]
        close = {"rtol": 0, "atol": 0 if sharded is before else 1e-5}
        torch.testing.assert_close(resumed["losses"], whole["losses"], **close)
        torch.testing.assert_close(resumed["weights"], whole["weights"], **close)


def test_evaluation_needs_no_common_number_of_forward_passes_and_the_best_weights_come_back(found):
    for each in found:
        torch.testing.assert_close(each["best", True]["losses"], each["best", False]["losses"], rtol=0, atol=1e-6)
        torch.testing.assert_close(each["best", True]["weights"], each["best", False]["weights"], rtol=0, atol=1e-5)


def test_a_full_disk_ends_all_processes(found):
    for rank, each in enumerate(found):
        for message in each["full"]:
            assert "step 1: the checkpoint could not be written" in message
            assert ("No space left" if rank == 0 else "by another process") in message
