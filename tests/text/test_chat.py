"""Chat templates, against `apply_chat_template` of transformers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from gemcore.errors import FormatError, UsageError
from gemcore.models.checkpoint import TextData
from gemcore.text.chat import ChatTemplate
from gemcore.text.decoding import byte_alphabet
from gemcore.text.tokenizer import Tokenizer

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
    "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim "
    "+ '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN2 = """
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1, found=false) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if not ns.found and message.role == "user" and not message.content.startswith('<tool') %}
        {%- set ns.found = true %}
        {%- set ns.last = index %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
        {%- set block %}
            {{- content ~ '|' ~ loop.index0 ~ (ns.last | string | replace('0', 'zero')) }}
        {%- endset %}
        {{- '<|im_start|>' + message.role + '\\n' + block + '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {{- '<tool_response>' }}{{- message | tojson(indent=2) }}
        {{- ['a', 'b'] | join(', ') + ', '.join(['c', 'd']) }}
    {%- endif %}
{%- endfor %}
{%- macro opening(role) %}{{- '<|im_start|>' ~ role }}{%- endmacro %}
{%- if add_generation_prompt %}
    {{- opening('assistant') + '\\n' }}
    {%- for i in range(2) recursive %}{{- i * 2 }}{%- else %}none{%- endfor %}
{%- endif %}
  {# a comment #}
  {% if strftime_now('%Y')|length == 4 %}
    {{ eos_token }} {{ undefined_thing }}
  {% endif %}
"""
TEMPLATES = {"smollm2": SMOLLM2, "qwen2": QWEN2, "llama3": LLAMA3}

MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "user", "assistant", "tool"]),
            "content": st.text(max_size=30) | st.just("  <think>x</think>\n\nIt's <b>&amp; 'q'  "),
        }
    ),
    min_size=1,
    max_size=4,
)


def tokenizer() -> Tokenizer:
    backend = Backend(models.BPE({c: place for place, c in enumerate(byte_alphabet())}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    names = ["<|im_start|>", "<|im_end|>", "<|im_", "<s>", "</s>"]
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in names])
    return Tokenizer(backend=backend)


TOKENIZER = tokenizer()
START, END = TOKENIZER.token_id("<|im_start|>"), TOKENIZER.token_id("<|im_end|>")


def chat_template(source: str | None) -> ChatTemplate:
    return ChatTemplate(source=source, bos_token="<s>", eos_token="</s>")


def user(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


@pytest.fixture(scope="module")
def transformers_tokenizer() -> Any:
    transformers = pytest.importorskip("transformers")
    backend = Backend(models.BPE({"a": 0}, []))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>"
    )


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("add_generation_prompt", [False, True])
@given(messages=MESSAGES)
def test_rendering_equals_transformers(
    transformers_tokenizer: Any,
    name: str,
    add_generation_prompt: bool,
    messages: list[dict[str, str]],
) -> None:
    expected = transformers_tokenizer.apply_chat_template(
        messages,
        chat_template=TEMPLATES[name],
        add_generation_prompt=add_generation_prompt,
        tokenize=False,
    )
    found = chat_template(TEMPLATES[name]).render(
        messages, add_generation_prompt=add_generation_prompt
    )
    assert found == expected


@pytest.mark.model
def test_the_default_model_has_the_template_tested_here(
    metadata: dict[str, Any], smollm2: Tokenizer
) -> None:
    assert metadata["tokenizer.chat_template"] == SMOLLM2
    rendered = chat_template(SMOLLM2).render(user("Hi"))
    ids = chat_template(SMOLLM2).encode(smollm2, user("Hi"))
    assert ids == smollm2.encode(rendered, special=True)
    assert ids.count(1) == 3


@given(MESSAGES)
def test_ordinary_messages_encode_as_the_rendered_text(messages: list[dict[str, str]]) -> None:
    rendered = chat_template(SMOLLM2).render(messages)
    ids = chat_template(SMOLLM2).encode(TOKENIZER, messages)
    assert ids == TOKENIZER.encode(rendered, special=True)


HOSTILE = st.lists(
    st.sampled_from(["<|im_start|>", "<|im_end|>", "<|im_", "start|>", "\ufdd0", "\ufdd1", "\n"])
    | st.text(max_size=3)
).map("".join)


@given(HOSTILE)
def test_control_tokens_in_a_message_stay_text(content: str) -> None:
    ids = chat_template(SMOLLM2).encode(TOKENIZER, user(content))
    assert (ids.count(START), ids.count(END)) == (3, 2)
    expected = chat_template(SMOLLM2).render(user(content.replace("\ufdd0", "")))
    assert TOKENIZER.decode(ids, special=True) == expected


@given(HOSTILE)
def test_templates_that_cut_messages_cannot_be_tricked(content: str) -> None:
    source = (
        "{% for m in messages %}<|im_start|>{{ m.content.split('|')[0] }}"
        "{{ m.content | trim | replace('_', '') }}{{ m.content[1:] }}<|im_end|>{% endfor %}"
    )
    ids = chat_template(source).encode(TOKENIZER, user(content))
    assert (ids.count(START), ids.count(END)) == (1, 1)


def test_a_model_without_a_template_says_what_to_do() -> None:
    template = ChatTemplate.from_text_data(TextData(tokenizer_json=""))
    with pytest.raises(UsageError, match="no chat template: use --no-chat"):
        template.render(user("Hi"))
    with pytest.raises(UsageError, match="no chat template: use --no-chat"):
        template.encode(TOKENIZER, user("Hi"))


def test_special_tokens_come_from_the_text_data() -> None:
    text = TextData(
        tokenizer_json="", chat_template="{{ bos_token }}{{ eos_token }}", bos_token="<s>"
    )
    assert ChatTemplate.from_text_data(text).render(user("")) == "<s>"


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([], "a chat needs at least one message"),
        ([{"role": "usr", "content": ""}], "unknown role 'usr': did you mean 'user'?"),
        ([{"role": "user"}], r"message 0 must have a role and a content, not \['role'\]"),
        ([{"role": "user", "content": "", "x": 1}], r"not \['content', 'role', 'x'\]"),
        (["Hi"], "message 0 must have a role and a content, not 'Hi'"),
        ([{"role": "user", "content": 3}], "the content of message 0 is int: it must be text"),
        ([{"role": ["user"], "content": ""}], r"unknown role '\['user'\]'"),
    ],
)
def test_bad_messages_are_one_sentence(messages: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        chat_template(SMOLLM2).render(messages)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("{% for %}", "the chat template is not valid Jinja: line 1: "),
        ("\n{{ x | nofilter }}", "the chat template is not valid Jinja: line 2: No filter named"),
        ("{{ raise_exception('Roles must alternate') }}", "was stopped: Roles must alternate"),
        ("{{ messages[0].content + 1 }}", "the chat template failed: can only concatenate str"),
        ("{{ nothing.at.all }}", "the chat template was stopped: 'nothing' is undefined"),
        ("{{ 1 / 0 }}", "the chat template failed: division by zero"),
        ("{% include 'other' %}", "the chat template failed: no loader"),
    ],
)
def test_a_failing_template_is_one_sentence(source: str, sentence: str) -> None:
    with pytest.raises(FormatError, match=sentence):
        chat_template(source).render(user("Hi"))
