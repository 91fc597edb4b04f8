"""A language model behind an OpenAI-compatible address, asked through the official client."""

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any, cast

from foundation.errors import UserError
from pipeline.enhance.chat import Answer, Conversation
from pipeline.enhance.contracts import ModelOptions
from pipeline.enhance.spending import Spending
from pipeline.enhance.text import whole
from pipeline.servers.patience import (
    PASSING,
    Again,
    OutOfTries,
    Pace,
    TooLarge,
    brief,
    check_address,
    opening_of,
    persist,
    read,
    retry_after,
)

STOPPED_AFTER = 5  # calls in a row that failed for good
ERROR_BYTES = 65536
ERROR_SECONDS = 30
_TOO_LONG = {"context_length_exceeded", "string_above_max_length"}


class _Status(Exception):
    """An answer other than 200, read no further than `ERROR_BYTES`."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__(str(status))
        self.status, self.headers = status, headers
        try:
            error = json.loads(body)
        except (ValueError, RecursionError):
            error = {}
        error = error.get("error", error) if isinstance(error, dict) else {}
        self.error = error if isinstance(error, dict) else {"message": error}


def _look(response: Any) -> None:
    """Ends the request at once where the answer is an error, so that the client never reads an endless body or follows
    a redirect.
    """
    if response.status_code == 200:
        return
    body, until = b"", time.monotonic() + ERROR_SECONDS
    if not 300 <= response.status_code < 400:
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > ERROR_BYTES or time.monotonic() > until:
                break
    response.close()
    raise _Status(
        response.status_code, {key.lower(): value for key, value in response.headers.items()}, body[:ERROR_BYTES]
    )


class RemoteModel:
    """The model that `options` names, at OPENAI_BASE_URL with OPENAI_API_KEY.

    Neither address nor key is printed or written: messages of the server are cleared of them.
    """

    def __init__(self, options: ModelOptions, spending: Spending) -> None:
        self.identity = options.name
        self.settings: dict[str, Any] = {"max_tokens": options.max_answer, "temperature": options.temperature}
        self.concurrency, self.pace, self.patience = options.concurrency, Pace(options.rate), options.patience
        self.spending, self.failure = spending, ""
        self._sent = dict(self.settings)

    def count(self, conversation: Conversation) -> int:
        """Tokens of a question, as good as one can tell without the model's tokenizer: a token is three to four letters
        of English.
        """
        return sum(4 + -(-len(message["content"].encode()) // 3) for message in conversation)

    def open(self) -> None:
        """Read address and key from the environment. Raises `UserError` where they are not there."""
        import openai

        self._secrets = [
            value for value in (os.environ.get("OPENAI_API_KEY"), os.environ.get("OPENAI_BASE_URL")) if value
        ]
        if not os.environ.get("OPENAI_API_KEY"):
            raise UserError(
                "OPENAI_API_KEY is not set; a server without keys takes any text, e.g. `export OPENAI_API_KEY=none`"
            )
        if not os.environ.get("OPENAI_BASE_URL"):
            raise UserError(
                "OPENAI_BASE_URL is not set; name the server, e.g. `export OPENAI_BASE_URL=http://localhost:8000/v1`"
            )
        check_address("OPENAI_BASE_URL", os.environ["OPENAI_BASE_URL"])
        transport = openai.DefaultHttpxClient(follow_redirects=False, event_hooks={"response": [_look]})
        self.client = openai.OpenAI(max_retries=0, timeout=self.patience.timeout, http_client=transport)

    def _clear(self, message: Any) -> str:
        text = brief(message, 2000)
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
            if len(secret) > 12:
                # Servers quote keys in part: sk-ab***yz.
                text = " ".join(
                    "***" if secret[:6] in word or secret[-6:] in word else word for word in text.split(" ")
                )
        return text[:200]

    def _once(self, conversation: Conversation) -> Answer:
        import openai

        started = time.monotonic()
        try:
            with self.client.chat.completions.with_streaming_response.create(
                model=self.identity, messages=cast(Any, conversation), **self._sent
            ) as response:
                body = read(response.iter_bytes(), self.patience, started)
        except _Status as status:
            return self._refused(status)
        except (
            openai.APIConnectionError
        ) as error:  # a time-out is one; clients before version 3 wrap what a hook raises
            if isinstance(error.__cause__, _Status):
                return self._refused(error.__cause__)
            cause = error.__cause__ or error
            detail = self._clear(f"{type(cause).__name__} {cause}".rstrip())
            raise Again(f"no connection to the model's server (OPENAI_BASE_URL): {detail}") from None
        except openai.OpenAIError as error:
            raise Again(f"the model's server: {self._clear(error)}") from None
        except (TooLarge, Again):
            raise
        except Exception as error:
            if type(error).__module__.partition(".")[0] in (
                "httpx",
                "httpx2",
                "httpcore",
                "httpcore2",
                "h11",
            ):  # while the body was read
                raise Again(f"the model's server: {type(error).__name__}") from None
            raise
        return self._parsed(body)

    def _refused(self, status: _Status) -> Answer:
        """What an error answer means: an answer of its own, `Again`, a changed request, or the end."""
        code = str(status.error.get("code") or status.error.get("type") or "")
        detail = self._clear(status.error.get("message") or "")
        message = f"the model's server answers {status.status}" + (f": {detail}" if detail else "")
        if code == "insufficient_quota":
            raise UserError(
                f"{message}; the account has nothing left to spend. The same command goes on where it stopped"
            )
        if status.status in PASSING:
            raise Again(message, retry_after(status.headers))
        if code in ("content_filter", "content_policy_violation"):
            return Answer(None, "content_filter")
        if code in _TOO_LONG or status.status == 413:
            return Answer(None, "too long")
        if status.status in (401, 403):
            raise UserError(f"{message}; check OPENAI_API_KEY")
        if 300 <= status.status < 400:
            raise UserError(f"{message}, a redirect; set OPENAI_BASE_URL to the final address")
        parameter = status.error.get("param")
        if status.status == 400 and code.startswith("unsupported") and parameter in self.settings:
            # Reasoning models name the length of an answer otherwise and have one temperature. Another thread may have
            # changed the request already.
            self._sent = {key: value for key, value in self._sent.items() if key != parameter}
            if parameter == "max_tokens":
                self._sent["max_completion_tokens"] = self.settings["max_tokens"]
            raise Again(message, 0.0)
        raise UserError(f"{message}; check --llm {self.identity} and OPENAI_BASE_URL")

    def _parsed(self, body: bytes) -> Answer:
        try:
            content = json.loads(body)
            choice = content["choices"][0]
            message, usage = choice["message"], content.get("usage") or {}
            text, finish = message.get("content"), str(choice.get("finish_reason") or "stop")
            if not isinstance(text, str | None):
                raise TypeError
            if message.get("refusal"):
                text, finish = text or str(message["refusal"]), "refusal"
            text = text and whole(text)
            tokens = [
                usage.get(name) if type(usage.get(name)) is int and usage[name] >= 0 else None
                for name in ("prompt_tokens", "completion_tokens")
            ]
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            began = self._clear(opening_of(body))
            raise Again(f"the model's server answers with something that is no chat completion: {began}") from None
        if text is None and finish not in ("content_filter", "refusal", "length"):
            raise Again("the model's server answers without a text")
        return Answer(text, finish, *tokens)

    def _answer(self, conversation: Conversation, stop: threading.Event) -> Answer:
        """One conversation's answer. Raises `OutOfTries`, `LimitReached` or `UserError`."""
        held = (self.count(conversation), self.settings["max_tokens"])

        def call() -> Answer:
            if stop.is_set():
                raise OutOfTries("stopped")
            self.spending.admit(*held)
            used = (0, 0)
            try:
                answer = self._once(conversation)
                guess = -(-len((answer.text or "").encode()) // 3)
                used = (
                    held[0] if answer.tokens_in is None else answer.tokens_in,
                    guess if answer.tokens_out is None else answer.tokens_out,
                )
                return replace(answer, tokens_in=used[0], tokens_out=used[1])
            finally:
                self.spending.settle(held, used)

        try:
            return persist(call, self.pace, self.patience, stop)
        except TooLarge:
            raise OutOfTries("the model's server: an answer larger than is read") from None

    def ask(self, conversations: Sequence[Conversation], deliver: Callable[[int, Answer], None]) -> None:
        """Answer the conversations from several threads. See `LanguageModel.ask`.

        Raises `UserError` or `LimitReached` where the run must end, `OutOfTries` after `STOPPED_AFTER` failures in a
        row.
        """
        stop, in_a_row, guard = threading.Event(), [0], threading.Lock()

        def one(number: int) -> None:
            if stop.is_set():
                return
            try:
                deliver(number, self._answer(conversations[number], stop))
                in_a_row[0] = 0
            except OutOfTries as error:
                if stop.is_set():
                    return
                with guard:
                    self.failure = str(error)
                    in_a_row[0] += 1
                    if in_a_row[0] < STOPPED_AFTER:
                        return
                stop.set()
                raise
            except BaseException:
                stop.set()
                raise

        with ThreadPoolExecutor(max(1, self.concurrency)) as pool:
            waiting = [pool.submit(one, number) for number in range(len(conversations))]
            try:
                wait(waiting)
            except BaseException:  # Ctrl-C: what is under way is still delivered
                stop.set()
                raise
        for error in filter(None, (future.exception() for future in waiting)):
            raise error
