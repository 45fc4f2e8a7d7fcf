"""Tests that need a GPU: a run there beside one on the CPU, and beside itself. `python -m pytest tests/test_cuda.py`

Dimension letters: T texts, D representation width.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, SMALL_FEATURES, SMALL_TEXT
from micro_lit_testing import Killed
from processes import LAST_RESORT
from small_models import make_table, save_llama

from micro_lit import train
from micro_lit.compare import judges
from micro_lit.compare.__main__ import run as run_compare
from micro_lit.compare.candidates import judge_rows
from micro_lit.config import build
from micro_lit.features.encoder import encode
from micro_lit.features.pretrained import Pretrained
from micro_lit.features.rows import in_rows
from micro_lit.personalise import __main__ as personalise
from micro_lit.report.results import read_results
from micro_lit.run import checkpoints
from micro_lit.run.run import restore

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of CUDA, and PyTorch finds none")

GPU = ("trainer.accelerator=gpu",)
TEXT = ("+experiment=mixture_k8", *SMALL_TEXT, "trainer.log_every_n_steps=1", "logger=csv")
VECTORS = (
    "+experiment=planted_floors_k8", *SMALL_FEATURES, "trainer.max_epochs=2", "trainer.log_every_n_steps=1",
    "data.population.attributes=[length,warmth]", "data.population.groups=2",
)  # fmt: skip
SMALL = ("data=planted_text", "data.train=64", "data.validation=16", "data.test=16", "loader.batch_size=16")
TRAINED = ("backbone.frozen=false", "backbone.max_length=96", "trainer.max_epochs=4", "model.optimizer.lr=0.01")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_llama(tmp_path_factory.mktemp("model")))


@pytest.fixture(autouse=True)
def as_commands_are(monkeypatch):
    """What the commands set before CUDA is used, and what Lightning leaves behind for the next test."""
    found = os.environ.get("PYTHONPATH")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(REPOSITORY / "tests" / "support"), *([found] if found else [])])
    )
    yield
    torch.use_deterministic_algorithms(False)


def curves(folder: Path) -> dict[str, list[float]]:
    """What was logged at each step of training."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name.startswith("train/")]
    return {name: [float(row[name]) for row in rows if row[name]] for name in names}


def losses(folder: Path) -> list[float]:
    """The training loss of each step."""
    return curves(folder)["train/nll"]


def trained(settings, folder: Path, *overrides: str) -> Path:
    train.run(settings(*overrides, f"paths.run_dir={folder}"))
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoints.read_checkpoint(folder / checkpoints.BEST)["state_dict"]


def assert_same(one: Path, two: Path) -> None:
    """Two runs have the same losses, weights and results, to the last bit."""
    assert curves(one) == curves(two)
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert read_results(one)["test"] == read_results(two)["test"]


@pytest.mark.parametrize("overrides", [TEXT, VECTORS], ids=["text", "vectors"])
def test_a_run_on_the_gpu_is_as_on_the_cpu_and_repeats_itself_to_the_bit(overrides, settings, tmp_path):
    cpu = trained(settings, tmp_path / "cpu", *overrides)
    one, two = (trained(settings, tmp_path / name, *overrides, "trainer.accelerator=auto") for name in ("one", "two"))
    assert losses(one) == pytest.approx(losses(cpu), abs=1e-4)
    assert read_results(one)["test"]["nll"]["value"] == pytest.approx(
        read_results(cpu)["test"]["nll"]["value"], abs=1e-4
    )
    assert_same(one, two)


def trained_in_two_parts(settings, folder, step: int, *overrides: str):
    """A run that is killed at a step, and resumed."""
    kill = (
        "packages=[micro_lit_testing]", "+callbacks.kill._target_=micro_lit_testing.FailOnce",
        f"+callbacks.kill.step={step}", f"+callbacks.kill.marker={folder.parent / 'marker'}",
    )  # fmt: skip
    with pytest.raises(Killed):
        trained(settings, folder, *overrides, *kill)
    return trained(settings, folder, *overrides, *kill)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(precision, settings, tmp_path):
    overrides = (*TEXT, *GPU, f"trainer.precision={precision}", "ckpt_path=last", "callbacks.early_stopping=null",
                 "+callbacks.last.every_n_train_steps=1")  # fmt: skip
    whole = trained(settings, tmp_path / "whole", *overrides)
    cut = trained_in_two_parts(settings, tmp_path / "cut", 4, *overrides)
    assert read_results(cut)["test"] == read_results(whole)["test"]
    first, second = weights(cut), weights(whole)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_the_command_encodes_and_then_trains_and_repeats_itself_to_the_bit(pooling, model, tmp_path):
    """Two new processes: cuBLAS is asked once in a process whether it repeats itself, and encoding is first to ask."""
    for name in ("one", "two"):
        command = [
            sys.executable, "-m", "micro_lit.train", *SMALL, *GPU, "backbone=hf", f"backbone.model={model}",
            "backbone.max_length=96", f"backbone.pooling={pooling}", "trainer.max_epochs=2", "model/head=linear",
            "trainer.log_every_n_steps=1", f"paths.run_dir={tmp_path / name}",
            f"paths.features_dir={tmp_path / name / 'features'}",
        ]  # fmt: skip
        environment = dict(os.environ)
        environment.pop("CUBLAS_WORKSPACE_CONFIG", None)  # of this process
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=LAST_RESORT, cwd=tmp_path, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("causal", [True, False])
def test_features_are_as_on_the_cpu(pooling, causal, model):
    """Texts of one prompt, which share rows where the network is causal, and texts alone."""
    tokens = make_table([(20, [5, 9, 30, 1]), (3, [0, 40]), (50, [2, 2, 2]), (1, [7])])

    def features(dtype: str, device: str, budget: int = 4096) -> torch.Tensor:
        factory = Pretrained(model, pooling=pooling, causal=causal, dtype=dtype)
        network = factory.network(factory.dtype).to(device)
        found = {}
        for rows_T, features_TD in encode(tokens, network, budget):
            found |= dict(zip(rows_T.tolist(), features_TD.float().cpu(), strict=True))
        return torch.stack([found[row] for row in sorted(found)])

    expected = features("float32", "cpu")
    torch.testing.assert_close(features("float32", "cuda"), expected, atol=1e-4, rtol=1e-4)
    # In other batches too, with other texts and other padding beside them.
    torch.testing.assert_close(features("float32", "cuda", 64), expected, atol=1e-4, rtol=1e-4)
    rough = features("bfloat16", "cuda")
    assert torch.nn.functional.cosine_similarity(rough, expected).min() >= 0.999


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_features_repeat_themselves_to_the_bit(pooling):
    """So wide and so many that sums of several threads would come in any order."""
    from transformers import AutoModel, LlamaConfig

    from micro_lit.features.network import PooledTransformer

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=64, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4
    )
    network = PooledTransformer(AutoModel.from_config(shape), pooling, causal=True).cuda()
    tokens = make_table([(100, [50] * 8) for _ in range(16)])
    runs = [torch.cat([each for _, each in encode(tokens, network, 16_384)]) for _ in range(5)]
    assert all(torch.equal(run, runs[0]) for run in runs)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_that_share_prompts_have_the_gradients_of_separate_rows(attention, model):
    tokens = make_table([(20, [5, 9, 30, 1]), (3, [4, 40]), (50, [2, 2, 2])])
    network = Pretrained(model, dtype="float32", attn_implementation=attention).network(torch.float32).cuda()
    everything = torch.arange(len(tokens.truncated_M))
    found = []
    for break_even in (64, None):
        network.zero_grad()
        [(places, rows)] = in_rows(tokens, everything, None, break_even)
        assert rows.shared == (break_even is not None)
        texts_TD = network(rows.to(torch.device("cuda")))[places.argsort()]
        texts_TD.square().sum().backward()
        found.append((texts_TD.detach(), torch.cat([weight.grad.flatten() for weight in network.parameters()])))
    (shared_TD, shared), (apart_TD, apart) = found
    torch.testing.assert_close(shared_TD, apart_TD, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shared, apart, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "how",
    [
        (),
        ("trainer.precision=bf16-mixed",),
        ("trainer.precision=bf16-mixed", "backbone.gradient_checkpointing=true"),
        ("trainer.precision=bf16-mixed", "backbone.lora.rank=4"),
        ("backbone.lora.rank=4", "backbone.dtype=float32", "backbone.lora.dropout=0.1"),
    ],
    ids=["all", "all-bf16", "all-bf16-checkpointing", "lora-bf16", "lora"],
)  # fmt: skip
def test_a_backbone_is_trained_and_restored(how, model, settings, tmp_path):
    """The loss falls, the same run gives the same bits, and the restored model judges as the run was tested."""
    given = (*SMALL, *GPU, *TRAINED, "backbone=hf", f"backbone.model={model}", "trainer.log_every_n_steps=1", *how)
    one, two = (trained(settings, tmp_path / name, *given) for name in ("one", "two"))
    found = losses(one)
    assert sum(found[-4:]) < sum(found[:4])
    assert_same(one, two)
    run = settings(*given)
    data = build(run["data"]).load(run["seed"])
    restored = restore(one, data, tmp_path / "features")
    with torch.no_grad():
        nll = -restored.log_prob(restored.judge(data.split("test"))).mean()
    tolerance = 1e-4 if how in ((),) or "backbone.dtype=float32" in how else 0.05
    assert float(nll) == pytest.approx(read_results(one)["test"]["nll"]["value"], abs=tolerance)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "fsdp1"])
def test_strategies_train_on_one_device_as_none_does(strategy, model, settings, tmp_path):
    given = (*SMALL, *TRAINED, "backbone=hf", f"backbone.model={model}", "trainer.log_every_n_steps=1")
    clip = "null" if strategy == "fsdp1" else "1.0"
    alone = trained(settings, tmp_path / "alone", *given, *GPU, f"trainer.gradient_clip_val={clip}")
    # In a process of its own, whose process group ends with it.
    command = [
        sys.executable, "-m", "micro_lit.train", *given, f"trainer={strategy}", "trainer.devices=1",
        "trainer.precision=32-true", f"paths.run_dir={tmp_path / strategy}",
        f"paths.features_dir={tmp_path / 'features'}",
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LAST_RESORT, cwd=tmp_path, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert losses(tmp_path / strategy) == pytest.approx(losses(alone), abs=1e-4)
    assert weights(tmp_path / strategy).keys() == weights(alone).keys()


PEOPLE = ("single_bt", "tied", "maxmin", "lore", "pal_a", "pal_b", "vpl")


def test_models_of_people_are_trained_and_compared(settings, tmp_path):
    run = settings(
        "candidates={single_bt: x}", "baseline=single_bt", "subjects=user", "subjects.user.labels=[0,4]", "draws=2",
        "trainer=gpu", f"out={tmp_path / 'tables'}", f"paths.output_dir={tmp_path}", config="compare",
    )  # fmt: skip
    planted = ("+experiment=planted_floors_k8", *SMALL_FEATURES, "trainer.max_epochs=2")
    run["common"] = [*planted, *GPU, "data.users_per_group=4", "data.unseen_share=0.25"]
    run["candidates"] = {name: [f"model={name}"] for name in PEOPLE}
    found = run_compare(run)["regimes"]["unseen"]["systems"]
    assert {row["candidate"] for row in found} == set(PEOPLE)
    assert all(row.get("valid", True) for row in found)


@pytest.mark.parametrize("name", ["tied", "lore", "vpl", "sparse_moe", "maxmin"])
def test_models_are_as_on_the_cpu(name, settings, tmp_path):
    given = (*VECTORS, f"model={name}", "data.users_per_group=8")
    cpu = trained(settings, tmp_path / "cpu", *given)
    gpu, again = (trained(settings, tmp_path / each, *given, *GPU) for each in ("gpu", "again"))
    assert losses(gpu) == pytest.approx(losses(cpu), abs=1e-3)
    assert_same(gpu, again)


def test_labels_that_a_model_of_people_keeps_go_on_after_a_kill(settings, tmp_path):
    """The E-step of an epoch is in the checkpoint, and moves back to the GPU."""
    given = (*VECTORS, *GPU, "model=maxmin", "data.users_per_group=8", "ckpt_path=last", "trainer.max_epochs=3",
             "callbacks.early_stopping=null", "+callbacks.last.every_n_train_steps=1")  # fmt: skip
    whole = trained(settings, tmp_path / "whole", *given)
    cut = trained_in_two_parts(settings, tmp_path / "cut", 5, *given)
    assert read_results(cut)["test"] == read_results(whole)["test"]


def test_a_router_weighs_heads_that_were_trained_on_the_gpu(settings, tmp_path):
    common = (*VECTORS, *GPU)
    stage1 = trained(settings, tmp_path / "stage1", *common, "data.criteria=hidden")
    routed = (*common, "data.criteria=given", "model=router", f"stage1={stage1}", "loader.budget=20")
    gpu, again = (trained(settings, tmp_path / name, *routed) for name in ("gpu", "again"))
    assert_same(gpu, again)


def test_heads_of_principal_components_are_made_on_the_gpu(settings, tmp_path):
    cpu = trained(settings, tmp_path / "cpu", *VECTORS, "model=drm", "model.num_heads=4")
    gpu = trained(settings, tmp_path / "gpu", *VECTORS, *GPU, "model=drm", "model.num_heads=4")
    torch.testing.assert_close(
        weights(gpu)["head.directions_KD"], weights(cpu)["head.directions_KD"], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("optimizer", ["lbfgs", "adamw"])
def test_optimizers_of_full_batches(optimizer, settings, tmp_path):
    given = (*VECTORS, f"model/optimizer={optimizer}", "loader.batch_size=512", "trainer.gradient_clip_val=null")
    cpu, gpu = trained(settings, tmp_path / "cpu", *given), trained(settings, tmp_path / "gpu", *given, *GPU)
    assert read_results(gpu)["test"]["nll"]["value"] == pytest.approx(
        read_results(cpu)["test"]["nll"]["value"], abs=1e-3
    )


def test_a_profile_learns_of_a_mixture_that_was_trained_on_the_gpu(settings, tmp_path):
    run = trained(settings, tmp_path / "run", *TEXT, *GPU)
    pairs = [{"prompt": "Why is the sky blue?", "chosen": f"Light, {n}.", "rejected": f"Paint, {n}."} for n in range(5)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, pairs)))
    given = (f"run={run}", f"profile={tmp_path / 'me.sqlite'}", "user=ada", f"pairs={path}",
             f"paths.output_dir={tmp_path}")  # fmt: skip
    found = personalise.run(settings(*given, config="personalise"))
    assert found is None or found["labels"]
    assert (tmp_path / "me.sqlite").is_file()


def test_judges_read_a_model_wherever_it_is(model, settings, tmp_path):
    """The command restores a model on the CPU; a program may have moved it."""
    given = (*SMALL, *GPU, *TRAINED, "backbone=hf", f"backbone.model={model}")
    run = trained(settings, tmp_path / "run", *given)
    data = build(settings(*given)["data"]).load(0)
    restored = restore(run, data, tmp_path / "features")
    pairs = data.split("test")
    before = judges.judge_pairs(restored, pairs, 8)
    after = judges.judge_pairs(restored.cuda(), pairs, 8)
    assert after.margins_BJ == pytest.approx(before.margins_BJ, abs=1e-3)
    judged = judge_rows(restored, data, 8)
    assert judged["margins_BK"].shape == (len(data.pairs), restored.num_heads)
