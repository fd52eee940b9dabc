"""A compiled model in a folder: code, weights, tokenizer, and a manifest that vouches for them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import attrs
from attrs import validators

from gemcore.cache import file_digest
from gemcore.errors import BundleError, FormatError, GemError, UsageError
from gemcore.models.cache_layout import CACHE_SCHEMES, DEFAULT_CACHE
from gemcore.models.checkpoint import TextData
from gemcore.models.config import ModelConfig

if TYPE_CHECKING:
    from gemcore.text.chat import ChatTemplate
    from gemcore.text.encoder_tokenizer import EncoderTokenizer
    from gemcore.text.tokenizer import Tokenizer

FORMAT_VERSION = 2
"""Version of the bundle format; a bundle of another one is refused."""

MANIFEST, WEIGHTS, TOKENIZER, TEMPLATE, ENCODER_TOKENIZER = (
    "manifest.json",
    "weights.safetensors",
    "tokenizer.json",
    "chat_template.jinja",
    "encoder_tokenizer.json",
)
_MANIFEST_LIMIT = 16 * 2**20


def _names(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(values)


@attrs.frozen(kw_only=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        model: name, identity (SHA-256 of the source) and licence of the model.
        config: shape of the model.
        router, quantizer, target: what it was built with, as the user could type it.
        target_details: what the target needs to run it, and what it was compiled for.
        plan: scheme of every weight unit.
        quantization: the `QuantizationReport`, as JSON.
        delegation: the `DelegationReport`, as JSON.
        weights: names of the weights in the order of the code's inputs.
        kv_cache: scheme of the cache that the code reads and writes.
        experts: names of the experts, in the order of the router's weights; none without a router.
        prior_tokens: the most tokens of a prompt from which the code gives a prior over the experts, in the
            encoder's own tokens where the bundle holds an encoder's tokenizer; 0 where it gives none.
        text: special tokens and stop tokens.
        versions: versions of GEM and TVM that made it.
        files: for each file its SHA-256 and size in bytes.
    """

    model: Mapping[str, Any]
    config: ModelConfig
    router: str
    quantizer: str
    target: str
    target_details: Mapping[str, Any]
    plan: Mapping[str, str]
    quantization: Mapping[str, Any]
    delegation: Mapping[str, Any]
    weights: tuple[str, ...]
    text: Mapping[str, Any]
    versions: Mapping[str, str]
    kv_cache: str = attrs.field(default=DEFAULT_CACHE, validator=validators.in_(CACHE_SCHEMES))
    experts: tuple[str, ...] = attrs.field(default=(), converter=_names)
    prior_tokens: int = 0
    files: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = {"format_version": FORMAT_VERSION, **attrs.asdict(self, recurse=False)}
        lists = {"weights": list(self.weights), "experts": list(self.experts)}
        return {**values, "config": self.config.to_json(), **lists}


@attrs.frozen(kw_only=True)
class Bundle:
    """A bundle whose files were found to be what its manifest says.

    Attributes:
        folder: where it lies.
        manifest: what it says of itself.
    """

    folder: Path
    manifest: Manifest

    def text_data(self) -> TextData:
        """The tokenizer and the chat template."""
        return TextData(
            tokenizer_json=self._tokenizer_json(),
            chat_template=self._template_source(),
            **self._text_values(),
        )

    def tokenizer(self) -> Tokenizer:
        """The tokenizer; its file is read when a text is to be encoded."""
        from gemcore.text.tokenizer import Tokenizer

        return Tokenizer(source=self._tokenizer_json, **self._text_values())

    def encoder_tokenizer(self) -> EncoderTokenizer | None:
        """The tokenizer of the encoder that gives the prior; None where none does.

        Its file, too, is read when a text is to be encoded.
        """
        from gemcore.text.encoder_tokenizer import EncoderTokenizer

        if ENCODER_TOKENIZER not in self.manifest.files:
            return None
        return EncoderTokenizer(
            source=lambda: self._text_of(ENCODER_TOKENIZER), longest=self.manifest.prior_tokens
        )

    def chat_template(self) -> ChatTemplate:
        """The chat template, without source where the model has none."""
        from gemcore.text.chat import ChatTemplate

        values = self._text_values()
        return ChatTemplate(
            source=self._template_source(),
            bos_token=values["bos_token"],
            eos_token=values["eos_token"],
        )

    def _text_values(self) -> dict[str, Any]:
        values = dict(self.manifest.text)
        return values | {"stop_token_ids": tuple(values["stop_token_ids"])}

    def _tokenizer_json(self) -> str:
        return self._text_of(TOKENIZER)

    def _text_of(self, name: str) -> str:
        path = self.folder / name
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise BundleError(f"cannot read {path}: {error.strerror}") from error

    def _template_source(self) -> str | None:
        path = self.folder / TEMPLATE
        return path.read_text(encoding="utf-8") if path.exists() else None


def current_versions() -> dict[str, str]:
    """Versions that must match for a bundle to run here."""
    return {
        "tvm": metadata.version("apache-tvm"),
        "tvm-ffi": metadata.version("apache-tvm-ffi"),
    }


def text_entry(text: TextData) -> dict[str, Any]:
    """What a manifest keeps of a model's text data beside the tokenizer and the template."""
    return {
        "bos_token": text.bos_token,
        "eos_token": text.eos_token,
        "add_bos": text.add_bos,
        "stop_token_ids": list(text.stop_token_ids),
    }


@contextmanager
def new_bundle(folder: Path) -> Iterator[tuple[Path, Callable[[Manifest], None]]]:
    """Make a bundle in a temporary folder beside `folder`, which appears only when it is whole.

    Yields the temporary folder, and a function that writes the manifest when all files are there.
    An existing bundle is replaced; anything else that is in the way is left alone.
    """
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise UsageError(f"{folder} exists and is not a bundle: choose another name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield temporary, lambda manifest: _write_manifest(temporary, manifest)
        if not (temporary / MANIFEST).is_file():
            raise GemError("the bundle was not finished")
        _replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(temporary: Path, folder: Path) -> None:
    temporary.chmod(0o755)
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
        folder.replace(old / "bundle")
        temporary.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        temporary.replace(folder)


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            files[name] = {"sha256": file_digest(path), "size": path.stat().st_size}
    text = json.dumps(attrs.evolve(manifest, files=files).to_json(), indent=1, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def open_bundle(folder: Path) -> Bundle:
    """Check a bundle and open it; nothing in it is run before.

    Raises UsageError when there is none, BundleError when it is damaged, or made by another version
    of the format or of TVM than is installed.
    """
    manifest = _read_manifest(folder)
    _check_versions(folder, manifest)
    for name, entry in manifest.files.items():
        _check_file(folder, name, entry)
    _check_nothing_else(folder, manifest)
    for name in (WEIGHTS, TOKENIZER):
        if name not in manifest.files:
            raise BundleError(f"bundle {folder} lists no {name}: it is not a whole bundle")
    return Bundle(folder=folder, manifest=manifest)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"no bundle at {folder}: there is no {MANIFEST} in it")
    if path.stat().st_size > _MANIFEST_LIMIT:
        raise BundleError(f"bundle {folder}: its {MANIFEST} is larger than {_MANIFEST_LIMIT} bytes")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values.pop("format_version")
        if version != FORMAT_VERSION:
            raise BundleError(
                f"bundle {folder} has format version {version}, but this GEM reads version "
                f"{FORMAT_VERSION}: compile the model again"
            )
        config = ModelConfig.from_json(values.pop("config"))
        weights = tuple(values.pop("weights"))
        return Manifest(config=config, weights=weights, **values)
    except (ValueError, KeyError, TypeError, AttributeError, FormatError, OSError) as error:
        raise BundleError(f"bundle {folder}: its {MANIFEST} is damaged ({error})") from error


def _check_versions(folder: Path, manifest: Manifest) -> None:
    for name, ours in current_versions().items():
        theirs = manifest.versions.get(name)
        if theirs != ours:
            raise BundleError(
                f"bundle {folder} was made with {name} {theirs}, but {ours} is installed: "
                "compile the model again"
            )


def _check_nothing_else(folder: Path, manifest: Manifest) -> None:
    """A file that nobody vouches for might be loaded in place of one that is optional."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name != MANIFEST and name not in manifest.files and not path.is_dir():
            raise BundleError(
                f"bundle {folder} holds {name}, which its {MANIFEST} does not list: remove that file"
            )


def _check_file(folder: Path, name: str, entry: Mapping[str, Any]) -> None:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise BundleError(f"bundle {folder}: its {MANIFEST} names a file outside of it, '{name}'")
    path = folder / name
    if not path.is_file():
        raise BundleError(f"bundle {folder}: {name} is missing")
    size = path.stat().st_size
    if size != entry.get("size"):
        raise BundleError(
            f"bundle {folder}: {name} has {size} bytes, but its manifest says {entry.get('size')}: "
            "it is damaged, compile the model again"
        )
    if file_digest(path) != entry.get("sha256"):
        raise BundleError(
            f"bundle {folder}: {name} is not what its manifest vouches for (SHA-256 differs): "
            "it is damaged, compile the model again"
        )
