"""What the server says on standard error, as text for people or as JSON for machines."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from bosal_server.call import current_call
from bosal_server.config import LogFormat, LogLevel

_PARTS = ("bosal_server", "bosal_decoding", "bosal_kernels")
# What every record has; the rest was given as `extra`.
_STANDARD = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"))


def set_up(level: LogLevel, form: LogFormat) -> None:
    """Log this project's messages from a level on, and everybody's warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_note_request)
    handler.setFormatter(
        JsonFormatter()
        if form is LogFormat.JSON
        else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(handlers=[handler])
    for part in _PARTS:
        logging.getLogger(part).setLevel(level)


def _note_request(record: logging.LogRecord) -> bool:
    """Give a line the id of the request it is about, unless its writer did."""
    call = current_call.get()
    if call is not None and not hasattr(record, "request_id"):
        record.request_id = call.request_id
    return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and what was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, ensure_ascii=False)
