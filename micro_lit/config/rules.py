"""What each setting may hold, by its dotted key."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from micro_lit.config.kinds import (
    Rule,
    devices,
    layout,
    length_of_time,
    node,
    nodes,
    number,
    one_of,
    rise_from_0,
    share_or_count,
    text,
    texts,
    user_name,
    whole,
    yes_or_no,
)
from micro_lit.config.names import check_names
from micro_lit.config.objects import check_node, is_public, objects
from micro_lit.config.renamed import check_renamed
from micro_lit.errors import UserError

Settings = dict[str, Any]

SIZES = Rule(
    "a list of whole numbers of at least 0",
    lambda value: isinstance(value, list) and bool(value) and all(type(each) is int and each >= 0 for each in value),
)
RISING_SIZES = Rule(
    "a list of whole numbers that rise from 0, at its end maybe null for all labels",
    lambda value: isinstance(value, list) and rise_from_0(value[:-1] if value[-1:] == [None] else value),
)

RULES: dict[str, Rule] = {
    "seed": whole(0, most=2**32 - 1),
    "threads": whole(1, most=1024, null=True),
    "split": one_of("all", "train", "validation", "test"),
    "replicates": whole(1),
    "skip_finished": yes_or_no(),
    "overwrite": yes_or_no(),
    "own_process": yes_or_no(),
    "rule": Rule(
        "one of posterior, hedge; or an adaptation of your own, as a node with a _target_",
        lambda value: value in ("posterior", "hedge") or (isinstance(value, Mapping) and "_target_" in value),
    ),
    "repeated_labels": one_of("skip", "count"),
    "user": user_name(),
    "forget": user_name(),
    "export": Rule(
        "the name of a file that ends in .json, or null",
        lambda value: value is None or (isinstance(value, str) and value.endswith(".json")),
    ),
    "on_bad_row": one_of("error", "skip"),
    "columns": Rule("a mapping from our columns to theirs", lambda value: isinstance(value, Mapping)),
    "budget": whole(1),
    "budget_from": one_of("train", "test"),
    "budgets": SIZES,
    "labels": RISING_SIZES,
    "rows_left": whole(1),
    "jobs": whole(1),
    "subjects": Rule(
        "attribute, user or all (a group: subjects=user)",
        lambda value: isinstance(value, Mapping) and bool(value) and set(value) <= {"attribute", "user"},
    ),
    "subjects.attribute.budget": whole(1),
    "subjects.attribute.labels": SIZES,
    "subjects.attribute.labels_from": one_of("train", "test"),
    "subjects.attribute.adaptation": nodes(),
    "subjects.user.labels": RISING_SIZES,
    "subjects.user.rows_left": whole(1),
    "subjects.user.adaptation": nodes(),
    "common": Rule(
        "a list of overrides of micro_lit.train",
        lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
    ),
    "draws": whole(2),
    "resamples": whole(100),
    "elicitation.labels": whole(1),
    "elicitation.pool": whole(1),
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
    "profiled": texts("candidates"),
    "routed": texts("candidates"),
    "elicited": texts("candidates"),
    "cards": texts("candidates"),
    "explained": texts("candidates"),
    "baseline": text(),
    "out": text(null=True),
    "name": text(digits=True),
    "paths.output_dir": text(),
    "paths.features_dir": text(),
    "paths.data_dir": text(),
    "paths.run_dir": text(),
    "stage1": text(null=True),
    "ckpt_path": text(null=True),
    "run": text(null=True, digits=True),
    "profile": text(digits=True),
    "pairs": text(null=True, digits=True),
    "responses": text(null=True, digits=True),
    "runs": Rule(
        "a folder, a pattern, or a list of these",
        lambda value: (
            (isinstance(value, str) and value != "")
            or (isinstance(value, list) and bool(value) and all(isinstance(each, str) and each for each in value))
        ),
    ),
    "report.y": texts("paths into results.json", empty=False),
    "report.metrics": texts("paths into results.json", null=True, empty=False),
    "report.title": text(null=True, digits=True),
    "report.x": text(null=True),
    "report.panels": text(null=True),
    "report.out": text(null=True),
    "logger": nodes(),
    "callbacks": nodes(),
    "metrics": nodes(),
    "adaptation": nodes(),
    "elicitation.strategies": nodes(),
    "report.log": yes_or_no(),
    "packages": Rule("a list of names", lambda value: isinstance(value, list) and all(map(is_public, value))),
    "trust_remote_code": yes_or_no(),
    "data": node(),
    "backbone": node(),
    "model": node(),
    "model.head": node(),
    "model.gate": node(),
    "model.optimizer": node(),
    "model.terms": nodes(),
    "trainer": node("accelerator", "devices", "num_nodes"),
    "loader.batch_size": whole(1),
    "loader.eval_batch_size": whole(1),
    "loader.token_budget": whole(1, null=True),
    "loader.budget": whole(1, null=True),
    "loader.unlabelled": whole(0),
    "data.validation": whole(1),
    "data.split_by": one_of("prompt", "pair_id", "response"),
    "data.validation_fraction": number(0.0, below=1.0),
    "data.test_fraction": number(0.0, below=1.0),
    "data.on_bad_row": one_of("error", "skip"),
    "data.ties": one_of("drop", "keep"),
    "data.layout": layout(),
    "data.test_layout": layout(),
    "data.unanimous": one_of("drop", "keep"),
    "data.limit": whole(1, null=True),
    "data.raters_per_pair": whole(1),
    "data.users_per_group": whole(0),
    "data.unseen_share": number(0.0, below=1.0),
    "data.criteria": one_of("none", "hidden", "given", "shuffled"),
    "data.prompt_in_response": yes_or_no(),
    "data.population.topics": whole(1),
    "data.population.strength": number(0.0),
    "data.population.seed": whole(0),
    "data.population.relevant": whole(1),
    "data.population.angle": number(0.0, most=180.0, null=True),
    "backbone.pooling": one_of("last", "mean", "cls"),
    "backbone.causal": yes_or_no(),
    "backbone.frozen": yes_or_no(),
    "backbone.lora.rank": whole(0),
    "backbone.lora.alpha": number(1e-6),
    "backbone.lora.dropout": number(0.0, below=1.0),
    "backbone.lora.targets": Rule(
        "all-linear, or a list of names of layers",
        lambda value: value == "all-linear" or (isinstance(value, list) and bool(value) and all(map(str, value))),
    ),
    "backbone.gradient_checkpointing": yes_or_no(),
    "backbone.standardise": yes_or_no(),
    "backbone.max_length": whole(8),
    "backbone.chat_template": text(null=True),
    "backbone.token_budget": whole(1, null=True),
    "backbone.resident_gb": number(0.0),
    "backbone.dtype": one_of("auto", "float32", "bfloat16", "float16"),
    "backbone.store_dtype": one_of("float32", "bfloat16", "float16"),
    "backbone.attn_implementation": one_of("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"),
    "backbone.trust_remote_code": yes_or_no(),
    "backbone.hidden": whole(1),
    "backbone.layers": whole(1),
    "backbone.heads": whole(1),
    "backbone.vocabulary": whole(300),
    "model.name": text(),
    "model.num_heads": whole(1, null=True),
    "model.link": Rule(
        "one of probability, reward; or a link of your own, as a node with a _target_",
        lambda value: value in ("probability", "reward") or (isinstance(value, Mapping) and "_target_" in value),
    ),
    "model.estimation": one_of("gradient", "em"),
    "model.temperature": number(0.0),
    "model.top_k": whole(1),
    "model.code_width": whole(1),
    "model.hidden": whole(1),
    "model.kl_weight": number(0.0),
    "model.kl_warmup": number(0.0, most=1.0),
    "model.read_share": number(1e-6, most=1.0),
    "model.head.dim": whole(1),
    "model.head.layers": whole(1),
    "model.noise": number(0.0),
    "model.sparsity_weight": number(0.0),
    "model.diversity_weight": number(0.0),
    "model.entropy_weight": number(0.0),
    "model.balance_weight": number(0.0),
    "model.label_smoothing": number(0.0, below=0.5),
    "model.rating_gap_weight": number(0.0),
    "model.centring_weight": number(0.0),
    "model.warmup": number(0.0, below=1.0),
    "model.tau": number(1e-6),
    "model.pooled": yes_or_no(),
    "model.optimizer.lr": number(0.0),
    "model.optimizer.weight_decay": number(0.0),
    "model.prior_precision": number(0.0),
    "model.head.hidden": whole(1),
    "model.head.scale": number(0.0),
    "model.head.trained": yes_or_no(),
    "model.head.distribution": one_of("gaussian", "uniform"),
    "model.head.features": whole(0),
    "model.head.lengthscale": number(1e-6),
    "model.head.base_precision": number(1e-12),
    "model.head.deviation_precision": number(1e-12),
    "model.head.draw": whole(0),
    "model.gate.hidden": whole(1),
    "trainer.max_epochs": whole(1),
    "trainer.precision": one_of("32-true", "bf16-mixed", "16-mixed"),
    "trainer.accelerator": one_of("cpu", "gpu", "auto"),
    "trainer.devices": devices(),
    "trainer.num_nodes": whole(1),
    "trainer.strategy": Rule(
        "a strategy of one process a device, as auto, ddp or fsdp are; none that spawns or forks its processes itself",
        lambda value: {"spawn", "fork", "forkserver", "notebook"}.isdisjoint(
            str(value.get("start_method") if isinstance(value, Mapping) else value).split("_")
        ),
    ),
    "trainer.accumulate_grad_batches": whole(1),
    "trainer.max_steps": Rule(
        "a whole number of at least 1, or -1 for no limit",
        lambda value: type(value) is int and (value == -1 or value > 0),
    ),
    "trainer.max_time": length_of_time(),
    "trainer.gradient_clip_val": number(0.0, null=True),
    "trainer.val_check_interval": share_or_count(),
    "trainer.check_val_every_n_epoch": whole(1, null=True),
    "trainer.log_every_n_steps": whole(1),
    "trainer.num_sanity_val_steps": whole(-1),
    "trainer.limit_train_batches": share_or_count(),
    "trainer.limit_val_batches": share_or_count(none=True),  # of a router: its validation labels are beyond the budget
    "trainer.limit_test_batches": share_or_count(),
    "callbacks.early_stopping.patience": whole(0),
    "callbacks.step_line.lines": whole(1),
    "callbacks.step_line.seconds": number(0.0),
    "adaptation.mixture_em.max_steps": whole(1),
    "adaptation.mixture_em.tolerance": number(0.0),
}


def validate(settings: Settings) -> None:
    """Raises `UserError` for the first setting that breaks a rule: key, what was given, what is allowed."""
    check_renamed(settings)
    for key, value in _numbers(settings):
        if not math.isfinite(value):
            raise UserError(f"{key}={value!r} is not allowed; no setting is nan or infinite")
    for key, rule in _rules(settings):
        found, value = _look_up(settings, key)
        if found and not rule.test(value):
            raise UserError(f"{key}={value!r:.120} is not allowed; give {rule.allowed}")
    for key, each in objects(settings):
        check_node(key, each, settings.get("packages") or [])
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


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """All broken numbers of settings, those in lists too."""
    if isinstance(value, float):
        yield key, value
    children = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from _numbers(child, f"{key}.{name}" if key else str(name))


def _look_up(settings: Any, key: str) -> tuple[bool, Any]:
    for part in key.split("."):
        if not isinstance(settings, Mapping) or part not in settings:
            return False, None
        settings = settings[part]
    return True, settings
