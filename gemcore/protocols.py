"""What the object behind each kind of record must do: the contracts of a plugin's code.

Nothing needs to be inherited. An object with these methods is a router, a quantizer and so on;
`PluginHost.create` checks that every method is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import torch

    from gemcore.bundle import Bundle
    from gemcore.models.checkpoint import Checkpoint
    from gemcore.reports import (
        DelegationReport,
        DeviceProfile,
        ExportReport,
        MetricResult,
        Plan,
        QuantizationReport,
        Readiness,
    )
    from gemcore.runtime.executor import Executor
    from gemcore.runtime.settings import OpenSettings

    Progress = Callable[[int, int], None]


class Router(Protocol):
    """Decides for each token how much every expert works.

    A router acts twice: `prior` once for a request, and the module of each layer for every token.
    Both are optional: a router that returns None twice is the general path, the base model exactly.

    A router that chooses among experts has further methods, which others may leave out:
    `experts() -> ExpertSet` (`gemcore.experts`) gives what it chooses among; `prior_network() ->
    PriorNetwork | None` (`gemcore.routing`) the network that gives a request's prior in the compiled
    model; `content() -> str` a digest of all that the compiled model depends on beside the options.
    """

    def prior(self, prompt: str) -> Sequence[float] | None:
        """Say from the text of a request how likely each expert is to be of use.

        Args:
            prompt: the whole text that the model will be given, templates included.

        Returns:
            `[experts]` numbers of at least 0 with a sum of at most 1, in the order of the model's
            experts; None where the router has no opinion before it sees hidden states.
        """
        ...

    def layer_module(self, layer: int) -> torch.nn.Module | None:
        """Give the module that routes the tokens of one decoder layer.

        The module maps `(hidden, prior)` to weights: `hidden` is float32 `[tokens, hidden]` after
        the layer's first norm, `prior` is float32 `[tokens, experts]`, for each token that of its
        request. The result is float32
        `[tokens, experts]` of numbers of at least 0 whose rows sum to at most 1; experts of weight
        0 are not computed, and a row of zeros is the general path. It is plain torch code without
        control flow that depends on values, so that it is exported and compiled together with the
        decoder.

        Args:
            layer: index of the decoder layer, from 0.

        Returns:
            The module, or None where the weights of the layer before go on; before the first module
            no expert works.
        """
        ...

    def fit(self, examples: Iterable[tuple[str, str]]) -> None:
        """Learn from labelled text; a router with nothing to learn returns at once.

        Args:
            examples: pairs of a text and the name of the expert (the domain) that it belongs to.

        Raises:
            UsageError: when the examples are too few or name experts that do not exist.
        """
        ...


class Quantizer(Protocol):
    """Gives every weight of a model a storage scheme, and packs the weights accordingly.

    One that reads files has a further method, which others may leave out: `content() -> str`, a digest of
    all that the packed weights depend on beside the options.
    """

    def plan(
        self,
        checkpoint: Checkpoint,
        calibration: Sequence[str] | None = None,
        budget: int | None = None,
    ) -> Plan:
        """Choose a scheme for every weight.

        Args:
            checkpoint: the model, with its tensors still in the file's own encoding.
            calibration: texts on which the effect of rounding may be measured; None without any.
            budget: the most bytes that all packed weights may take; None without a limit.

        Returns:
            For each weight its scheme, the reason, its bytes and the expected error; and the
            weights that did not get the scheme that was asked for, with the reason.

        Raises:
            UsageError: when the budget cannot be kept, or calibration text is needed and missing.
        """
        ...

    def apply(
        self, checkpoint: Checkpoint, plan: Plan, progress: Progress | None = None
    ) -> tuple[Any, QuantizationReport]:
        """Pack the weights of `checkpoint` as `plan` says.

        Args:
            checkpoint: the model that the plan was made for.
            plan: what `plan` returned.
            progress: called with the weights done and the weights in all.

        Returns:
            The packed weights (`gemcore.models.weights.Weights`), and what was quantized, what was
            skipped and why, with the bytes before and after.
        """
        ...


class Metric(Protocol):
    """One number, with an interval where it can be had, from recorded results."""

    def compute(self, results: Mapping[str, Any]) -> MetricResult:
        """Compute the metric.

        Args:
            results: what was recorded, by name; the metric's summary says which names it needs.

        Returns:
            The value, its confidence interval, its direction and the version of its definition.

        Raises:
            UsageError: when a needed name is missing from `results`.
            GemError: when the value is not defined, for example because of a denominator of zero.
        """
        ...


class Target(Protocol):
    """A piece of hardware: compiles a model for it, and runs the result where that can be done.

    What it can read and do is said without importing it, in the capabilities of its record: the names of
    the packing schemes that its kernels read, `cache-f16` and `cache-q8` for the schemes of the KV cache,
    `routed_lora` for models with a router, `vocabulary-bands` for embeddings and heads in several bands of
    rows, `execute` where its models can run, `rpc` where they can on a
    device that is reached over TVM's RPC. A model that needs more is refused before anything is packed.

    The arguments of `build` are loosely typed on purpose: they come from the compiler, whose modules
    import torch and tvm.
    """

    def profile(self) -> DeviceProfile:
        """Cores, memory, bandwidth (bytes a second) and peak rates, each with its source."""
        ...

    def describe(self) -> dict[str, Any]:
        """Give the JSON values that the compiled code depends on; they go into the bundle.

        Where the target links sources of its own, a digest of them belongs there: GEM compiles again
        when what this returns has changed.
        """
        ...

    def readiness(self) -> Readiness:
        """Say whether this machine can build for the target and run the result, and how.

        Quick, and without importing torch or tvm: it looks for tools, and runs none.
        """
        ...

    def build(self, exported: Any, config: Any, folder: Path) -> DelegationReport:
        """Compile a model into files below `folder`.

        Args:
            exported: the exported decoder, `gemcore.compiler.export.ExportedDecoder`.
            config: its shape, `gemcore.models.config.ModelConfig`.
            folder: later part of the bundle; the weights are there already, and nothing else that a
                target may overwrite.

        Returns:
            Which unit of the target runs what, and why the rest does not run there.
        """
        ...

    def open(self, bundle: Bundle, settings: OpenSettings) -> Executor:
        """Load what `build` wrote, without importing torch.

        Args:
            bundle: the whole bundle, with its manifest; its files have been checked.
            settings: how many threads may compute, and where.

        Returns:
            An executor that runs passes of the model.

        Raises:
            BundleError: when the bundle cannot run on the machine at hand.
        """
        ...

    def export(self, bundle: Bundle, folder: Path) -> ExportReport:
        """Write what the developer of an application needs into the empty folder `folder`.

        Args:
            bundle: a bundle that was compiled for this target.
            folder: where the files go; GEM adds a README.md made from what is returned.

        Returns:
            What each file is, how to link and to call it, and what was verified.
        """
        ...


class CachedModel(Protocol):
    """A model that is on this machine already, as `gem models list` shows it."""

    @property
    def name(self) -> str:
        """What a user types to get it."""
        ...

    @property
    def path(self) -> Path:
        """The file or folder that holds it."""
        ...

    @property
    def bytes(self) -> int:
        """Its size."""
        ...


class ModelSource(Protocol):
    """A place that models come from."""

    def owns(self, name: str) -> bool:
        """Whether this source is the one for `name`; quick, and without network access."""
        ...

    def load(self, name: str, progress: Progress | None = None) -> Checkpoint:
        """Fetch the model where that is needed, check it, and read it.

        Args:
            name: a name that `owns` said yes to.
            progress: called with the bytes done and the bytes in all.

        Raises:
            FormatError: when a file is malformed.
            GemError: when the model cannot be fetched.
        """
        ...

    def cached(self) -> Sequence[CachedModel]:
        """List the models of this source that are on this machine already."""
        ...


class BenchmarkSource(Protocol):
    """Benchmarks, each described by a table; data and code are elsewhere."""

    def tables(self) -> Iterable[Mapping[str, Any]]:
        """Describe each benchmark by one table, with the keys of a `[[benchmark]]` of a TOML file.

        Raises:
            GemError: when the tables cannot be read.
        """
        ...
