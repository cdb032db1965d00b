import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from torch import nn

from mdp_core.api import Context, Silence
from mdp_mmengine.draws import Draws
from mdp_mmengine.precise_bn import precise_bn
from mdp_mmengine.training import Samples, Schedule, train

TINY = Path(__file__).with_name("tiny.py")
spec = spec_from_file_location("tiny_precise_bn", TINY)
assert spec is not None
assert spec.loader is not None
tiny = module_from_spec(spec)
spec.loader.exec_module(tiny)


def _batches(sizes=(5, 5, 3)):
    torch.manual_seed(3)
    return [torch.randn(size, 3, 4, 6) * 2 + 1 for size in sizes]


def test_statistics_are_those_of_all_elements():
    model, batches = nn.Sequential(nn.BatchNorm2d(3)), _batches()
    assert precise_bn(model, batches, model) == 1
    everything = torch.cat(batches).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[0].running_mean, everything.mean(1).float())
    torch.testing.assert_close(model[0].running_var, everything.var(1, unbiased=False).float())
    assert model[0].momentum == 0.1
    assert model[0].num_batches_tracked == 0
    assert not model[0]._forward_hooks


def test_later_layers_see_what_earlier_ones_make_of_each_batch():
    torch.manual_seed(0)
    first, second = nn.BatchNorm2d(3), nn.BatchNorm2d(4)
    model, batches = nn.Sequential(first, nn.Conv2d(3, 4, 3), nn.ReLU(), second), _batches((4, 4))
    between = []
    for batch in batches:  # in training mode each batch is normalised with its own statistics
        mean, var = batch.mean((0, 2, 3), keepdim=True), batch.var((0, 2, 3), unbiased=False, keepdim=True)
        between.append(model[1]((batch - mean) / (var + first.eps).sqrt()).relu())
    weights = {name: value.clone() for name, value in model.named_parameters()}
    assert precise_bn(model, batches, model) == 2
    everything = torch.cat(between).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(second.running_mean, everything.mean(1).float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(second.running_var, everything.var(1, unbiased=False).float(), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters())


def test_a_layer_called_several_times_pools_its_calls():
    layer, batches = nn.BatchNorm1d(3), [torch.randn(4, 3), torch.randn(7, 3)]
    precise_bn(layer, [batches], lambda both: [layer(one) for one in both])
    everything = torch.cat(batches)
    torch.testing.assert_close(layer.running_mean, everything.mean(0))
    torch.testing.assert_close(layer.running_var, everything.var(0, unbiased=False))


def test_frozen_untracked_and_unreached_layers_are_left_alone():
    frozen, trained, idle = nn.BatchNorm2d(3).eval(), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    idle.running_mean.fill_(7.0)
    model = nn.ModuleList([frozen, trained, idle, nn.BatchNorm2d(3, track_running_stats=False)])
    assert precise_bn(model, _batches(), lambda batch: trained(frozen(batch))) == 2
    assert not frozen.running_mean.any()
    assert trained.running_mean.all()
    assert (idle.running_mean == 7).all()
    assert idle.momentum == 0.1
    read = []
    assert precise_bn(frozen, (read.append(i) for i in range(3)), frozen) == 0
    assert read == []


def test_a_forward_that_fails_leaves_the_layers_as_they_were():
    layer = nn.BatchNorm2d(3)
    with pytest.raises(RuntimeError):
        precise_bn(layer, [torch.randn(4, 5, 2, 2)], layer)
    assert layer.momentum == 0.1
    assert not layer._forward_hooks


def _run(root: Path, listener=None, **changes):
    folder, work = root / "model", root / "work"
    folder.mkdir(parents=True, exist_ok=True)
    work.mkdir(exist_ok=True)
    return tiny.run(folder, work, listener=listener, **changes)


def test_training_ends_with_the_statistics_of_the_batches_that_would_have_come_next(tmp_path):
    plain = _run(tmp_path / "plain")
    precise = _run(tmp_path / "precise", precise_bn=3)
    statistics = {"norm.running_mean", "norm.running_var"}
    assert {name for name in plain if not torch.equal(plain[name], precise[name])} == statistics
    draws = Draws(7, tiny.load, seed=11, total=44)
    inputs = torch.stack([draws[i]["inputs"] for i in range(32, 44)])  # 8 iterations of 4 came before
    hidden = inputs @ precise["linear.weight"].T + precise["linear.bias"]
    torch.testing.assert_close(precise["norm.running_mean"], hidden.mean(0))
    torch.testing.assert_close(precise["norm.running_var"], hidden.var(0, unbiased=False))


@pytest.mark.parametrize("stop", [5, 8])
def test_a_resumed_training_ends_with_the_same_statistics(tmp_path, stop):
    class Stop(Silence):
        def progress(self, done, total, metrics):
            if done == stop:
                raise KeyboardInterrupt

    straight = _run(tmp_path / "straight", precise_bn=4)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "broken", listener=Stop(), precise_bn=4)
    resumed = _run(tmp_path / "broken", precise_bn=4, workers=2)
    again = _run(tmp_path / "broken", precise_bn=4)  # ended after the last checkpoint: only the statistics are made again
    assert all(torch.equal(straight[name], resumed[name]) and torch.equal(straight[name], again[name]) for name in straight)


def test_a_model_made_by_a_function_trains_like_one_of_a_configuration(tmp_path):
    made = {}
    for name, config in {"built": {"type": "TinyRegressor"}, "made": tiny.TinyRegressor}.items():
        folder = tmp_path / name
        (folder / "work").mkdir(parents=True)
        made[name] = train(
            config,
            "mmengine",
            Samples(7, tiny.load),
            Schedule(3, 4, 0.02),
            context=Context(seed=1),
            folder=folder,
            work=folder / "work",
        ).state_dict()
    assert all(torch.equal(value, made["made"][name]) for name, value in made["built"].items())


TWO = """
import torch, torch.distributed as dist
from mdp_mmengine.precise_bn import precise_bn
dist.init_process_group("gloo")
torch.manual_seed(0)
batches = [torch.randn(size, 3) for size in (4, 6, 5, 9)]
layer = torch.nn.BatchNorm1d(3)
precise_bn(layer, batches[dist.get_rank() :: 2], layer)
torch.testing.assert_close(layer.running_mean, torch.cat(batches).mean(0))
torch.testing.assert_close(layer.running_var, torch.cat(batches).var(0, unbiased=False))
"""


def test_two_processes_pool_their_batches(tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "two.py")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
