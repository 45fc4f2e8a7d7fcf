"""Settings of commands that are no arguments of an object: what each may hold.

Read by `micro_lit.config.annotations` alone; commands read rules.json.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen, Predicate
from pydantic import Field

from micro_lit.config import predicates
from micro_lit.config.rules import Takes
from micro_lit.ranges import Count

HERE = "micro_lit.config.settings"

NonEmpty = Annotated[str, Field(min_length=1, description="text that is not empty")]
TextOrNull = Annotated[str | None, Field(min_length=1, description="text that is not empty, or null")]
# A name may be a whole number: YAML reads `name: 7` so.
Name = Annotated[Annotated[str, MinLen(1)] | int, Field(description="text that is not empty")]
NameOrNull = Annotated[Annotated[str, MinLen(1)] | int | None, Field(description="text that is not empty, or null")]
Candidates = Annotated[list[str], Field(description="a list of candidates")]
Objects = Annotated[
    Mapping[str, Callable[..., Any] | None] | None,
    Field(description="a mapping from names to objects with a _target_, or null"),
]
PublicName = Annotated[str, Field(pattern=r"^[^\W\d_]\w*(\.[^\W\d_]\w*)*$")]
User = Annotated[
    Annotated[str, MinLen(1)] | int | None,
    Predicate(predicates.is_storable),
    Field(description="a name, a whole number or null; other numbers in two kinds of quotes, as '\"1.5\"'"),
]
Sizes = Annotated[
    Annotated[list[Annotated[int, Ge(0)]], MinLen(1)], Field(description="a list of whole numbers of at least 0")
]
RisingSizes = Annotated[
    Annotated[list[int | None], MinLen(1)],
    Predicate(predicates.rises),
    Field(description="a list of whole numbers that rise from 0, at its end maybe null for all labels"),
]


# Of batches: how many, or which share.
Batches = Annotated[
    Count | Annotated[float, Gt(0.0), Le(1.0)] | None,
    Field(description="a whole number of at least 1, a share above 0 and at most 1.0, or null"),
]
BatchesOrNone = Annotated[
    Annotated[int, Ge(0)] | Annotated[float, Ge(0.0), Le(1.0)] | None,
    Field(description="a whole number of at least 0, a share above 0 and at most 1.0, or null"),
]


@dataclass
class Paths:
    """Folders of a command."""

    output_dir: NonEmpty
    features_dir: NonEmpty
    data_dir: NonEmpty
    run_dir: NonEmpty


@dataclass
class Report:
    """What tables and figures of runs show."""

    y: Annotated[list[str], Field(min_length=1, description="a list of paths into results.json")]
    metrics: Annotated[
        Annotated[list[str], MinLen(1)] | None, Field(description="a list of paths into results.json, or null")
    ]
    title: NameOrNull
    x: TextOrNull
    panels: TextOrNull
    out: TextOrNull
    log: bool


@dataclass
class AttributeSubjects:
    """Attributes as subjects of a comparison."""

    budget: Count
    labels: Sizes
    labels_from: Literal["train", "test"]
    adaptation: Objects


@dataclass
class UserSubjects:
    """Users as subjects of a comparison."""

    labels: RisingSizes
    rows_left: Count
    adaptation: Objects


@dataclass
class SubjectSettings:
    """Kinds of subjects of a comparison."""

    attribute: Annotated[Mapping[str, Any], Takes(f"{HERE}.AttributeSubjects")]
    user: Annotated[Mapping[str, Any], Takes(f"{HERE}.UserSubjects")]


@dataclass
class Elicitation:
    """Labels that a comparison asks for one by one."""

    labels: Count
    pool: Count
    strategies: Objects


@dataclass
class EarlyStopping:
    """Arguments of Lightning's callback that have a rule beside their type."""

    patience: Annotated[int, Ge(0)]


@dataclass
class Callbacks:
    """Callbacks of Lightning of which arguments have a rule beside their type."""

    early_stopping: Annotated[Any, Takes(f"{HERE}.EarlyStopping", more=True)]


@dataclass
class Trainer:
    """Arguments of a Trainer that have a rule beside their type."""

    max_epochs: Count
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    accelerator: Literal["cpu", "gpu", "auto"]
    devices: Annotated[
        Any,
        Predicate(predicates.are_devices),
        Field(
            description="a number of devices, as 2, or auto; on GPUs also -1 for all, or a list of numbers, as [0,1]"
        ),
    ]
    num_nodes: Count
    strategy: Annotated[
        Any,
        Predicate(predicates.starts_no_processes),
        Field(description="a strategy of one process a device, as auto, ddp or fsdp are; none that spawns or forks"),
    ]
    accumulate_grad_batches: Count
    max_steps: Annotated[
        Any,
        Predicate(predicates.is_limit_of_steps),
        Field(description="a whole number of at least 1, or -1 for no limit"),
    ]
    max_time: Annotated[
        Any,
        Predicate(predicates.is_length_of_time),
        Field(description="a time above 0, as '00:12:00:00' (days, hours, minutes, seconds) or {hours: 12}, or null"),
    ]
    gradient_clip_val: Annotated[float, Ge(0.0)] | None
    val_check_interval: Batches
    check_val_every_n_epoch: Count | None
    log_every_n_steps: Count
    num_sanity_val_steps: Annotated[int, Ge(-1)]
    limit_train_batches: Batches
    limit_val_batches: BatchesOrNone  # a router may have no validation labels beyond its budget
    limit_test_batches: Batches


@dataclass
class Optimizer:
    """Arguments of optimizers that have a rule beside their type."""

    lr: Annotated[float, Ge(0.0)]
    weight_decay: Annotated[float, Ge(0.0)]


@dataclass
class Command:
    """Settings at the root of a command; each command has some of them."""

    seed: Annotated[int, Ge(0), Le(2**32 - 1)]
    name: Name
    threads: Annotated[int, Ge(1), Le(1024)] | None
    packages: Annotated[list[PublicName], Field(description="a list of names")]
    trust_remote_code: bool
    paths: Annotated[Mapping[str, Any], Takes(f"{HERE}.Paths", more=True)]

    data: Callable[..., Any]
    backbone: Callable[..., Any]
    model: Callable[..., Any]
    loader: Annotated[Mapping[str, Any], Takes("micro_lit.data.PreferenceDataModule")]
    trainer: Annotated[
        Mapping[str, Any],
        Predicate(predicates.has_processes),
        Takes(f"{HERE}.Trainer", more=True),
        Field(description="an object with a _target_, accelerator, devices and num_nodes (a group: trainer=cpu)"),
    ]
    callbacks: Annotated[Objects, Takes(f"{HERE}.Callbacks", more=True)]
    logger: Objects
    metrics: Objects
    stage1: TextOrNull
    ckpt_path: TextOrNull
    skip_finished: bool
    overwrite: bool
    own_process: bool
    share_codes: bool

    report: Annotated[Mapping[str, Any], Takes(f"{HERE}.Report")]
    runs: Annotated[
        Annotated[str, MinLen(1)] | Annotated[list[Annotated[str, MinLen(1)]], MinLen(1)],
        Field(description="a folder, a pattern, or a list of these"),
    ]

    split: Literal["all", "train", "validation", "test"]
    replicates: Count

    candidates: Annotated[
        Annotated[dict[str, str | list[str]], MinLen(1)],
        Field(description="a mapping from names to the folder of a run or a list of overrides of micro_lit.train"),
    ]
    common: Annotated[list[str], Field(description="a list of overrides of micro_lit.train")]
    baseline: NonEmpty
    profiled: Candidates
    routed: Candidates
    elicited: Candidates
    cards: Candidates
    explained: Candidates
    subjects: Annotated[
        Annotated[Mapping[str, Any], MinLen(1)],
        Takes(f"{HERE}.SubjectSettings"),
        Field(description="attribute, user or all (a group: subjects=user)"),
    ]
    elicitation: Annotated[Mapping[str, Any], Takes(f"{HERE}.Elicitation")]
    adaptation: Objects
    draws: Annotated[int, Ge(2)]
    resamples: Annotated[int, Ge(100)]
    jobs: Count
    budget: Count
    budget_from: Literal["train", "test"]
    budgets: Sizes
    labels: RisingSizes
    rows_left: Count
    out: TextOrNull

    run: NameOrNull
    profile: Name
    pairs: NameOrNull
    responses: NameOrNull
    user: User
    forget: User
    export: Annotated[
        Annotated[str, Field(pattern=r"\.json$")] | None,
        Field(description="the name of a file that ends in .json, or null"),
    ]
    rule: Annotated[
        Literal["posterior", "hedge"] | Callable[..., Any],
        Field(description="one of posterior, hedge; or an adaptation of your own, as a node with a _target_"),
    ]
    repeated_labels: Literal["skip", "count"]

    select: Literal["all", "best"]
    part: Annotated[int, Ge(0)]
    parts: Count

    on_bad_row: Literal["error", "skip"]
    columns: Annotated[Mapping[str, Any], Field(description="a mapping from our columns to theirs")]
