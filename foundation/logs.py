"""Logs as lines of JSON on request (`--json-log`, MEL_JSON_LOG=1): one object a line on stderr. Results stay on stdout
as they are."""

import contextlib
import json
import logging
import os
import sys
import traceback
from datetime import UTC, datetime
from typing import IO, Any

WANTED = "MEL_JSON_LOG"


def wanted() -> bool:
    """Whether logs are JSON lines; child processes inherit the setting."""
    return os.environ.get(WANTED, "").lower() not in ("", "0", "false", "no")


def _to_stderr(line: str) -> None:
    """Print a line on stderr at once; it is dropped where stderr is closed or cannot be written (a full disk)."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)


def emit(event: str, level: str = "info", **more: Any) -> None:
    """Print one JSON line if logs are JSON: time (UTC), level, event and further fields."""
    if wanted():
        record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "event": event, **more}
        _to_stderr(json.dumps(record, ensure_ascii=False, default=str))


def say(text: str) -> None:
    """Print a result to stdout at once. If its reader has closed the pipe (`… | head`), the rest is dropped and the
    work continues; also where stdout cannot be written (a full disk), which is said on stderr. Characters
    that stdout cannot encode are escaped."""
    try:
        try:
            print(text, flush=True)
        except UnicodeEncodeError as error:
            print(text.encode(error.encoding, "backslashreplace").decode(error.encoding), flush=True)
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            complaint = f"cannot write to stdout: {error.strerror}; the command goes on without it"
            if wanted():
                emit("error", "error", message=complaint)
            else:
                _to_stderr(f"error: {complaint}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def notice(text: str, event: str = "notice") -> None:
    """One line beside the results, on stderr, above a progress bar that is drawn there. It is dropped where stderr is
    closed or cannot be written."""
    if wanted():
        emit(event, "warning", message=text)
    elif sys.stderr is not None:
        from tqdm import tqdm

        with contextlib.suppress(OSError):
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()


class Lines(logging.Handler):
    """Python's log records as lines of JSON."""

    def emit(self, record: logging.LogRecord) -> None:
        more = (
            {"traceback": "".join(traceback.format_exception(*record.exc_info))}
            if record.exc_info and record.exc_info[1]
            else {}
        )
        emit("log", record.levelname.lower(), logger=record.name, message=record.getMessage(), **more)


def take_over() -> None:
    """Replace the handlers of luigi's and Python's loggers."""
    lines = Lines(logging.getLogger("luigi").level)
    for name in ("", "luigi", "luigi-interface"):
        logger = logging.getLogger(name)
        for handler in [handler for handler in logger.handlers if not isinstance(handler, Lines)]:
            lines.filters = [*lines.filters, *handler.filters]
            logger.removeHandler(handler)
    root = logging.getLogger()
    if not any(isinstance(handler, Lines) for handler in root.handlers):
        root.addHandler(lines)
    logging.captureWarnings(True)


def relay(stream: IO[str], source: str) -> None:
    """Relay another process's stderr line by line: JSON lines unchanged, other text wrapped in one."""
    for line in stream:
        line = line.rstrip("\n")
        if line.startswith('{"time"'):
            _to_stderr(line)
        elif line.strip():
            emit("output", source=source, message=line)
