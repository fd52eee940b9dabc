"""lm-evaluation-harness takes GEM for one of its models."""

from __future__ import annotations

import json

import pytest

from gem_suite.engines import CompiledEngine
from gem_suite.engines_eager import EagerEngine
from gem_suite.lm_eval_model import MODEL_ARGUMENTS, open_model, register_gem, render_chat
from gem_suite.lm_eval_requests import encode_pairs, likelihoods
from gem_suite.runner_answers import answer_requests
from gem_suite.tasks import load_task, plan_tasks
from gemcore.cli.main import main
from gemcore.errors import FormatError, GemError, UsageError
from gemcore.text.chat import ChatTemplate

HARNESS = "lm-eval is not installed: pip install 'gemcore[lm-eval]'"

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": " The answer is "},
]


@pytest.fixture(scope="session")
def harness():
    """lm-eval, whose imports warn of things that are not GEM's."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = pytest.importorskip("lm_eval", reason=HARNESS)
        import lm_eval.api.instance
        import lm_eval.api.model
        import lm_eval.evaluator
        import lm_eval.models  # noqa: F401
    return package


@pytest.fixture
def model(harness, tiny_bundle):
    """GEM as lm-eval makes it from its command line."""
    from lm_eval.api.registry import get_model

    register_gem()
    return get_model("gem").create_from_arg_string(f"bundle={tiny_bundle.folder},threads=1")


def requests_of(kind, *arguments):
    from lm_eval.api.instance import Instance

    return [
        Instance(request_type=kind, doc={}, arguments=each, idx=number)
        for number, each in enumerate(arguments)
    ]


class Cache(dict):
    """What is answered, as lm-eval's cache hook notes it."""

    def add_partial(self, kind, arguments, answer):
        self[kind, json.dumps(arguments)] = answer


def test_the_arguments_of_a_model_are_read(tiny_bundle, tiny_folder):
    engine, description = open_model({"bundle": str(tiny_bundle.folder), "context_length": 32})
    assert isinstance(engine, CompiledEngine)
    assert (engine.context_length, description.engine) == (32, "compiled")
    engine, description = open_model({"model": str(tiny_folder), "engine": "float32", "seed": 3})
    assert isinstance(engine, EagerEngine)
    assert description.recipe["quantizer"] == "none"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pretrained": "gpt2"}, "unknown model argument 'pretrained'.* bundle, context_length"),
        ({"engine": "float16"}, "unknown engine 'float16'.* compiled, float32"),
        ({"bundle": "x", "engine": "float32"}, "needs the model itself"),
        ({"bundle": "x", "quantizer": "q8-g32"}, "drop --quantizer"),
        ({"model": "no-such-model-anywhere", "engine": "float32"}, "no-such-model-anywhere"),
        ({"threads": "many"}, "threads"),
    ],
)
def test_arguments_that_cannot_be_kept_are_errors(given, message):
    with pytest.raises(GemError, match=message):
        open_model(given)


def test_every_argument_is_named_once():
    assert len(set(MODEL_ARGUMENTS)) == len(MODEL_ARGUMENTS)


def test_a_chat_is_rendered_with_an_answer_to_come_or_its_last_message_open(tiny_session):
    engine = CompiledEngine(tiny_session)
    begin = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    assert render_chat(engine, CHAT[:2], answer=True) == begin + "<|im_start|>assistant\n"
    opened = begin + "<|im_start|>assistant\n The answer is "
    assert render_chat(engine, CHAT, answer=False) == opened


def test_a_template_that_refuses_a_system_message_is_asked_without(tiny_session):
    engine = CompiledEngine(tiny_session)
    source = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "[{{ m['content'] | trim }}]{% endfor %}"
    )
    engine.template = ChatTemplate(source=source)
    assert render_chat(engine, CHAT[:2], answer=True) == "[Hi]"
    assert render_chat(engine, CHAT, answer=False) == "[Hi][The answer is"
    with pytest.raises(FormatError):
        render_chat(engine, CHAT[:1], answer=True)
    engine.template = ChatTemplate(source="{{ messages[0]['role'] }}")
    with pytest.raises(FormatError, match="drops the last message"):
        render_chat(engine, CHAT[1:2], answer=False)


def test_gem_is_registered_beside_the_harness_own_models(harness):
    from lm_eval.api.registry import model_registry

    register_gem()
    register_gem()
    assert "hf" in model_registry
    assert model_registry["gem"].__name__ == "GemModel"


def test_the_model_answers_every_kind_of_request_and_caches_it(model):
    cache = Cache()
    model.set_cache_hook(cache)
    texts = [("The cat", " sat"), ("A dog", " ran"), ("The cat", " sat")]
    pairs, _ = encode_pairs(model.engine, texts)
    expected = dict(likelihoods(model.engine, pairs))
    found = model.loglikelihood(requests_of("loglikelihood", *texts), disable_tqdm=True)
    assert found == [expected[number] for number in range(3)]
    assert cache["loglikelihood", json.dumps(texts[1])] == expected[1]
    (whole,) = model.loglikelihood_rolling(
        requests_of("loglikelihood_rolling", ("The cat sat",)), disable_tqdm=True
    )
    alone = model.loglikelihood(
        requests_of("loglikelihood", ("", "The cat sat")), disable_tqdm=True
    )
    assert whole == pytest.approx(alone[0][0])
    asked = requests_of("generate_until", ("once", {"until": ["\n"], "max_gen_toks": 4}))
    assert model.generate_until(asked, disable_tqdm=True) == [cache.popitem()[1]]


def test_texts_that_are_cut_are_counted(model):
    asked = requests_of("loglikelihood", ("x" * 300, " a"), ("x", " a"))
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than the context of 256 tokens"):
        model.loglikelihood(asked, disable_tqdm=True)


def test_control_tokens_count_once_a_chat_has_been_rendered(model):
    rendered = model.apply_chat_template(CHAT[:2])
    asked = requests_of("loglikelihood", (rendered, "Hello"))
    pairs, _ = encode_pairs(model.engine, [(rendered, "Hello")], rendered=True)
    expected = dict(likelihoods(model.engine, pairs))[0]
    assert model.loglikelihood(asked, disable_tqdm=True) == [expected]
    assert 1 in pairs[0][0]


def test_the_model_says_what_it_is(model, tiny_bundle):
    info = model.get_model_info()
    assert info["gem_engine"] == "compiled"
    assert info["gem_recipe"]["quantizer"].startswith("q4a-g32")
    assert "/" not in model.tokenizer_name
    assert model.max_length == info["max_length"] == 256
    assert model.chat_template(True) == tiny_bundle.chat_template().source
    assert model.chat_template(False) is None
    with pytest.raises(UsageError, match="unknown chat template 'tool_use'"):
        model.chat_template("tool_use")
    model.engine.template = ChatTemplate(source=None)
    with pytest.raises(UsageError, match="drop --apply_chat_template"):
        model.chat_template(True)


def test_a_seed_is_checked_and_a_device_means_nothing(harness, tiny_bundle):
    from lm_eval.api.registry import get_model

    register_gem()
    with pytest.raises(UsageError, match="seed is -1"):
        get_model("gem")(bundle=str(tiny_bundle.folder), seed=-1)
    more = {"device": "cuda:0", "batch_size": "auto", "max_batch_size": 8}
    model = get_model("gem").create_from_arg_obj({"bundle": str(tiny_bundle.folder)}, more)
    assert model.seed == 0


TASKS = {
    "arc_challenge": 'doc_to_text: "Question: {{question}}\\nAnswer:"',
    "openbookqa": 'doc_to_text: "{{question}}"',
    "piqa": 'doc_to_text: "Question: {{question}}\\nAnswer:"',
}
"""Prompts as in lm-eval's own tasks of these names."""

TASK_FILE = """\
task: gem_test_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}, cache_dir: {cache}}}
output_type: multiple_choice
test_split: test
{prompt}
doc_to_target: answer
doc_to_choice: "{{{{choices}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
metadata: {{version: 0}}
"""


@pytest.mark.slow
# Some questions are longer than the tiny model's context; both sides cut them.
@pytest.mark.filterwarnings("ignore:.* are longer than the context")
def test_lm_eval_itself_finds_what_gem_eval_suite_finds(
    harness, benchmarks, tiny_bundle, tiny_session, real_data, tmp_path, capfd
):
    limit = 20
    plans = {plan.name: plan for plan in plan_tasks(benchmarks, real_data, names=list(TASKS))}
    for name, prompt in TASKS.items():
        text = TASK_FILE.format(
            name=name, file=plans[name].folder.test, cache=tmp_path / "cache", prompt=prompt
        )
        (tmp_path / f"{name}.yaml").write_text(text)
    names = ",".join(f"gem_test_{name}" for name in TASKS)
    words = ["--tasks", names, "--include_path", tmp_path, "--limit", limit, "--log_samples"]
    words += ["--model_args", f"bundle={tiny_bundle.folder},threads=1", "-o", tmp_path / "out"]
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, ["eval", "lm-eval", *words])))
    out, err = capfd.readouterr()
    assert ended.value.code == 0, err
    assert "gem_test_piqa" in out
    engine = CompiledEngine(tiny_session)
    for name, plan in plans.items():
        (path,) = (tmp_path / "out").rglob(f"samples_gem_test_{name}_*.jsonl")
        theirs = [json.loads(line) for line in path.read_text().splitlines()]
        theirs.sort(key=lambda sample: sample["doc_id"])
        task = load_task(plan, limit=limit, shots=0)
        requests = [task.request(document) for document in task.documents]
        answers = answer_requests(engine, requests)
        assert len(theirs) == len(requests) == limit
        for sample, document, request, answer in zip(
            theirs, task.documents, requests, answers, strict=True
        ):
            arguments = [(each["arg_0"], each["arg_1"]) for each in sample["arguments"].values()]
            assert arguments == list(request.pairs)
            ours = task.score(document, request, answer.outcome)
            values = [float(value[0]) for value in sample["filtered_resps"]]
            assert values == pytest.approx(answer.outcome.likelihoods, abs=1e-9)
            assert (sample["acc"], sample["acc_norm"]) == (ours["acc"], ours["acc_norm"])
