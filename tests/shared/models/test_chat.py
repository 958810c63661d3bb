"""Chat templates: the helpers they expect, the sandbox they run in, and what comes without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checkpoints
import pytest

from foredraft_shared.errors import ModelDamaged, UsageError
from foredraft_shared.models import Tokenizer, open_model
from foredraft_shared.models.chat import ChatTemplate

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]


def render(source: str, messages: list[dict[str, Any]] = HELLO, **variables: Any) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render(messages, True, **variables)


class TestHelpers:
    def test_tokens_and_variables(self) -> None:
        assert render("{{ bos_token }}{{ mood }}{{ messages[0].content }}", mood="gay ") == "<s>gay Hello"

    def test_blocks_leave_no_blank_lines(self) -> None:
        assert render("{% for message in messages %}\n  {% if true %}\nx\n  {% endif %}\n{% endfor %}\ny") == "x\ny"

    def test_loop_controls(self) -> None:
        assert render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"

    def test_json_is_not_escaped_for_the_web(self) -> None:
        assert render("{{ messages | tojson }}") == '[{"role": "user", "content": "Hello"}]'
        assert render("{{ value | tojson(indent=1) }}", value={"é": "<&>"}) == '{\n "é": "<&>"\n}'

    def test_the_date(self) -> None:
        assert render("{{ strftime_now('%Y') }}").isdigit()

    def test_generation_marks_change_nothing(self) -> None:
        assert render("a{% generation %}{{ messages[0].content }}{% endgeneration %}b") == "aHellob"


class TestErrors:
    def test_a_refusal_is_told_in_the_template_s_words(self) -> None:
        with pytest.raises(UsageError, match="roles must alternate"):
            render("{{ raise_exception('roles must alternate') }}")

    def test_messages_without_content(self) -> None:
        with pytest.raises(UsageError, match="role and content"):
            render("{{ messages[0]['content'] + 'x' }}", [{"role": "user"}])

    def test_no_jinja(self) -> None:
        with pytest.raises(ModelDamaged, match="no valid Jinja"):
            ChatTemplate("{% for %}")

    @pytest.mark.parametrize(
        "attack",
        [
            "{{ ''.__class__.__mro__[1].__subclasses__() }}",
            "{{ raise_exception.__globals__ }}",
            "{{ messages.append(1) }}",
            "{{ messages[0].update({'content': 'x'}) }}",
        ],
    )
    def test_templates_cannot_reach_out_or_change_things(self, attack: str) -> None:
        with pytest.raises(UsageError):
            render(attack + "{{ undefined.x }}")
        assert HELLO == [{"role": "user", "content": "Hello"}]


class TestWithoutTemplate:
    def tokenizer(self, folder: Path, drop_tokens: bool) -> Tokenizer:
        checkpoints.write_hugging_face(folder)
        (folder / "chat_template.jinja").unlink()
        if drop_tokens:
            text = (folder / "tokenizer.json").read_text("utf-8")
            (folder / "tokenizer.json").write_text(text.replace("<|im_", "<|other_"), "utf-8")
        tokenizer = open_model(folder).tokenizer
        assert tokenizer.chat_template is None
        return tokenizer

    def test_chatml_where_its_tokens_are(self, tmp_path: Path) -> None:
        text = self.tokenizer(tmp_path, drop_tokens=False).chat(HELLO)
        assert text == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"

    def test_a_script_otherwise(self, tmp_path: Path) -> None:
        text = self.tokenizer(tmp_path, drop_tokens=True).chat(HELLO)
        assert text == "User: Hello\n\nAssistant:"


def test_several_templates_by_name(tmp_path: Path) -> None:
    folder = checkpoints.write_hugging_face(tmp_path)
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text(
        '{"chat_template": [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]}'
    )
    assert open_model(folder).tokenizer.chat(HELLO) == "plain"
