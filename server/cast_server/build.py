"""The composition root: from a configuration to a running engine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cast_drafters.base import Drafter, HiddenObserver, TargetParts
from cast_drafters.calibration import Calibration
from cast_drafters.eagle.device_drafts import DeviceDrafts
from cast_drafters.eagle.device_growth import DeviceGrowth
from cast_drafters.eagle.drafter import EagleDrafter
from cast_drafters.eagle.passes import DevicePasses
from cast_drafters.policy import parse_policy
from cast_drafters.registry import create_drafter
from cast_kernels.backend import Backend, choose_backend
from cast_kernels.tree_attention.fixed import Size
from cast_kernels.tree_attention.paged import WORD_BITS
from cast_kernels.tree_attention.tiling import MAX_HEAD_DIM
from cast_profiler.cost import CostModel, RooflineCost
from cast_profiler.datasheets import data_sheet
from cast_profiler.device import device_name
from cast_profiler.drift import CorrectedCost
from cast_server.config import EngineConfig, HttpConfig
from cast_server.draft_outline import check_drafter_flags, drafter_name, read_draft_outline
from cast_server.engine.async_engine import AsyncEngine
from cast_server.engine.block_pool import BlockPool
from cast_server.engine.core import EngineCore
from cast_server.engine.device_pass import DevicePass
from cast_server.engine.grown_pass import GrownPass
from cast_server.engine.model_runner import ModelRunner, check_supported, kv_cache_shape
from cast_server.engine.scheduler import Scheduler, SchedulerLimits
from cast_server.engine.target_pass import HostPass, TargetPass
from cast_server.errors import ConfigError, UnsupportedModelError
from cast_server.evaluators.jobs.journal import Journal
from cast_server.evaluators.jobs.service import Evaluations
from cast_server.evaluators.registry import EVALUATORS
from cast_server.evaluators.subject import Subject
from cast_server.evaluators.subjects.building import served_subject
from cast_server.machine import find_device, memory_of, return_freed_memory
from cast_server.memory_plan import MemoryPlan, plan_memory
from cast_server.model_files import ModelFiles, cache_root, load_model, resolve_model
from cast_server.openmp import release_workers
from cast_server.outline import DTYPES, read_outline
from cast_server.profiling.identity import fingerprint_of, weight_bytes
from cast_server.profiling.stored import profile_for
from cast_server.step_limits import (
    decoding_rows,
    kv_token_bytes,
    num_kv_tokens,
    row_buckets,
    scheduler_limits,
)

_log = logging.getLogger(__name__)


def build_engine(
    config: EngineConfig, served_name: str | None = None, host: AsyncEngine | None = None
) -> AsyncEngine:
    """Loads the model and puts the parts together; with a `host`, as a guest in its thread.

    Raises `ConfigError` with what to change.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    files = resolve_model(config.model)
    plan = plan_engine(config, files)
    _log.info(plan.summary())
    model, tokenizer = load_model(files, DTYPES[config.dtype])
    planned = config.model_copy(update={"kv_cache_tokens": plan.kv_tokens})
    core = build_core(planned, model, tokenizer)
    prepare(core, config)
    return_freed_memory()
    release_workers()  # from here on the engine's thread computes
    return AsyncEngine(
        core,
        served_name or files.name,
        config.max_waiting,
        on_stop=partial(remember, core, config),
        host=host,
    )


def plan_engine(config: EngineConfig, files: ModelFiles) -> MemoryPlan:
    """Before anything is loaded. Raises `ConfigError` for what is not supported or does not fit."""
    device, target = find_device(config.device), read_outline(files, DTYPES[config.dtype])
    check_supported(target.model)
    draft = read_draft_outline(config, target, device)
    return plan_memory(config, target, draft, device, memory_of(device))


@dataclass(frozen=True, slots=True)
class Parts:
    """What a server serves: the engine of its model, guests of that engine, and evaluations of
    them all, unless they are off."""

    engine: AsyncEngine
    guests: tuple[AsyncEngine, ...]
    evaluations: Evaluations | None

    def start(self) -> None:
        for engine in (self.engine, *self.guests):
            engine.start()

    def stop(self) -> None:
        """Guests first: they work in the engine's thread."""
        for engine in (*self.guests, self.engine):
            engine.stop()


def build_parts(config: EngineConfig, http: HttpConfig) -> Parts:
    """Raises `ConfigError` with what to change."""
    engine = build_engine(config, http.served_model_name)
    guests = build_guests(http.evaluation_models, config, engine)
    engines = [(engine, config), *guests]
    subjects = {one.model_name: served_subject(one, own) for one, own in engines}
    evaluations = build_evaluations(http, subjects)
    return Parts(engine, tuple(guest for guest, _ in guests), evaluations)


def build_guests(
    models: str, config: EngineConfig, host: AsyncEngine
) -> list[tuple[AsyncEngine, EngineConfig]]:
    """Engines of further models, as guests of `host`. `models`: "name=directory,…".

    Raises `ConfigError` for what cannot be read or loaded.
    """
    return [
        (build_engine(own, name, host), own)
        for name, own in guest_configs(models, config, host.model_name).items()
    ]


def guest_configs(models: str, config: EngineConfig, host: str) -> dict[str, EngineConfig]:
    """The configurations of further models by name. `host`: the served model's name.

    Raises `ConfigError` for what cannot be read.
    """
    guests: dict[str, EngineConfig] = {}
    for entry in models.split(",") if models else ():
        name, _, model = entry.strip().partition("=")
        if not (name and model):
            raise ConfigError(f"--evaluation-models {entry!r}: name=directory is needed.")
        if name == host or name in guests:
            raise ConfigError(f"--evaluation-models {entry!r}: another model is called {name!r}.")
        own: dict[str, Any] = {"model": model, "head": None, "policy": "off", "profile": "guess"}
        own |= {"drafter": "auto", "learn_from_traffic": False}
        guests[name] = config.model_copy(update=own)
    return guests


def build_evaluations(config: HttpConfig, subjects: Mapping[str, Subject]) -> Evaluations | None:
    """Evaluations of `subjects`, by the names that requests use; None if there are none or they
    are off. Raises `ConfigError` for a directory that cannot be used, if it was asked for."""
    if not subjects or config.evaluations_dir == "":
        return None
    own = config.evaluations_dir
    directory = Path(own).expanduser() if own else cache_root() / "evaluations"
    try:
        # one file for each model: servers of different ones may run side by side
        name = "-".join(next(iter(subjects)).split("/"))
        return Evaluations(Journal(directory / f"{name}.sqlite"), subjects, EVALUATORS)
    except ConfigError as error:
        if own:
            raise
        _log.warning("Evaluations are off. %s", error)
        return None


def prepare(core: EngineCore, config: EngineConfig) -> None:
    """Before the first request: what steps cost here, and what past requests have taught.

    Raises `ConfigError` for a profile that does not fit this machine.
    """
    if config.profile != "guess":
        file = None if config.profile == "auto" else Path(config.profile)
        if (profile := profile_for(core, config, file)) is not None:
            core.planner.cost = CorrectedCost(profile.cost())
        plain, eight = (1e3 * core.planner.cost.verify_seconds(rows, 256) for rows in (1, 8))
        _log.info("A step of one row is expected to take %.1f ms, of eight %.1f ms.", plain, eight)
    path = calibration_path(core, config)
    if path.exists():
        try:
            core.drafter.calibration = Calibration.load(path)
        except ValueError as error:
            _log.warning("Starting afresh: %s", error)


def remember(core: EngineCore, config: EngineConfig) -> None:
    """Keeps for the next start how far drafts could be trusted: counts of hits, no text."""
    try:
        core.drafter.calibration.save(calibration_path(core, config))
    except OSError as error:
        _log.warning("What was learnt about drafts cannot be kept: %s", error)


def calibration_path(core: EngineCore, config: EngineConfig) -> Path:
    """In the user's cache; another model, drafter or head is another file."""
    fingerprint = fingerprint_of(core, config)
    return cache_root() / "calibration" / f"{fingerprint.model}-{fingerprint.digest()}.json"


def build_core(config: EngineConfig, model: Any, tokenizer: Any) -> EngineCore:
    """An engine around a loaded model, which it takes over."""
    check_supported(model)
    device = find_device(config.device)
    text_config = model.config.get_text_config()
    limits = scheduler_limits(config, text_config)
    num_blocks = _num_kv_tokens(config, model, device) // config.block_size
    check_policy(config)
    backend = find_backend(config, device, text_config)
    runner = ModelRunner(model, num_blocks * config.block_size, device, backend)
    drafter = _make_drafter(config, runner)
    scheduler = Scheduler(BlockPool(num_blocks, config.block_size), limits)
    target = _make_pass(config, runner, limits, drafter)
    core = EngineCore(
        runner,
        target,
        scheduler,
        drafter,
        tokenizer,
        _eos_token_ids(model, tokenizer),
        config.policy,
        _guessed_cost(runner),
    )
    if isinstance(drafter, EagleDrafter) and isinstance(target, DevicePass) and target.buckets:
        core.grown = _make_grown_pass(runner, target, drafter, limits)
    return core


def _guessed_cost(runner: ModelRunner) -> CostModel:
    """What holds until something has been measured."""
    width = runner.dtype.itemsize
    bytes_per_second, flops_per_second = _guessed_speed(runner.device, runner.dtype)
    return RooflineCost(
        bytes_per_second=bytes_per_second,
        flops_per_second=flops_per_second,
        weight_bytes=weight_bytes(runner.model),
        bytes_per_weight=width,
        key_bytes=runner.kv_cache_YS2KD[:, 0].numel() * width,
        draft_share=0.1,
        overhead_seconds=1e-4 if runner.device.type == "cuda" else 1e-3,
    )


def _guessed_speed(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Bytes and operations a second: the data sheet's, or orders of magnitude of a CPU or a GPU."""
    if device.type != "cuda":
        return 2e10, 2e11
    bandwidth, operations, name = 1e12, 1e14, device_name(device)
    sheet = data_sheet(name)
    if sheet is None:
        _log.info(
            "There is no data sheet for %s: unless steps are measured, %.0e bytes and %.0e "
            "operations a second are assumed.",
            name,
            bandwidth,
            operations,
        )
        return bandwidth, operations
    _log.info("Unless steps are measured, they are assumed to cost what %s allows.", sheet.name)
    return sheet.bytes_per_second.value, sheet.operations_per_second(dtype) or operations


def _make_pass(
    config: EngineConfig, runner: ModelRunner, limits: SchedulerLimits, drafter: Drafter
) -> TargetPass:
    """Of the target; the drafter's are made to go with it."""
    if not runner.backend.is_static:
        return HostPass(runner)
    is_cuda = runner.device.type == "cuda"
    most = decoding_rows(config)
    largest = Size(
        rows=most,
        longest=most,
        sequences=min(most, limits.max_num_seqs),
        pages=-(-limits.max_model_len // config.block_size),
        words=-(-most // WORD_BITS),
    )
    buckets = row_buckets(config)
    target = DevicePass(runner, buckets, largest, config.block_size)
    if isinstance(drafter, EagleDrafter):
        size = (largest.sequences, limits.max_model_len)
        passes = DevicePasses(drafter.head, buckets, *size)
        drafter.use(passes)
        if is_cuda:
            passes.capture()
    if is_cuda:
        target.capture()
    return target


def _make_grown_pass(
    runner: ModelRunner, target: DevicePass, drafter: EagleDrafter, limits: SchedulerLimits
) -> GrownPass:
    tables = drafter.calibration.table()
    sizes = (limits.max_num_seqs, limits.max_model_len)
    growth = DeviceGrowth(drafter.head, target.buckets, *sizes, tables)
    grown = GrownPass(runner, target, drafter, DeviceDrafts(drafter, growth))
    if runner.device.type == "cuda":
        growth.capture()
        grown.capture()
    return grown


def _make_drafter(config: EngineConfig, runner: ModelRunner) -> Drafter:
    options: dict[str, Any] = {"head": Path(config.head).expanduser()} if config.head else {}
    name = drafter_name(config)
    check_drafter_flags(config, name)
    if name == "eagle":
        options["sources"] = [name for name in config.draft_sources.split(",") if name]
        options["learn_from_traffic"] = config.learn_from_traffic
    target = TargetParts(
        name=config.model,
        model=runner.model,
        embedding_VE=runner.model.get_input_embeddings().weight.detach(),
        num_layers=runner.model.config.get_text_config().num_hidden_layers,
        num_slots=runner.kv_cache_YS2KD.shape[1],
        dtype=runner.dtype,
        device=runner.device,
        backend=runner.backend,
    )
    try:
        drafter = create_drafter(name, target, **options)
    except ValueError as cause:
        raise ConfigError(str(cause)) from cause
    if isinstance(drafter, HiddenObserver):
        runner.watch(drafter)
    return drafter


def check_policy(config: EngineConfig) -> None:
    """Raises `ConfigError` for a policy that there is not."""
    try:
        parse_policy(config.policy)
    except ValueError as cause:
        raise ConfigError(str(cause)) from cause


def find_backend(config: EngineConfig, device: torch.device, text_config: Any) -> Backend:
    """Raises `ConfigError` for kernels that cannot run there, or not this model."""
    try:
        backend = choose_backend(device, config.kernels)
    except ValueError as cause:
        raise ConfigError(f"--kernels {config.kernels}: {cause}") from cause
    head_dim = kv_cache_shape(text_config, 1)[-1]
    if backend.is_static and head_dim > MAX_HEAD_DIM:
        raise UnsupportedModelError(
            f"The model's heads are of size {head_dim}, but Triton's kernels take at most "
            f"{MAX_HEAD_DIM}: use --kernels torch."
        )
    return backend


def _num_kv_tokens(config: EngineConfig, model: Any, device: torch.device) -> int:
    """Where nothing was planned: `model` is on the host by now."""
    free = memory_of(device).free - (_coming_bytes(model) if device.type == "cuda" else 0)
    text_config = model.config.get_text_config()
    token_bytes = kv_token_bytes(text_config, model.dtype)
    return num_kv_tokens(config, text_config, token_bytes, free, device)


def _coming_bytes(model: Any) -> int:
    """What the model, still on the host, is going to take: its weights, and its head widened."""
    head = model.get_output_embeddings()
    widened = 4 * head.weight.numel() if head is not None else 0
    return widened + sum(one.numel() * one.itemsize for one in model.parameters())


def _eos_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Both the model's own generation settings and the tokenizer may name end tokens."""
    named = model.generation_config.eos_token_id if model.generation_config else None
    ids = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}
    return frozenset(token_id for token_id in ids if token_id is not None)
