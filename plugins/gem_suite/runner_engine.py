"""From an opened model to a run: what is measured, and who does the work where."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from gemcore.errors import unknown_name

if TYPE_CHECKING:
    from gem_suite.engines import EngineChoice
    from gem_suite.runner import Work
    from gem_suite.runner_model import ModelDescription
    from gem_suite.runner_tasks import SuiteSettings
    from gemcore.recipe import Recipe
    from gemcore.session import Session

CLUSTERS = ("ray",)
"""What users type."""


@attrs.frozen(kw_only=True)
class Workforce:
    """Who shares the work.

    Attributes:
        workers: how many pieces are worked at together.
        threads: that all workers share; None: as many as this process has cores.
        cluster: one of `CLUSTERS`; None: this machine, without any.
    """

    workers: int = 1
    threads: int | None = None
    cluster: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.cluster is not None and self.cluster not in CLUSTERS:
            raise unknown_name("cluster", self.cluster, CLUSTERS)

    @property
    def here(self) -> bool:
        """Whether one worker, this process, does everything."""
        return self.workers == 1 and self.cluster is None


def compiled_work(
    session: Session,
    settings: SuiteSettings,
    workforce: Workforce,
    *,
    context_length: int | None = None,
) -> tuple[ModelDescription, Work]:
    """A compiled model as `gem_suite.runner.run_suite` takes it.

    Args:
        session: the opened model.
        settings: of the run.
        workforce: who shares the work.
        context_length: the most tokens that a worker reads together; as the session was opened with.
    """
    from gem_suite.engines import CompiledEngine, EngineChoice
    from gem_suite.experts import expert_domains, labelled_experts
    from gem_suite.runner import work_here
    from gem_suite.runner_model import describe_bundle
    from gemcore.discovery import HostSettings
    from gemcore.plugins import get_host

    host = get_host(HostSettings.from_environment(no_plugins=settings.no_plugins))
    manifest = session.bundle.manifest
    model = attrs.evolve(
        describe_bundle(session.bundle, session.context_length),
        experts=expert_domains(manifest, host),
    )
    labelled = labelled_experts(manifest, host)
    if workforce.here:
        return model, work_here(CompiledEngine(session, labelled), settings)
    choice = EngineChoice(
        name="compiled",
        bundle=session.bundle.folder.absolute(),
        context_length=context_length,
        no_plugins=settings.no_plugins,
        labelled=None if labelled is None else tuple(labelled.items()),
    )
    return model, _shared(choice, settings, workforce)


def float32_work(
    recipe: Recipe, settings: SuiteSettings, workforce: Workforce
) -> tuple[ModelDescription, Work]:
    """A recipe's model with its float32 weights in torch, as `run_suite` takes it."""
    from gem_suite.engines import EngineChoice
    from gem_suite.runner import work_here
    from gem_suite.runner_model import describe_checkpoint
    from gemcore.models.sources import load_checkpoint
    from gemcore.plugins import get_host

    context_length = recipe.run.context_length
    checkpoint = load_checkpoint(recipe.model, get_host())
    model = describe_checkpoint(checkpoint, context_length)
    if workforce.here:
        from gem_suite.engines_eager import EagerEngine

        eager = EagerEngine(checkpoint, threads=workforce.threads, context_length=context_length)
        return model, work_here(eager, settings)
    choice = EngineChoice(
        name="float32",
        model=_with_whole_path(recipe.model),
        context_length=context_length,
        no_plugins=settings.no_plugins,
    )
    return model, _shared(choice, settings, workforce)


def _shared(choice: EngineChoice, settings: SuiteSettings, workforce: Workforce) -> Work:
    from gem_suite.runner_pool import WorkerSetup, work_in_processes

    workers = workforce.workers
    cores = workforce.threads or _usable_cores()
    setup = WorkerSetup(
        choice=choice,
        settings=_with_whole_paths(settings),
        threads=max(1, cores // workers),
    )
    if workforce.cluster == "ray":
        from gem_suite.runner_ray import work_on_ray

        return lambda pieces, tasks: work_on_ray(pieces, setup, workers)
    return lambda pieces, tasks: work_in_processes(pieces, setup, workers)


def _with_whole_path(model: str) -> str:
    """A model's name, or its path where it is a file or folder."""
    path = Path(model)
    return str(path.absolute()) if path.exists() else model


def _with_whole_paths(settings: SuiteSettings) -> SuiteSettings:
    """The same settings for a process that may have another working directory."""
    return attrs.evolve(
        settings,
        data=None if settings.data is None else settings.data.absolute(),
        benchmark_files=tuple(path.absolute() for path in settings.benchmark_files),
    )


def _usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
