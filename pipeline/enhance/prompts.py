"""The questions to a language model about an entity, in up to two rounds, and what its answers mean."""

import re
from collections.abc import Mapping

from foundation.contracts import contract
from foundation.errors import UserError, nearest
from pipeline.datasets.records import Entity
from pipeline.enhance.chat import Conversation
from pipeline.enhance.text import opening

# DWE+, section 3.2. The paper asks this of every entity, whatever its type.
INSTRUCTION = "You are a helpful assistant designed to give a comprehensive introduction about people."
QUESTION = "Who is this one? {name}"
AGAIN = "{static} Please provide more detailed information."
FIELDS = ("name", "type", "attributes")

_REFUSAL = re.compile(
    r"\b(?:i(?: a|’|')?m (?:very |so |really )?sorry|i apologi[sz]e|sorry),? (?:but )?"
    r"i(?: can(?:no|')?t| am (?:not able|unable)|'m (?:not able|unable)| won't)\b"
    r"(?! (?:find|locate|identify|recogni[sz]e|determine))"
    r"|\bi (?:can(?:not|'t)|am (?:not able|unable) to|'m (?:not able|unable) to|won't|must decline to) "
    r"(?:help|assist|comply|fulfil|fulfill|discuss|share|engage|answer|continue|provide (?:personal|private|sensitive))"
    r"|\b(?:against|violates?) (?:my|our|the) (?:guidelines|policy|policies|programming)"
)
_UNKNOWN = re.compile(
    r"\bi (?:do not|don't|did not|didn't) (?:currently |actually |really )?(?:have|know|find|recogni[sz]e|possess)\b"
    r"|\bi(?:'m| am) "
    r"(?:not (?:aware|familiar|sure|certain|able to (?:find|identify|provide|determine|locate|recogni[sz]e)))\b"
    r"|\bi(?:'m| am) (?:unable to|unfamiliar|unaware)\b"
    r"|\bi (?:cannot|can't|could not|couldn't) "
    r"(?:find|identify|locate|determine|provide|recogni[sz]e|give|verify|confirm)\b"
    r"|\b(?:there is|there's|there are|i have|i found) (?:no|not enough|insufficient|very little|limited) "
    r"(?:\w+[ -]){0,4}?(?:information|details|records?|data)\b"
    r"|\bno (?:\w+ ){0,4}?(?:information|records?|details) "
    r"(?:about|on|regarding|available|could be found|is available|was found)\b"
    r"|\b(?:could|can|would) you (?:please |kindly )?(?:provide|give|share|tell|clarify|specify)\b"
    r"|\bplease (?:provide|give|share|clarify|specify)\b"
    r"|\bwithout (?:any |some )?(?:more|further|additional|specific) (?:\w+ ){0,2}?(?:information|context|details)\b"
    r"|\b(?:is|appears to be|may be|might be|seems to be) a private (?:individual|person|citizen)\b"
    r"|\bnot (?:a )?(?:widely|well|publicly)[ -](?:known|recogni[sz]ed)\b"
    r"|\bdifficult to (?:provide|give|determine|identify)\b"
    r"|\bas an ai\b|\b(?:it's|it is) (?:unclear|not clear) (?:who|what|which)\b"
    r"|\bthere (?:are|may be|could be) (?:many|several|multiple|numerous) \w+ (?:named|with (?:the|that|this) name)\b"
)
# Marks around reasoning: DeepSeek's and Qwen's, Mistral's, Kimi's, those of the open harmony format, and their kin.
_WORDS = "think|thinking|thought|reasoning|reflection"
_REASONING = re.compile(
    rf"<(?:{_WORDS})>|\[think\]|◁think▷|<\|begin_of_thought\|>|<\|channel\|>analysis", re.IGNORECASE
)
_REASONING_ENDS = re.compile(
    rf"</(?:{_WORDS})>|\[/think\]|◁/think▷|<\|end_of_thought\|>|<\|channel\|>final<\|message\|>", re.IGNORECASE
)
LOOKED_AT = 400
"""Characters of an answer that are searched: further on, such words are about the person described."""


@contract
class Prompts:
    """The instruction and the two questions. `{name}`, `{type}`, `{attributes}` and, in the second, `{static}` (its
    static text) stand for the entity's.

    Raises `UserError` for another field in braces, and for a first question that names no entity.
    """

    instruction: str = INSTRUCTION
    question: str = QUESTION
    again: str = AGAIN

    def __post_init__(self) -> None:
        texts = {
            "--instruction": (self.instruction, FIELDS),
            "--question": (self.question, FIELDS),
            "--question-again": (self.again, (*FIELDS, "static")),
        }
        for option, (text, fields) in texts.items():
            for name in re.findall(r"\{(\w*)\}", text):
                if name not in fields:
                    raise UserError(f"{option}: unknown field {{{name}}}{nearest(name, fields)}")
        if "{name}" not in self.question and "{attributes}" not in self.question:
            raise UserError("--question: it names no entity; put {name} where the entity's name belongs")

    def first(self, entity: Entity) -> Conversation:
        """The conversation of the first round."""
        values = _values(entity)
        system = [{"role": "system", "content": _filled(self.instruction, values)}] if self.instruction.strip() else []
        return [*system, {"role": "user", "content": _filled(self.question, values)}]

    def second(self, entity: Entity, static: str, answer: str) -> Conversation:
        """The conversation of the second round: the first, its answer, and the entity's static text.

        An answer without a word is left out, and both questions become one: servers refuse empty turns.
        """
        first, spoken = self.first(entity), _spoken(answer).strip()
        again = _filled(self.again, {**_values(entity), "static": static})
        if not spoken:
            return [*first[:-1], {"role": "user", "content": f"{first[-1]['content']}\n\n{again}"}]
        return [*first, {"role": "assistant", "content": spoken}, {"role": "user", "content": again}]


def _values(entity: Entity) -> dict[str, str]:
    return {"name": entity.name, "type": entity.type or "", "attributes": entity.attributes}


def _filled(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1]) or "", text)


def kind(text: str | None, finish: str) -> str:
    """What an answer is: `described`, `unknown` (it says it does not know), `refused`, `empty`, `cut` (its length was
    used up before a description began), `too long` (the question did not fit).

    finish: the server's reason to end; `content_filter` and `refusal` are refusals whatever the text. Words are looked
    for in English.
    """
    if finish in ("content_filter", "refusal"):
        return "refused"
    if finish in ("too long", "no answer yet"):
        return finish
    text = _spoken(text or "")
    if not any(c.isalnum() for c in text):
        return "cut" if finish == "length" else "empty"
    start = " ".join(text[:LOOKED_AT].lower().replace("’", "'").split())
    if _REFUSAL.search(start):
        return "refused"
    return "unknown" if _UNKNOWN.search(start) else "described"


def description(text: str, max_chars: int) -> str:
    """The description in an answer: plain text of at most `max_chars` characters, ended at a sentence."""
    return opening(_spoken(text), None, max_chars)


def _spoken(text: str) -> str:
    """An answer without the reasoning that some models write in front of it; nothing where it ends inside that."""
    start, ends = _REASONING.search(text), list(_REASONING_ENDS.finditer(text))
    if not ends:
        return text[: start.start()] if start else text
    return text[: start.start() if start and start.start() < ends[-1].start() else 0] + text[ends[-1].end() :]
