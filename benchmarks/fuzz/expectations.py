"""Valid and invalid values of settings, as a user types them, written by hand independently of the code's annotations.

Each key has values that must work in a run of two training batches and one epoch, and values that must be refused.
Values in neither list are not tested.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Values(NamedTuple):
    """right: values that must work. wrong: values that must be refused."""

    right: tuple[str, ...]
    wrong: tuple[str, ...]


NEITHER_NUMBER_NOR_WORD = ("[1]", "[]", "{a: 1}", "{}")
WORDS = ("abc", "''", "'a b'", "'a=b'", "'(x)'", "'ünïcödé'")
UNBOUNDED = ("nan", "inf", "-inf")
NO_NUMBER = (*NEITHER_NUMBER_NOR_WORD, *WORDS, *UNBOUNDED)


def whole(least: int, *right: str, null: bool = False, wrong: Sequence[str] = ()) -> Values:
    """Integers of at least `least`."""
    refused = (str(least - 1), "-7", "1.5", "true", *NO_NUMBER, *wrong)
    return Values((*right, *(["null"] * null)), refused if null else (*refused, "null"))


def number(*right: str, wrong: Sequence[str] = (), null: bool = False) -> Values:
    """Numbers of at least 0; `wrong` adds values that must be refused."""
    refused = ("-0.1", "true", *NO_NUMBER, *wrong)
    return Values((*right, *(["null"] * null)), refused if null else (*refused, "null"))


def yes_or_no(*right: str) -> Values:
    """true or false; null is not tested, because its meaning depends on the library."""
    return Values(right or ("true", "false"), ("7", "0.5", *NEITHER_NUMBER_NOR_WORD, *WORDS, "nan"))


def one_of(*right: str, wrong: Sequence[str] = ()) -> Values:
    """One of a few words."""
    return Values(right, ("7", "0.5", "true", *NEITHER_NUMBER_NOR_WORD, *WORDS, "nan", *wrong))


HUGE = "1" + 21 * "0"
PART = ("0", "0.0", "-1", "1.5", "-0.5")
NODE = Values((), ("7", "abc", "''", "[a]", "[]", "nan", "true"))
# For an optional config group: [] selects no option.
LEFT_OUT = Values(("[]",), tuple(each for each in NODE.wrong if each != "[]"))

# For `train.py +experiment=planted_floors_k8` with 64 training pairs in batches of 32, 32 validation and 48 test pairs.
TRAIN: dict[str, Values] = {
    "seed": whole(0, "0", "7", "4294967295", wrong=("4294967296", HUGE)),
    "skip_finished": yes_or_no(),
    "own_process": yes_or_no(),
    "packages": Values(("[]", "[mine]"), ("7", "abc", "{a: 1}", "null", "nan", "[7]", "[null]", "[[a]]")),
    "stage1": Values(("null",), ("nix", "''", "7", "[a]", "{a: 1}", "true", "nan", ".")),
    "ckpt_path": Values(("null", "last"), ("nix", "''", "7", "[a]", "{a: 1}", "true", "nan", ".", "/dev/null")),
    "name": Values(("'a b'", "'ünïcödé'", "'a=b'"), ("[a]", "{a: 1}", "null", "nan", "''")),
    "loader.batch_size": whole(1, "1", "64", "100", "1000000"),
    "loader.eval_batch_size": whole(1, "1", "7", "1000000"),
    "loader.token_budget": whole(1, null=True, wrong=("64",)),
    "loader.budget": whole(1, null=True, wrong=("2",)),
    "loader.unlabelled": whole(0, "0", wrong=("3",)),
    "data": NODE,
    "data.train": whole(1, "1", "33", "64"),
    "data.validation": whole(1, "1", "32"),
    "data.test": whole(1, "1", "48"),
    "data.raters_per_pair": whole(1, "1", "3"),
    "data.users_per_group": whole(0, "0", "3"),
    "data.unseen_share": number("0.0", wrong=("1.0", "0.5", "2")),
    "data.prompt_in_response": yes_or_no(),
    "data.criteria": one_of("none", "hidden", "given", "shuffled", wrong=("null",)),
    "data.population": NODE,
    "data.population.attributes": Values(
        ("[length,formality,humour,hedging,citations,warmth]",),
        ("7", "abc", "null", "[]", "{a: 1}", "[1,2]", "[[a]]", "[a,b,c,d,e,f,g,h]", "[null]", "true", "nan"),
    ),
    "data.population.groups": Values(
        ("2", "4"), ("0", "-1", "1.5", "abc", "null", "[]", "[a]", "true", "nan", "{nix: 7}", "{nix: {humour: abc}}")
    ),
    "data.population.relevant": whole(1, "1", "2", "6"),
    "data.population.angle": number(null=True, wrong=("90", "181", "-90")),
    "data.population.strength": number("0", "1", "5.0"),
    "data.population.topics": whole(1, "1", "8"),
    "data.population.group_weights": Values(
        ("0.3", "1", "100"),
        ("0", "-1", "nan", "inf", "abc", "null", "[]", "[1]", "[[1]]", "[[a]]", "true", "{a: 1}", "[[1,null]]", "''"),
    ),
    "data.population.seed": whole(0, "0", "3"),
    "backbone": NODE,
    "backbone.standardise": yes_or_no(),
    "model": NODE,
    "model.head": NODE,
    "model.gate": NODE,
    "model.optimizer": NODE,
    "model.num_heads": whole(1, "1", "2", "5", null=True),
    "model.name": Values(("mine", "'a b'"), ("[a]", "{a: 1}", "null", "nan", "''")),
    "model.link": one_of("probability", "reward", wrong=("null", "[probability]")),
    "model.entropy_weight": number("0", "0.5"),
    "model.balance_weight": number("0", "0.5"),
    "model.label_smoothing": number("0", "0.4", wrong=("0.5", "1")),
    "model.rating_gap_weight": number("0", "1"),
    "model.centring_weight": number("0", "1"),
    "model.warmup": number("0", "0.5", wrong=("1", "7")),
    "model.gate.hidden": whole(1, "1", "16"),
    "model.optimizer.lr": number("0", "0.01"),
    "model.optimizer.weight_decay": number("0", "0.5", wrong=("-1",)),
    "trainer": NODE,
    "trainer.accelerator": one_of("cpu", wrong=("null",)),
    "trainer.devices": Values(("1", "'1'", "auto"), ("0", "-7", "1.5", "true", "null", *NO_NUMBER[1:])),
    "trainer.num_nodes": whole(1, "1"),
    "trainer.strategy": one_of("auto", wrong=("null", "ddp_spawn")),
    "trainer.precision": one_of("32-true", "bf16-mixed", wrong=("null", "8", "32-mixed")),
    "trainer.max_epochs": whole(1, "1", "2"),
    "trainer.max_steps": Values(("-1", "1", "3"), ("0", "-2", "1.5", "true", "null", *NO_NUMBER)),
    "trainer.max_time": Values(
        ("null", "'00:00:01:00'", "{minutes: 1}", "{hours: 1, seconds: 3}"),
        ("0", "-1", "1.5", "true", "{minutes: 0}", "{minutes: abc}", "'00:00:00:00'", *NO_NUMBER),
    ),
    "trainer.accumulate_grad_batches": whole(1, "1", "2"),
    "trainer.gradient_clip_val": number("0.5", "1", null=True, wrong=("-1",)),
    "trainer.val_check_interval": Values(
        ("1.0", "0.5", "1", "2"),
        ("0", "0.0", "-1", "1.5", "3", "true", *NO_NUMBER),
    ),
    "trainer.check_val_every_n_epoch": whole(1, "1", wrong=("2", "9")),
    "trainer.log_every_n_steps": whole(1, "1", "1000"),
    "trainer.num_sanity_val_steps": Values(("0", "2", "-1"), ("-2", "1.5", "true", *NO_NUMBER)),
    "trainer.deterministic": Values(("true", "false", "warn"), ("7", *NEITHER_NUMBER_NOR_WORD, *WORDS, "nan")),
    "trainer.benchmark": yes_or_no(),
    "trainer.limit_train_batches": number("1", "1.0", "0.5", "2", null=True, wrong=(*PART, "0.1")),
    "trainer.limit_val_batches": number("1", "1.0", null=True, wrong=(*PART, "0.5")),
    "trainer.limit_test_batches": number("1", "1.0", null=True, wrong=(*PART, "0.5")),
    "trainer.fast_dev_run": Values(("true", "false", "1", "2", "0"), ("-1", "1.5", "null", *NO_NUMBER)),
    "trainer.detect_anomaly": yes_or_no(),
    "trainer.profiler": one_of("null", "simple", wrong=("nix",)),
    "trainer.enable_progress_bar": yes_or_no(),
    "trainer.enable_model_summary": yes_or_no(),
    "trainer.use_distributed_sampler": yes_or_no("false"),
    "+trainer.min_epochs": Values(("1", "null"), ("1.5", "true", *NO_NUMBER)),
    "+trainer.overfit_batches": Values(("0", "1"), ("-1", "1.5", "null", *NO_NUMBER)),
    "+trainer.gradient_clip_algorithm": one_of("norm", "value", wrong=("nix",)),
    "+trainer.reload_dataloaders_every_n_epochs": whole(0, "0", "1"),
    "+trainer.inference_mode": yes_or_no(),
    "+trainer.sync_batchnorm": yes_or_no(),
    "+trainer.barebones": Values(("false",), ("true", "7", "abc", "[1]")),
    "+trainer.nix": Values((), ("1", "null", "[1]", "abc")),
    "+model.nix": Values((), ("1", "null", "[1]", "abc")),
    "+data.nix": Values((), ("1", "null", "[1]", "abc")),
    "+loader.nix": Values((), ("1", "null", "[1]", "abc")),
    "+model.optimizer.nix": Values((), ("1", "null", "[1]", "abc")),
    "+model.optimizer.betas": Values(("[0.9,0.99]",), ("1", "null", "[1]", "abc", "[2,2]", "[a,b]", "[0.9]")),
    "+model.optimizer.eps": number("1e-8", wrong=("-1",)),
    "nix": Values((), ("1", "null", "[1]", "abc")),
    "trainer.nix": Values((), ("1", "null", "[1]", "abc")),
    "logger": LEFT_OUT,
    "logger.csv.save_dir": Values((), ("7", "[a]", "{a: 1}", "nan", "true")),
    "logger.csv.name": Values(("''",), ("[a]", "{a: 1}", "nan", "true")),
    "logger.csv.version": Values(("''",), ("[a]", "{a: 1}", "nan", "1.5")),
    "callbacks": LEFT_OUT,
    "callbacks.best.monitor": one_of("val/nll", wrong=("val/nix", "7")),
    "callbacks.best.mode": one_of("min", wrong=("null",)),
    "callbacks.best.filename": Values(("best",), ("[a]", "{a: 1}", "nan", "true", "'../../x'")),
    "callbacks.best.dirpath": Values((), ("7", "[a]", "{a: 1}", "nan", "true")),
    "callbacks.best.enable_version_counter": yes_or_no("false"),
    "callbacks.early_stopping.patience": whole(0, "0", "3"),
    "callbacks.early_stopping.mode": one_of("min", wrong=("null",)),
    "callbacks.early_stopping.monitor": one_of("val/nll", wrong=("val/nix", "7")),
    "callbacks.step_line.lines": whole(1, "1", "20"),
    "callbacks.step_line.seconds": number("0", "1", "10.0"),
    "report.y": Values(("[test.nll]",), ("7", "test.nll", "[]", "{a: 1}", "null", "[7]", "nan")),
    "report.metrics": Values(("null", "[test.nll]"), ("7", "test.nll", "[]", "{a: 1}", "[7]", "nan")),
    "report.log": yes_or_no(),
    "report.title": Values(("null", "mine"), ("[a]", "{a: 1}", "nan")),
    "report.x": Values(("null",), ("[a]", "{a: 1}", "nan", "7")),
    "report.panels": Values(("null",), ("[a]", "{a: 1}", "nan", "7")),
    "report.out": Values(("null",), ("[a]", "{a: 1}", "nan", "7")),
    "paths.output_dir": Values(("elsewhere",), ("[a]", "{a: 1}", "null", "nan", "7")),
    "paths.features_dir": Values(("elsewhere",), ("[a]", "{a: 1}", "null", "nan", "7")),
    "paths.data_dir": Values(("nix",), ("[a]", "{a: 1}", "null", "nan", "7")),
    "paths.run_dir": Values(
        ("elsewhere",), ("[a]", "{a: 1}", "null", "nan", "7", "/dev/null", "/dev/null/x", "/proc/x", "''")
    ),
    "hydra.run.dir": Values((), ("null", "[a]", "/dev/null/x", "/proc/x")),
    "hydra.job.name": Values((), ("[a]", "{a: 1}")),
    "hydra.verbose": Values(("false",), ("{a: 1}", "1.5")),
    "hydra/launcher": Values((), ("nix", "7", "[a]")),
    "hydra": Values((), ("7", "abc", "null", "[a]")),
}  # fmt: skip

NO_CANDIDATES = ("7", "abc", "[]", "{}", "{a: 7}", "null", "nan", "{a: nix}", "{a: [seed=-1]}", "[a]")
NO_COUNTS = ("7", "abc", "[]", "[a]", "{a: 1}", "null", "nan", "[1.5]", "[true]")

# For the other commands: top-level keys, and some nested keys. The base arguments of each command work.
OTHERS: dict[str, dict[str, Values]] = {
    "floors": {
        "seed": whole(0, "0", "3"),
        "split": one_of("all", "train", "test", wrong=("null", "nix")),
        "replicates": whole(1, "1", "50"),
        "packages": TRAIN["packages"],
        "name": Values(("mine",), ("[a]", "{a: 1}", "null", "nan", "''")),
        "data": NODE,
        "data.train": whole(1, "1", "33"),
        "data.population.strength": number("0", "5.0"),
        "paths.run_dir": TRAIN["paths.run_dir"],
    },
    "report": {
        "runs": Values((), ("nix", "''", "7", "[]", "{a: 1}", "null", "nan", "[7]", "'*'", "/dev/null", "true")),
        "name": Values(("mine",), ("[a]", "{a: 1}", "null", "nan", "''")),
        "report.y": Values(("[test.nll]",), ("7", "test.nll", "[]", "{a: 1}", "null", "[7]", "nan", "[nix]")),
        "report.metrics": Values(("null", "[test.nll]"), ("7", "test.nll", "[]", "{a: 1}", "[7]", "nan", "[nix]")),
        "report.log": yes_or_no(),
        "report.title": Values(("null", "mine"), ("[a]", "{a: 1}", "nan")),
        "report.x": Values(("null", "model.num_heads"), ("[a]", "{a: 1}", "nan", "7", "nix", "model.link")),
        "report.panels": Values(("null",), ("[a]", "{a: 1}", "nan", "7")),
        "report.out": Values(("null", "elsewhere"), ("[a]", "{a: 1}", "nan", "7", "/dev/null", "/proc/x")),
        "logger": LEFT_OUT,
        "paths.run_dir": TRAIN["paths.run_dir"],
    },
    "evaluate": {
        "seed": whole(0, "0", "3"),
        "candidates": Values((), (*NO_CANDIDATES, "{a: {b: c}}")),
        "baseline": Values(("a",), ("nix", "7", "[a]", "{a: 1}", "null", "nan", "''", "true")),
        "budget": whole(1, "1", "2"),
        "budgets": Values(("[0,1]", "[0]"), (*NO_COUNTS, "[-1]", "[null]")),
        "budget_from": one_of("train", "test", wrong=("null", "validation")),
        "draws": whole(2, "2", "3"),
        "resamples": whole(100, "100"),
        "routed": Values(("[]",), ("7", "abc", "{a: 1}", "null", "nan", "[nix]", "[7]")),
        "elicited": Values(("[]", "[a]"), ("7", "abc", "{a: 1}", "null", "nan", "[nix]", "[7]")),
        "cards": Values(("[]", "[a]"), ("7", "abc", "{a: 1}", "null", "nan", "[nix]", "[7]")),
        "explained": Values(("[]", "[a]"), ("7", "abc", "{a: 1}", "null", "nan", "[nix]", "[7]")),
        "elicitation.labels": whole(1, "1"),
        "elicitation.pool": whole(1, "3"),
        "elicitation.strategies": Values((), ("7", "abc", "[a]", "{a: 1}", "null", "nan")),
        "adaptation": Values((), ("7", "abc", "[a]", "{a: 1}", "null", "nan")),
        "loader.batch_size": whole(1, "8"),
        "loader.eval_batch_size": whole(1, "8"),
        "out": Values(("null", "elsewhere"), ("[a]", "{a: 1}", "nan", "7", "/dev/null", "/proc/x")),
        "packages": TRAIN["packages"],
        "name": Values(("mine",), ("[a]", "{a: 1}", "null", "nan", "''")),
        "trainer.max_epochs": whole(1, "1"),
        "router": NODE,
        "router.tau": number("1.0", wrong=("0", "-1")),
    },
    "people": {
        "seed": whole(0, "0", "3"),
        "candidates": Values((), NO_CANDIDATES),
        "baseline": Values(("a",), ("nix", "7", "[a]", "{a: 1}", "null", "nan", "''")),
        "common": Values(("[]", "[seed=1]"), ("7", "abc", "{a: 1}", "null", "nan", "[7]", "[null]")),
        "labels": Values(("[0]", "[0,1]"), (*NO_COUNTS, "[1]", "[0,0]", "[0,1.5]", "[0,-1]", "[0,999]")),
        "draws": whole(2, "2", "3"),
        "rows_left": whole(1, "1", wrong=("9999",)),
        "resamples": whole(100, "100"),
        "loader.eval_batch_size": whole(1, "8"),
        "adaptation.mixture_em.tolerance": number("1e-6"),
        "adaptation.mixture_em.max_steps": whole(1, "5"),
        "out": Values(("null", "elsewhere"), ("[a]", "{a: 1}", "nan", "7", "/dev/null", "/proc/x")),
        "packages": TRAIN["packages"],
        "name": Values(("mine",), ("[a]", "{a: 1}", "null", "nan", "''")),
    },
    "personalise": {
        "run": Values((), ("nix", "''", "7", "[a]", "{a: 1}", "null", "nan", "/dev/null", "true")),
        "profile": Values(("mine.json",), ("''", "[a]", "{a: 1}", "null", "nan", "/dev/null/x", "/proc/x/y")),
        "pairs": Values((), ("nix", "''", "7", "[a]", "{a: 1}", "null", "nan", "/dev/null", "true")),
        "responses": Values(("null",), ("nix", "''", "7", "[a]", "{a: 1}", "nan", "/dev/null", "true")),
        "user": Values(("ada", "'ünï cödé'"), ("[a]", "{a: 1}", "nan", "''")),
        "columns": Values(("{}",), ("7", "abc", "[a]", "null", "nan", "{nix: a}", "{chosen: nix}", "{chosen: [a]}")),
        "on_bad_row": one_of("error", "skip", wrong=("null",)),
        "rule": one_of("posterior", "hedge", wrong=("null",)),
        "name": Values(("mine",), ("[a]", "{a: 1}", "null", "nan", "''")),
        "paths.run_dir": TRAIN["paths.run_dir"],
    },
    "encode": {
        "seed": whole(0),
        "data": NODE,
        "data.train": Values((), ("nix", "''", "7", "[a]", "{a: 1}", "null", "nan", "/dev/null")),
        "backbone": NODE,
        "backbone.model": Values((), ("nix", "''", "7", "[a]", "{a: 1}", "null", "nan", "/dev/null")),
        "backbone.max_length": whole(8),
        "backbone.token_budget": whole(1),
        "backbone.dtype": one_of(wrong=("null", "int8")),
        "packages": Values((), TRAIN["packages"].wrong),
        "paths.features_dir": Values((), ("[a]", "{a: 1}", "null", "nan", "7", "/dev/null/x", "/proc/x")),
    },
}  # fmt: skip
