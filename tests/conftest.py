"""Models that the whole suite uses: the default one, and a tiny one in every form."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
from hypothesis import settings

from gem_general.none import GeneralPath
from gem_host.target import HostTarget
from gem_models.pypi import MODELS, ensure_model
from gem_uniform.quantizer import q4a_g32
from gemcore import plugins
from gemcore.build import BuildParts, compile_bundle
from gemcore.bundle import Bundle
from gemcore.cli.display import StepDisplay
from gemcore.experts.expert_set import ExpertSet
from gemcore.hookspecs import hookimpl
from gemcore.models.checkpoint import Checkpoint
from gemcore.plugins import PluginHost
from gemcore.records import ModelSourceRecord
from gemcore.session import Session
from gemcore.testing.model_folder import write_tiny_model
from gemcore.testing.tiny import tiny_checkpoint, tiny_config

# A test must not fail because the machine is busy, and a build is judged on the same examples twice.
settings.register_profile("gem", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("gem")


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """Commands can be interrupted: a shell that runs the tests in the background has that ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def default_model_path() -> Path:
    """The default model's GGUF file, fetched into the user's cache where it is not there."""
    with StepDisplay() as display:
        return ensure_model("smollm2-135m", MODELS["smollm2-135m"], progress=display.download)


@pytest.fixture(scope="session")
def tiny() -> Checkpoint:
    """A random model of two layers; wider than it must be, so that every scheme fits."""
    return tiny_checkpoint(tiny_config(context_length=256))


@pytest.fixture(scope="session")
def tiny_parts() -> BuildParts:
    """The plugins of an ordinary build."""
    return BuildParts(
        router=GeneralPath(),
        quantizer=q4a_g32(head="q8-g32"),
        target=HostTarget(),
        names={"router": "none", "quantizer": "q4a-g32", "target": "host"},
    )


@pytest.fixture(scope="session")
def tiny_bundle(tiny, tiny_parts, tmp_path_factory) -> Bundle:
    """The tiny model, compiled."""
    return compile_bundle(tiny, tiny_parts, tmp_path_factory.mktemp("bundles") / "tiny.gem")


@pytest.fixture
def tiny_session(tiny_bundle) -> Session:
    """A fresh session of the tiny model."""
    return open_tiny(tiny_bundle)


def open_tiny(bundle: Bundle, **options) -> Session:
    from gemcore.api import open_session

    return open_session(bundle.folder, **options)


@pytest.fixture(scope="session")
def tiny_folder(tiny, tmp_path_factory) -> Path:
    """The tiny model as a Hugging Face folder."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny", tiny)


@pytest.fixture
def host_with_tiny(tiny, monkeypatch):
    """Makes the host of given plugin modules, which also has a source of the model `tiny`."""

    class Shelf:
        def owns(self, name):
            return name == "tiny"

        def load(self, name, progress=None):
            return tiny

        def cached(self):
            return []

    monkeypatch.setitem(sys.modules, "shelf_of_these_tests", SimpleNamespace(Shelf=Shelf))

    @hookimpl
    def gem_model_sources():
        yield ModelSourceRecord(
            name="shelf", summary="a shelf", loader="shelf_of_these_tests:Shelf"
        )

    def make(*modules) -> PluginHost:
        found = PluginHost()
        for module in modules:
            found.add(module, name=module.__name__)
        found.add(SimpleNamespace(gem_model_sources=gem_model_sources), name="shelf")
        monkeypatch.setattr(plugins, "get_host", lambda: found)
        return found

    return make


@attrs.frozen(eq=False)
class SignsEverywhere:
    """A router with `SignRouter` at every layer, and a prior that the first layer gives."""

    chosen: ExpertSet

    def prior(self, prompt):
        return None

    def experts(self):
        return self.chosen

    def layer_module(self, layer):
        from gemcore.testing.routed import SignRouter

        return SignRouter()

    def prior_network(self):
        import torch

        from gemcore.routing import EarlyPrior
        from gemcore.testing.routed import MeanPrior

        network = MeanPrior(64, len(self.chosen.names))
        torch.nn.init.normal_(network.scores, std=3.0, generator=torch.Generator().manual_seed(0))
        return EarlyPrior(layers=1, module=network, longest=4)

    def content(self):
        return self.chosen.digest


@pytest.fixture(scope="session")
def tiny_experts(tiny, tmp_path_factory) -> ExpertSet:
    """Three experts of the tiny model, whose deltas are large."""
    from gemcore.testing.experts import write_tiny_set

    return write_tiny_set(tmp_path_factory.mktemp("experts"), tiny, scale=1.0)


@pytest.fixture(scope="session")
def routed_parts(tiny_parts, tiny_experts) -> BuildParts:
    """The plugins of a build with experts and a router at each layer."""
    return attrs.evolve(
        tiny_parts,
        router=SignsEverywhere(tiny_experts),
        names=tiny_parts.names | {"router": "signs"},
    )


@pytest.fixture(scope="session")
def routed_bundle(tiny, routed_parts, tmp_path_factory) -> Bundle:
    """The tiny model with experts and a router at each of its layers, compiled."""
    return compile_bundle(tiny, routed_parts, tmp_path_factory.mktemp("bundles") / "routed.gem")


class Environment:
    """A fresh virtual environment that sees what is installed here, and installs plugins of its own."""

    def __init__(self, folder: Path) -> None:
        import site
        import venv

        venv.EnvBuilder(with_pip=False).create(folder)
        self.python = folder / "bin" / "python"
        packages = next(folder.glob("lib/python*/site-packages"))
        lines = [f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages()]
        (packages / "outer.pth").write_text("".join(lines))

    def run(self, *words, cwd=None, check=True, **settings):
        """Run `python WORDS` there; output and errors are kept apart."""
        environment = {key: v for key, v in os.environ.items() if not key.startswith("GEM_PLUGIN")}
        done = subprocess.run(
            [self.python, *map(str, words)],
            cwd=cwd,
            env=environment | settings,
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def gem(self, *words, **settings):
        """Run `gem WORDS` there."""
        return self.run("-m", "gemcore", *words, **settings)

    def install(self, *projects):
        """Install projects by `gem plugins install`, from their folders and nothing else."""
        offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
        return self.gem("plugins", "install", *offline, *projects)

    def pytest(self, *words, **settings):
        """Run pytest there, with warnings as errors."""
        options = ["-q", "-W", "error", "-p", "no:cacheprovider", "--import-mode=importlib"]
        return self.run("-m", "pytest", *options, *words, **settings)


@pytest.fixture(scope="session")
def new_environment(tmp_path_factory):
    """Makes fresh virtual environments."""
    return lambda name: Environment(tmp_path_factory.mktemp("environments") / name)
