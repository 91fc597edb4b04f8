"""What requests hold and what is answered, as JSON: the schema of the service."""

import base64
import binascii
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from foundation.errors import UserError
from linking.linker import Linked
from linking.service.desk import Asked
from linking.service.entities import Known
from pipeline.datasets.fields import FilledText, Label, Text, TextOrBlank
from pipeline.datasets.layouts.jsonl import MentionLine
from pipeline.datasets.records import Mention

SENTENCE, PHRASE, LABEL = 10_000, 500, 500
"""Characters of a sentence, a phrase, and a type or an id."""
CANDIDATES = 1_000
MOST = 100
"""Mentions in a request, and entities in an answer."""
BODY = 28_000_000
"""Bytes of a request: a picture of 20 MB, in base64."""

TopK = Annotated[int, Field(ge=1, le=MOST, description="entities listed per mention")]
_Label = Annotated[Label, Field(max_length=LABEL)]


class MentionToLink(MentionLine):
    """A mention, with the fields of mentions.jsonl."""

    sentence: Annotated[TextOrBlank, Field(max_length=SENTENCE, description="the text around the mention")]
    mention: Annotated[FilledText, Field(max_length=PHRASE, description="the words that mean an entity")]
    start: Annotated[int | None, Field(description="where they begin, in characters; looked up where it lacks")] = None
    end: Annotated[int | None, Field(description="behind their last character")] = None
    image: Annotated[Text | None, Field(description="a picture file, in base64")] = None
    type: Annotated[Text | None, Field(max_length=LABEL, description="read by candidate source name-of-type")] = None
    candidates: Annotated[
        list[_Label] | None, Field(max_length=CANDIDATES, description="entity ids, read by candidate source given")
    ] = None

    def asked(self, top_k: int, where: str) -> Asked:
        """The mention. where: its place in the request, for messages. Raises `UserError`."""
        mention = Mention(
            id="new",
            sentence=self.sentence,
            phrase=self.mention,
            split="test",
            span=self.span(where),
            type=self.type,
            given=self.given(),
        )
        try:
            picture = None if self.image is None else base64.b64decode(self.image, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UserError(f"{where}: image is no base64; send a picture file's bytes in base64") from error
        return Asked(mention, picture, top_k)


class OneMention(MentionToLink):
    """A mention and how many entities are listed for it."""

    top_k: TopK = 5


class ManyMentions(BaseModel):
    """Mentions and how many entities are listed for each."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mentions: Annotated[list[MentionToLink], Field(min_length=1, max_length=MOST)]
    top_k: TopK = 5


class RankedEntity(BaseModel):
    """An entity of the KB with the head's score."""

    id: str
    name: str
    score: float


class Answer(BaseModel):
    """A mention's answer. Fields: as in the output of LinkMentions."""

    mention: str
    span: Annotated[tuple[int, int] | None, Field(description="characters in the sentence; null: not found there")]
    picture: Annotated[str, Field(description="none, ok, or why it was left out")]
    notes: Annotated[list[str], Field(description="what the answer had to do without")]
    joint: Annotated[bool | None, Field(description="whether joint was asked, with --joint-below")] = None
    nil: Annotated[bool, Field(description="whether no entity of the KB seems to be meant")]
    confidence: Annotated[float | None, Field(description="chance that the first entity is right")]
    entities: Annotated[list[RankedEntity], Field(description="best first")]

    @classmethod
    def of(cls, linked: Linked) -> "Answer":
        return cls.model_validate(linked.to_json())


class Answers(BaseModel):
    """In the order of the request's mentions."""

    answers: list[Answer]


_Numbers = list[float | None]


class ExplainedEntity(BaseModel):
    """What a head tells of an entity; which of the fields are there depends on the method."""

    id: str
    score: float | None
    units: Annotated[dict[str, float | None] | None, Field(description="scores of its units or experts")] = None
    expert: Annotated[str | None, Field(description="the one that its gate selected")] = None
    edges: Annotated[dict[str, _Numbers] | None, Field(description="kind: weights, before the first layer on")] = None
    tokens: Annotated[dict[str, _Numbers] | None, Field(description="share of each token in the score")] = None
    pairs: Annotated[dict[str, float | _Numbers | None] | None, Field(description="the numbers it combines")] = None


class Attention(BaseModel):
    """Weights of objects, faces, names or states; boxes: their indices, best first (-1: the whole picture)."""

    weights: _Numbers
    boxes: list[int] | None = None


class ExplainedAnswer(Answer):
    """An answer with what Explain writes of a mention."""

    candidates: Annotated[list[ExplainedEntity], Field(description="of the entities, in their order")]
    attention: dict[str, Attention]


class EntityRecord(BaseModel):
    """An entity of the KB."""

    id: str
    name: str
    aliases: list[str]
    types: list[str]
    attributes: str
    description: str
    similarity: Annotated[float | None, Field(description="of its name with the words searched for, to 100")] = None

    @classmethod
    def of(cls, known: Known, similarity: float | None = None) -> "EntityRecord":
        return cls(
            id=known.id,
            name=known.name,
            aliases=list(known.aliases),
            types=list(known.types),
            attributes=known.attributes,
            description=known.description,
            similarity=similarity,
        )


class FoundEntities(BaseModel):
    """The most similar first."""

    entities: list[EntityRecord]


class Health(BaseModel):
    """status: always `ok`, where there is an answer."""

    status: str
    run: str
    entities: int
    waiting: Annotated[int, Field(description="mentions in the queue")]


class Problem(BaseModel):
    """Why a request has no answer."""

    error: str
    request_id: str
