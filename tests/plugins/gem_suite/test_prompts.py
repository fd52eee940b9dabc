"""Prompts: character for character what lm-evaluation-harness 0.4 asks, where it has the task."""

from __future__ import annotations

import attrs
import pytest

from gem_suite.catalog import make_benchmark, without_calibration
from gem_suite.prompts import build_request, has_reference
from gem_suite.schema import Document, parse_document


def choice_item(**values):
    given = {"task_type": "multiple_choice", "choices": ["one", " two"], "answer": 1}
    return parse_document({"id": "", **given, **values}, "", 0)


def labelled_item(**values):
    return parse_document({"id": "", "task_type": "classification", **values}, "", 0)


def pairs(benchmark, document, examples=()):
    return build_request(without_calibration(benchmark), document, examples).pairs


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("piqa", "Question: Why?\nAnswer:"),
        ("arc_challenge", "Question: Why?\nAnswer:"),
        ("headqa_en", "Question: Why?\nAnswer:"),
        ("openbookqa", "Why?"),
        ("sciq", "Some text.\nQuestion: Why?\nAnswer:"),
        ("social_iqa", "Q: Some text. Why?\nA:"),
        ("hellaswag", "Some text."),
        ("mutual", "Some text."),
        (
            "mmlu_law",
            "The following are questions (with answers) about world history.\n\n"
            "Question: Why?\nAnswer:",
        ),
    ],
)
def test_contexts_of_lm_eval_and_a_space_before_every_choice(benchmarks, name, context):
    item = choice_item(context="Some text.", question="Why?", subdomain="world_history")
    expected = [context, context]
    found = pairs(benchmarks[name], item)
    assert [pair[0] for pair in found] == expected
    if name != "hellaswag":
        assert [pair[1] for pair in found] == [" one", "  two"]


def test_a_description_is_the_system_message(benchmarks):
    request = build_request(benchmarks["mmlu_law"], choice_item(question="Why?", subdomain="a_b"))
    assert request.system == "The following are questions (with answers) about a b.\n\n"
    assert all(context.startswith(request.system) for context, _ in request.pairs)


def test_hellaswag_is_cleaned(benchmarks):
    item = choice_item(
        context="Roof: He. [substeps] Then", question="?", choices=["goes [title] off. ", "b"]
    )
    assert pairs(benchmarks["hellaswag"], item) == (
        ("Roof: He. Then", " goes. off."),
        ("Roof: He. Then", " b"),
    )


def test_winogrande_is_evaluated_partially(benchmarks):
    item = choice_item(question="He moved the _ because it was wet.", choices=["box", "rug"])
    assert pairs(benchmarks["winogrande"], item) == (
        ("He moved the box", " because it was wet."),
        ("He moved the rug", " because it was wet."),
    )
    example = choice_item(question="The _ fell.", choices=["cup", "pot"])
    shown = pairs(benchmarks["winogrande"], item, [example])
    assert shown[0][0] == "The pot fell.\n\nHe moved the box"


def test_pubmedqa_is_that_of_lm_eval(benchmarks):
    item = labelled_item(
        context="A.\nB.", question="Is it?", label_names=["yes", "no", "maybe"], answer=0
    )
    context = "Abstract: A.\nB.\nQuestion: Is it?\nAnswer:"
    assert pairs(benchmarks["pubmedqa"], item) == tuple(
        (context, f" {label}") for label in ("yes", "no", "maybe")
    )


def test_xnli_joins_to_the_sentences_of_lm_eval(benchmarks):
    item = labelled_item(
        lang="de",
        context="Es regnet",
        question="Es ist nass.",
        label_names=["entailment", "neutral", "contradiction"],
        answer=0,
    )
    joined = [context + continuation for context, continuation in pairs(benchmarks["xnli"], item)]
    assert joined == [
        f"Es regnet, richtig? {word}, Es ist nass." for word in ("Ja", "Auch", "Nein")
    ]


def test_paws_x_joins_to_the_sentences_of_lm_eval(benchmarks):
    item = labelled_item(
        lang="fr",
        context="Il vient .",
        question="Il est là .",
        label_names=["different meaning", "same meaning"],
        answer=0,
    )
    joined = [context + continuation for context, continuation in pairs(benchmarks["paws_x"], item)]
    assert joined == [f"Il vient, n'est-ce pas? {word}, il est là." for word in ("Non", "Oui")]


def test_xcopa_is_that_of_lm_eval(benchmarks):
    item = choice_item(
        lang="it", context="Ha piovuto.", question="What was the cause?", choices=["Il X", "B"]
    )
    context = "Ha piovuto perché"
    assert pairs(benchmarks["xcopa"], item) == ((context, " il X"), (context, " b"))


@pytest.mark.parametrize(
    ("name", "lang", "prompt"),
    [
        ("xquad", "de", "Kontext: C\n\nFrage: Q\n\nAntwort:"),
        ("xquad", "en", "Context: C\n\nQuestion: Q\n\nAnswer:"),
        ("tydiqa_goldp", "fi", "Konteksti: C\n\nKysymys: Q\n\nVastaus:"),
        ("tydiqa_goldp", "xx", "Context: C\n\nQuestion: Q\n\nAnswer:"),
    ],
)
def test_questions_on_texts_are_those_of_lm_eval(benchmarks, items, name, lang, prompt):
    item = parse_document(
        items["extractive_qa"] | {"context": "C", "question": "Q", "lang": lang}, "", 0
    )
    request = build_request(benchmarks[name], item)
    assert request.kind == "generate"
    assert request.prompt == prompt
    assert request.pairs == ((prompt, " Ada"),)
    assert request.stop == ("\n",)


def test_gsm8k_shows_worked_examples(benchmarks, items):
    item = parse_document(items["generation_qa"] | {"rationale": "Two and two."}, "", 0)
    request = build_request(benchmarks["gsm8k"], item, [item])
    worked = "Question: 2 + 2?\nAnswer: Two and two.\n#### 4"
    assert request.prompt == f"{worked}\n\nQuestion: 2 + 2?\nAnswer:"
    assert request.pairs == ((request.prompt, " Two and two.\n#### 4"),)
    assert "Question:" in request.stop


def test_an_unanswerable_question_wants_the_word_for_it(benchmarks, items):
    item = parse_document(items["extractive_qa"] | {"answer": "", "lang": "tr"}, "", 0)
    request = build_request(benchmarks["m2qa"], item)
    assert request.pairs[0][1] == " unanswerable"
    assert request.prompt.startswith(request.system)
    assert "Soru: Who?" in request.prompt


def test_content_free_prompts_follow_the_real_one(benchmarks):
    names = ["World", "Sports", "Business", "Sci/Tech"]
    item = labelled_item(text="News {text}.", label_names=names, answer=0)
    benchmark = benchmarks["ag_news"]
    request = build_request(benchmark, item)
    assert len(request.pairs) == 4 * (1 + len(benchmark.prompt.fillers))
    contexts = [context for context, _ in request.pairs]
    assert contexts[0].startswith("News {text}.")
    for place, filler in enumerate(benchmark.prompt.fillers, start=1):
        assert set(contexts[4 * place : 4 * place + 4]) == {
            benchmark.prompt.context.replace("{text}", filler)
        }
    continuations = [continuation for _, continuation in request.pairs]
    assert continuations == continuations[:4] * (1 + len(benchmark.prompt.fillers))


def test_a_question_that_belongs_to_the_task_is_not_masked(benchmarks):
    item = choice_item(context="Gold up", question="Is it up?", choices=["No", "Yes"])
    free = build_request(benchmarks["headlines"], item).pairs[2][0]
    assert "Is it up?" in free
    assert "Gold up" not in free


def test_entities_are_asked_candidate_by_candidate(benchmarks, items):
    item = parse_document(items["token_classification"], "", 0)
    benchmark = benchmarks["ncbi_disease"]
    request = build_request(benchmark, item)
    others = [f" {thing}" for thing in benchmark.entities.others]
    # "measles" is the only candidate.
    assert request.pairs == tuple(
        ('He has measles .\n"measles" is', label) for label in [*others, " a disease"]
    )
    filled = attrs.evolve(benchmark, prompt=attrs.evolve(benchmark.prompt, fillers=("N/A",)))
    pairs_with_filler = build_request(filled, item).pairs
    assert len(pairs_with_filler) == 2 * len(request.pairs)
    assert pairs_with_filler[-1] == ('N/A\n"N/A" is', " a disease")


def test_turns_follow_each_other(benchmarks):
    item = Document(
        index=0, id="", task_type="open_ended", answer="a", answers=("a", "b"), turns=("x", "y")
    )
    assert build_request(benchmarks["mt_bench"], item).pairs == (
        ("User: x\n\nAssistant:", " a"),
        ("User: x\n\nAssistant: a\n\nUser: y\n\nAssistant:", " b"),
    )


def test_an_open_question_without_reference_cannot_be_scored(benchmarks, items):
    item = parse_document(items["open_ended"] | {"answer": ""}, "", 0)
    assert not has_reference(benchmarks["mt_bench"], item)
    assert has_reference(benchmarks["mt_bench"], attrs.evolve(item, answer="x"))
    assert has_reference(benchmarks["m2qa"], parse_document(items["extractive_qa"], "", 0))


def test_a_text_is_asked_whole(benchmarks, items):
    item = parse_document(items["lm_perplexity"] | {"text": "a 1 @,@ 000"}, "", 0)
    request = build_request(benchmarks["wikitext2"], item)
    assert (request.kind, request.text, request.pairs) == ("text", "a 1,000", ())


@pytest.mark.parametrize(
    "kind",
    ["multiple_choice", "classification", "token_classification", "generation_qa",
     "extractive_qa", "open_ended"],
)  # fmt: skip
def test_default_forms_show_examples_and_then_ask(items, kind):
    benchmark = make_benchmark({"name": "x", "domain": "d", "task_type": kind})
    item = parse_document(items[kind], "", 0)
    bare, shown = (build_request(benchmark, item, examples) for examples in ((), (item, item)))
    assert len(bare.pairs) == len(shown.pairs) > 0
    for (short, _), (long, _) in zip(bare.pairs, shown.pairs, strict=True):
        assert long.endswith(short)
        assert long.count("\n\n") >= 2
    prefix = shown.pairs[0][0].removesuffix(bare.pairs[0][0])
    assert prefix[: len(prefix) // 2] * 2 == prefix
