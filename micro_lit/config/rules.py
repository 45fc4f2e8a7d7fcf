"""What each setting may hold, by its dotted key."""

import datetime
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from micro_lit.config.names import check_names
from micro_lit.config.objects import check_node, is_public, objects
from micro_lit.errors import UserError

Settings = dict[str, Any]

_HALF = re.compile("[\ud800-\udfff]")


class Rule(NamedTuple):
    """What a key may hold: a sentence for the error, and the test behind it."""

    allowed: str
    test: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(least: int, most: float = math.inf, null: bool = False) -> Rule:
    allowed = f"a whole number of at least {least}" + (f" and at most {most}" if most < math.inf else "")
    return Rule(
        allowed + (", or null" if null else ""),
        lambda value: (null and value is None) or (type(value) is int and least <= value <= most),
    )


def _number(least: float, below: float = math.inf, most: float = math.inf, null: bool = False) -> Rule:
    allowed = f"a number of at least {least}"
    allowed += (f" and below {below}" if below < math.inf else "") + (f" and at most {most}" if most < math.inf else "")
    return Rule(
        allowed + (", or null" if null else ""),
        lambda value: (null and value is None) or (_is_number(value) and least <= value <= most and value < below),
    )


def _one_of(*values: Any) -> Rule:
    return Rule("one of " + ", ".join(map(str, values)), lambda value: value in values)


def _yes_or_no() -> Rule:
    return Rule("true or false", lambda value: isinstance(value, bool))


def _name() -> Rule:
    # A command line that is no UTF-8 comes in as half characters, which no file can hold.
    return Rule(
        "a name, a whole number or null; other numbers in two kinds of quotes, as '\"1.5\"'",
        lambda value: value is None or type(value) is int or (isinstance(value, str) and not _HALF.search(value)),
    )


def _object(*keys: str) -> Rule:
    """An object that others than its class read `keys` of."""
    needed = "".join(f", {key}" for key in keys)
    return Rule(
        f"an object with a _target_{needed} (to choose one of a group write group=option, as in model/head=mlp)",
        lambda value: isinstance(value, Mapping) and {"_target_", *keys} <= set(value),
    )


def _objects() -> Rule:
    return Rule(
        "a mapping from names to objects with a _target_, or null",
        lambda value: (
            value is None
            or (
                isinstance(value, Mapping)
                and all(each is None or (isinstance(each, Mapping) and "_target_" in each) for each in value.values())
            )
        ),
    )


def _text(null: bool = False, number: bool = False) -> Rule:
    """number: a whole number is read as the text that it is written with, as a name of a user may be."""
    return Rule(
        "text that is not empty" + (", or null" if null else ""),
        lambda value: (
            (null and value is None) or (isinstance(value, str) and value != "") or (number and type(value) is int)
        ),
    )


def _texts(what: str, null: bool = False, empty: bool = True) -> Rule:
    return Rule(
        f"a list of {what}" + (", or null" if null else ""),
        lambda value: (
            (null and value is None)
            or (isinstance(value, list) and (empty or bool(value)) and all(isinstance(each, str) for each in value))
        ),
    )


def _length_of_time() -> Rule:
    return Rule(
        "a time above 0, as '00:12:00:00' (days, hours, minutes, seconds) or {hours: 12}, or null",
        lambda value: value is None or _seconds(value) > 0,
    )


def _seconds(value: Any) -> float:
    """A length of time; nan of what is none."""
    if isinstance(value, str):
        parts = value.split(":")
        named = dict(zip(("days", "hours", "minutes", "seconds"), parts, strict=False))
        if len(parts) != 4 or not all(part.isdecimal() for part in parts):
            return math.nan
        value = {name: int(part) for name, part in named.items()}
    if not isinstance(value, Mapping) or not all(map(_is_number, value.values())):
        return math.nan
    try:
        return datetime.timedelta(**value).total_seconds()
    except (TypeError, OverflowError):
        return math.nan


def _share_or_count(none: bool = False, null: bool = True) -> Rule:
    """Of batches: how many, or which share. none: whether it may be 0."""
    return Rule(
        f"a whole number of at least {int(not none)}, a share above 0 and at most 1.0" + (", or null" if null else ""),
        lambda value: (
            (null and value is None)
            or (type(value) is int and value >= int(not none))
            or (type(value) is float and (none or value > 0) and 0 <= value <= 1)
        ),
    )


def _rise_from_0(values: list[Any]) -> bool:
    whole = all(type(value) is int for value in values)
    return whole and values[:1] == [0] and all(low < high for low, high in itertools.pairwise(values))


def _are_devices(value: Any) -> bool:
    """Whether a Trainer on some machine has such devices: how many, all, or GPUs by number, also as text."""
    if isinstance(value, str) and "," in value:
        value = [each.strip() for each in value.rstrip(", ").split(",")]
    numbers = [str(each) for each in (value if isinstance(value, list) else [value]) if not isinstance(each, bool)]
    if isinstance(value, list):
        return bool(numbers) and all(map(str.isdecimal, numbers)) and len(set(map(int, numbers))) == len(value)
    return numbers in (["auto"], ["-1"]) or (bool(numbers) and numbers[0].isdecimal() and int(numbers[0]) > 0)


def _layout() -> Rule:
    return Rule(
        "null, or an object with a _target_ and _partial_: true (as in conf/data/rpr.yaml)",
        lambda value: value is None or (isinstance(value, Mapping) and {"_target_", "_partial_"} <= set(value)),
    )


RULES: dict[str, Rule] = {
    "seed": _whole(0, most=2**32 - 1),
    "threads": _whole(1, most=1024, null=True),
    "split": _one_of("all", "train", "validation", "test"),
    "replicates": _whole(1),
    "skip_finished": _yes_or_no(),
    "overwrite": _yes_or_no(),
    "own_process": _yes_or_no(),
    "rule": _one_of("posterior", "hedge"),
    "repeated_labels": _one_of("skip", "count"),
    "user": _name(),
    "forget": _name(),
    "export": Rule(
        "the name of a file that ends in .json, or null",
        lambda value: value is None or (isinstance(value, str) and value.endswith(".json")),
    ),
    "on_bad_row": _one_of("error", "skip"),
    "columns": Rule("a mapping from our columns to theirs", lambda value: isinstance(value, Mapping)),
    "budget": _whole(1),
    "budget_from": _one_of("train", "test"),
    "budgets": Rule(
        "a list of whole numbers of at least 0",
        lambda value: (
            isinstance(value, list) and bool(value) and all(type(each) is int and each >= 0 for each in value)
        ),
    ),
    "labels": Rule(
        "a list of whole numbers that rise from 0, at its end maybe null for all labels",
        lambda value: isinstance(value, list) and _rise_from_0(value[:-1] if value[-1:] == [None] else value),
    ),
    "rows_left": _whole(1),
    "common": Rule(
        "a list of overrides of micro_lit.train",
        lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
    ),
    "draws": _whole(2),
    "resamples": _whole(100),
    "elicitation.labels": _whole(1),
    "elicitation.pool": _whole(1),
    "candidates": Rule(
        "a mapping from names to the folder of a run or a list of overrides of micro_lit.train",
        lambda value: (
            isinstance(value, Mapping)
            and bool(value)
            and all(
                isinstance(each, str | list) and all(isinstance(part, str) for part in each) for each in value.values()
            )
        ),
    ),
    "routed": _texts("candidates"),
    "elicited": _texts("candidates"),
    "cards": _texts("candidates"),
    "explained": _texts("candidates"),
    "baseline": _text(),
    "out": _text(null=True),
    "name": _text(number=True),
    "paths.output_dir": _text(),
    "paths.features_dir": _text(),
    "paths.data_dir": _text(),
    "paths.run_dir": _text(),
    "stage1": _text(null=True),
    "ckpt_path": _text(null=True),
    "run": _text(null=True, number=True),
    "profile": _text(number=True),
    "pairs": _text(null=True, number=True),
    "responses": _text(null=True, number=True),
    "runs": Rule(
        "a folder, a pattern, or a list of these",
        lambda value: (
            (isinstance(value, str) and value != "")
            or (isinstance(value, list) and bool(value) and all(isinstance(each, str) and each for each in value))
        ),
    ),
    "report.y": _texts("paths into results.json", empty=False),
    "report.metrics": _texts("paths into results.json", null=True, empty=False),
    "report.title": _text(null=True, number=True),
    "report.x": _text(null=True),
    "report.panels": _text(null=True),
    "report.out": _text(null=True),
    "logger": _objects(),
    "callbacks": _objects(),
    "adaptation": _objects(),
    "elicitation.strategies": _objects(),
    "report.log": _yes_or_no(),
    "packages": Rule("a list of names", lambda value: isinstance(value, list) and all(map(is_public, value))),
    "trust_remote_code": _yes_or_no(),
    "data": _object(),
    "backbone": _object(),
    "model": _object(),
    "model.head": _object(),
    "model.gate": _object(),
    "model.optimizer": _object(),
    "trainer": _object("accelerator", "devices", "num_nodes"),
    "loader.batch_size": _whole(1),
    "loader.eval_batch_size": _whole(1),
    "loader.token_budget": _whole(1, null=True),
    "loader.budget": _whole(1, null=True),
    "loader.unlabelled": _whole(0),
    "data.validation": _whole(1),
    "data.split_by": _one_of("prompt", "pair_id", "response"),
    "data.validation_fraction": _number(0.0, below=1.0),
    "data.test_fraction": _number(0.0, below=1.0),
    "data.on_bad_row": _one_of("error", "skip"),
    "data.ties": _one_of("drop", "keep"),
    "data.layout": _layout(),
    "data.test_layout": _layout(),
    "data.unanimous": _one_of("drop", "keep"),
    "data.limit": _whole(1, null=True),
    "data.raters_per_pair": _whole(1),
    "data.users_per_group": _whole(0),
    "data.unseen_share": _number(0.0, below=1.0),
    "data.criteria": _one_of("none", "hidden", "given", "shuffled"),
    "data.prompt_in_response": _yes_or_no(),
    "data.population.topics": _whole(1),
    "data.population.strength": _number(0.0),
    "data.population.seed": _whole(0),
    "data.population.relevant": _whole(1),
    "data.population.angle": _number(0.0, most=180.0, null=True),
    "backbone.pooling": _one_of("last", "mean", "cls"),
    "backbone.causal": _yes_or_no(),
    "backbone.frozen": _yes_or_no(),
    "backbone.lora.rank": _whole(0),
    "backbone.lora.alpha": _number(1e-6),
    "backbone.lora.dropout": _number(0.0, below=1.0),
    "backbone.lora.targets": Rule(
        "all-linear, or a list of names of layers",
        lambda value: value == "all-linear" or (isinstance(value, list) and bool(value) and all(map(str, value))),
    ),
    "backbone.gradient_checkpointing": _yes_or_no(),
    "backbone.standardise": _yes_or_no(),
    "backbone.max_length": _whole(8),
    "backbone.token_budget": _whole(1, null=True),
    "backbone.resident_gb": _number(0.0),
    "backbone.dtype": _one_of("auto", "float32", "bfloat16", "float16"),
    "backbone.store_dtype": _one_of("float32", "bfloat16", "float16"),
    "backbone.attn_implementation": _one_of(
        "sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"
    ),
    "backbone.trust_remote_code": _yes_or_no(),
    "backbone.hidden": _whole(1),
    "backbone.layers": _whole(1),
    "backbone.heads": _whole(1),
    "backbone.vocabulary": _whole(300),
    "model.name": _text(),
    "model.num_heads": _whole(1),
    "model.link": _one_of("probability", "reward"),
    "model.estimation": _one_of("gradient", "em"),
    "model.temperature": _number(0.0),
    "model.top_k": _whole(1),
    "model.code_width": _whole(1),
    "model.hidden": _whole(1),
    "model.kl_weight": _number(0.0),
    "model.kl_warmup": _number(0.0, most=1.0),
    "model.read_share": _number(1e-6, most=1.0),
    "model.head.dim": _whole(1),
    "model.head.layers": _whole(1),
    "model.noise": _number(0.0),
    "model.sparsity_weight": _number(0.0),
    "model.diversity_weight": _number(0.0),
    "model.entropy_weight": _number(0.0),
    "model.balance_weight": _number(0.0),
    "model.label_smoothing": _number(0.0, below=0.5),
    "model.rating_gap_weight": _number(0.0),
    "model.centring_weight": _number(0.0),
    "model.warmup": _number(0.0, below=1.0),
    "model.tau": _number(1e-6),
    "model.pooled": _yes_or_no(),
    "model.optimizer.lr": _number(0.0),
    "model.optimizer.weight_decay": _number(0.0),
    "model.prior_weight": _number(0.0),
    "model.head.hidden": _whole(1),
    "model.head.scale": _number(0.0),
    "model.head.trained": _yes_or_no(),
    "model.head.distribution": _one_of("gaussian", "uniform"),
    "model.head.features": _whole(0),
    "model.head.lengthscale": _number(1e-6),
    "model.head.base_ridge": _number(1e-12),
    "model.head.deviation_ridge": _number(1e-12),
    "model.head.draw": _whole(0),
    "model.gate.hidden": _whole(1),
    "trainer.max_epochs": _whole(1),
    "trainer.precision": _one_of("32-true", "bf16-mixed", "16-mixed"),
    "trainer.accelerator": _one_of("cpu", "gpu", "auto"),
    "trainer.devices": Rule(
        "how many there are to be, as 2, or auto; on GPUs also -1 for all, or a list of their numbers, as [0,1]",
        _are_devices,
    ),
    "trainer.num_nodes": _whole(1),
    "trainer.strategy": Rule(
        "a strategy of one process a device, as auto, ddp or fsdp are; none that spawns or forks its processes itself",
        lambda value: {"spawn", "fork", "forkserver", "notebook"}.isdisjoint(
            str(value.get("start_method") if isinstance(value, Mapping) else value).split("_")
        ),
    ),
    "trainer.accumulate_grad_batches": _whole(1),
    "trainer.max_steps": Rule(
        "a whole number of at least 1, or -1 for no limit",
        lambda value: type(value) is int and (value == -1 or value > 0),
    ),
    "trainer.max_time": _length_of_time(),
    "trainer.gradient_clip_val": _number(0.0, null=True),
    "trainer.val_check_interval": _share_or_count(),
    "trainer.check_val_every_n_epoch": _whole(1, null=True),
    "trainer.log_every_n_steps": _whole(1),
    "trainer.num_sanity_val_steps": _whole(-1),
    "trainer.limit_train_batches": _share_or_count(),
    "trainer.limit_val_batches": _share_or_count(none=True),  # of a router: its validation labels are beyond the budget
    "trainer.limit_test_batches": _share_or_count(),
    "callbacks.early_stopping.patience": _whole(0),
    "callbacks.step_line.lines": _whole(1),
    "callbacks.step_line.seconds": _number(0.0),
    "adaptation.mixture_em.max_steps": _whole(1),
    "adaptation.mixture_em.tolerance": _number(0.0),
}


def validate(settings: Settings) -> None:
    """Raises `UserError` for the first setting that breaks a rule: key, what was given, what is allowed."""
    for key, value in _numbers(settings):
        if not math.isfinite(value):
            raise UserError(f"{key}={value!r} is not allowed; no setting is nan or infinite")
    for key, rule in _rules(settings):
        found, value = _look_up(settings, key)
        if found and not rule.test(value):
            raise UserError(f"{key}={value!r:.120} is not allowed; give {rule.allowed}")
    for key, node in objects(settings):
        check_node(key, node, settings.get("packages") or [])
    check_names(settings)


def _rules(settings: Settings) -> Iterator[tuple[str, Rule]]:
    """All rules; those of a model also for a router, those of a data set also for each set of a mixture."""
    yield from RULES.items()
    yield from ((key.replace("model", "router", 1), rule) for key, rule in RULES.items() if key.startswith("model"))
    sets = _look_up(settings, "data.sets")[1]
    for name in sets if isinstance(sets, Mapping) else ():
        for key, rule in RULES.items():
            if key.startswith("data."):
                yield key.replace("data.", f"data.sets.{name}.", 1), rule


def _numbers(node: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """All broken numbers of settings, those in lists too."""
    if isinstance(node, float):
        yield key, node
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        yield from _numbers(child, f"{key}.{name}" if key else str(name))


def _look_up(settings: Any, key: str) -> tuple[bool, Any]:
    for part in key.split("."):
        if not isinstance(settings, Mapping) or part not in settings:
            return False, None
        settings = settings[part]
    return True, settings
