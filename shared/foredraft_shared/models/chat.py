"""Chat templates: a conversation as the one text its model was trained to continue.

Templates are Jinja programs out of downloaded files, so they run in a sandbox that cannot reach into objects or change
them, with the helpers that transformers gives them (``raise_exception``, ``strftime_now``, ``tojson``, loop controls).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import ModelDamaged, UsageError

__all__ = ["CHATML", "PLAIN", "ChatTemplate"]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""For models without a template that have ChatML's tokens."""
PLAIN = (
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""For models without either, which were never taught to chat: a script they may continue."""


class ChatTemplate:
    """A compiled template.

    Raises:
        ModelDamaged: the template is no valid Jinja.
    """

    def __init__(self, source: str, tokens: Mapping[str, str] | None = None) -> None:
        """``tokens`` are the texts a template may name: ``bos_token``, ``eos_token``…"""
        self.source = source
        self._tokens = dict(tokens or {})
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ModelDamaged(
                f"The model's chat template is no valid Jinja ({error}); use a prompt without chat, or another model."
            ) from error

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, **variables: Any) -> str:
        """The conversation as a text.

        Raises:
            UsageError: the template refuses these messages (roles out of order, say) or cannot handle them.
        """
        values = {**self._tokens, **variables, "add_generation_prompt": add_generation_prompt}
        try:
            return self._template.render(messages=[dict(message) for message in messages], **values)
        except _Refused as error:
            raise UsageError(f"The model's chat template refuses this conversation: {error}") from error
        except (TemplateError, TypeError, KeyError, ValueError, ArithmeticError, RecursionError) as error:
            raise UsageError(
                f"The model's chat template cannot be applied to this conversation ({error}); "
                "give messages with role and content."
            ) from error


class _Generation(Extension):
    """``{% generation %}…{% endgeneration %}`` marks the assistant's words for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Refused(TemplateError):
    """A template called ``raise_exception``."""


def _raise(message: str) -> NoReturn:
    raise _Refused(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    # Jinja's own filter escapes for HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
