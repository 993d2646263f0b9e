"""`cast-serve --check`: can this be served here? Asked of all parts, without loading weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from cast_kernels.backend import Backend
from cast_profiler.fingerprint import Fingerprint
from cast_profiler.profile import Profile
from cast_server.build import check_policy, find_backend, guest_configs, plan_engine
from cast_server.config import EngineConfig
from cast_server.disagreements import disagreements
from cast_server.draft_outline import DraftOutline, read_draft_outline
from cast_server.engine.model_runner import check_supported
from cast_server.errors import ConfigError
from cast_server.findings import Finding, Report
from cast_server.machine import find_device, memory_of
from cast_server.memory_plan import MemoryPlan, plan_memory, size_text
from cast_server.model_files import (
    cache_root,
    load_tokenizer,
    resolve_model,
    weights_directory,
)
from cast_server.outline import DTYPES, Outline, read_outline
from cast_server.profiling.identity import backend_text, make_fingerprint
from cast_server.profiling.stored import checked_profile, stored_path
from cast_server.settings import Settings
from cast_server.step_limits import max_model_len, row_buckets
from cast_server.weight_files import count_stored


class Check:
    """Goes on after what is wrong, as far as the rest does not depend on it."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.config = settings, settings.engine
        self.findings: list[Finding] = []

    def run(self, listen: Callable[[], None]) -> Report:
        """`listen` raises `ConfigError` if the server could not."""
        if self.config.threads is not None:
            torch.set_num_threads(self.config.threads)
        plan = self._parts()
        self._try("models", self._guests)
        self._try("cache", self._cache)
        self._try("address", lambda: self._listen(listen))
        return Report(tuple(self.findings), plan)

    def _parts(self) -> MemoryPlan | None:
        config = self.config
        device = self._try("device", lambda: find_device(config.device))
        self._try("policy", lambda: check_policy(config))
        target = self._try("model", self._model)
        if target is None:
            return None
        self._try("weights", lambda: self._weights(target))
        self._try("tokenizer", lambda: self._tokenizer(target))
        if device is None:
            return None
        backend = self._try("kernels", lambda: find_backend(config, device, target.text_config))
        draft = self._try("drafter", lambda: self._drafter(target, device))
        if draft is None:
            return None
        if backend is not None:
            self._try("profile", lambda: self._profile(target, draft, device, backend))
        memory = memory_of(device)
        plan = self._try("memory", lambda: plan_memory(config, target, draft, device, memory))
        if plan is not None:
            for text in disagreements(self.settings, device, plan, target.text_config):
                self._note("settings", text)
        return plan

    def _try(self, subject: str, act: Callable[[], Any]) -> Any:
        """What `act` returns; None if it finds something wrong."""
        try:
            return act()
        except ConfigError as error:
            self.findings.append(Finding(subject, "wrong", str(error)))
        return None

    def _fine(self, subject: str, text: str) -> None:
        self.findings.append(Finding(subject, "ok", text))

    def _note(self, subject: str, text: str) -> None:
        self.findings.append(Finding(subject, "note", text))

    def _model(self) -> Outline:
        target = read_outline(resolve_model(self.config.model), DTYPES[self.config.dtype])
        check_supported(target.model)
        length = max_model_len(self.config, target.text_config)
        self._fine(
            "model",
            f"{target.files.name}: {type(target.model).__name__}, "
            f"{str(target.dtype).removeprefix('torch.')}, {length:,} tokens of context",
        )
        return target

    def _weights(self, target: Outline) -> None:
        directory = weights_directory(target.files)
        if directory is None:
            size = size_text(4 * target.num_weights)
            self._note(
                "weights",
                f"{target.files.gguf_file} is unpacked at the first start, which takes half a "
                f"minute, and {size} of memory meanwhile and of the cache for good.",
            )
            return
        stored = count_stored(directory)
        is_plain = getattr(target.model.config, "quantization_config", None) is None
        if stored is None or not is_plain:
            self._note("weights", f"in {directory}; whether they are complete shows at the start.")
            return
        if stored < target.num_weights:
            raise ConfigError(
                f"The checkpoint in {directory} holds {stored:,} numbers, but the model has "
                f"{target.num_weights:,}: copy it again."
            )
        self._fine("weights", f"{target.num_weights:,}, all there, in {directory}")

    def _tokenizer(self, target: Outline) -> None:
        tokenizer: Any = load_tokenizer(target.files)
        size, rows = len(tokenizer), int(target.text_config.vocab_size)
        if size > rows:
            self._note(
                "tokenizer",
                f"It has {size:,} tokens, the model only {rows:,}: prompts with others will fail.",
            )
        else:
            self._fine("tokenizer", f"{size:,} tokens, of {rows:,} that the model has")
        if not tokenizer.chat_template:
            self._note("tokenizer", "There is no chat template: only /v1/completions will work.")

    def _drafter(self, target: Outline, device: torch.device) -> DraftOutline:
        draft = read_draft_outline(self.config, target, device)
        self._fine("drafter", f"{draft.name}: {draft.text}")
        return draft

    def _profile(
        self, target: Outline, draft: DraftOutline, device: torch.device, backend: Backend
    ) -> None:
        wanted = self.config.profile
        if wanted == "guess":
            return
        fingerprint = expected_fingerprint(self.config, target, draft, device, backend)
        path = stored_path(fingerprint) if wanted == "auto" else Path(wanted)
        if wanted == "auto" and not path.exists():
            self._note("profile", _unmeasured(fingerprint, path))
            return
        try:
            profile = checked_profile(path, fingerprint)
        except ConfigError as error:
            if wanted != "auto":
                raise
            self._note("profile", f"Measured again at the start: {error}")
            return
        self._fine("profile", f"{path}, measured {profile.provenance.get('date', 'some time ago')}")

    def _guests(self) -> None:
        http, config = self.settings.http, self.config
        host = http.served_model_name or Path(config.model).name
        for name, own in guest_configs(http.evaluation_models, config, host).items():
            files = resolve_model(own.model)
            plan = plan_engine(own, files)
            self._fine("models", f"{name}: {files.directory}, {size_text(plan.total)} more")

    def _cache(self) -> None:
        root = cache_root()
        existing = next(path for path in (root, *root.parents) if path.exists())
        if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
            self._fine("cache", str(root))
        else:
            self._note(
                "cache",
                f"{root} cannot be written: every start unpacks and measures anew; name another "
                "directory in CASTSERVE_CACHE.",
            )

    def _listen(self, listen: Callable[[], None]) -> None:
        listen()
        http = self.settings.http
        self._fine("address", f"{http.host}:{http.port or 'a free port'}")


def expected_fingerprint(
    config: EngineConfig,
    target: Outline,
    draft: DraftOutline,
    device: torch.device,
    backend: Backend,
) -> Fingerprint:
    """What `fingerprint_of` is going to say of the engine."""
    rows = row_buckets(config) if backend.is_static else ()
    return make_fingerprint(
        config.model,
        target.model.config,
        dtype=target.dtype,
        device=device,
        backend=backend_text(backend, rows, rows if draft.name == "eagle" else ()),
        drafter=draft.name,
        head=draft.head,
    )


def _unmeasured(fingerprint: Fingerprint, path: Path) -> str:
    """Whether others have been measured, and what is different about the last of them."""
    begin = f"{fingerprint.model}-{fingerprint.dtype}-"
    for other in _by_age(path.parent.glob(f"{begin}*.json")):
        try:
            Profile.load(other).check(fingerprint)
        except ValueError as error:
            return f"Measured again at the start. {error}"
    return "Nothing has been measured yet: the first start does so, in a few seconds."


def _by_age(paths: Iterator[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)
