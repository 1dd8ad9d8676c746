"""What users wrote, in the log of an operator who asked for it."""

import json
import logging
from collections.abc import Sequence

from bosal_decoding.scaffolds import Message

log = logging.getLogger(__name__)


def log_prompt(request_id: str, messages: Sequence[Message]) -> None:
    """Log the messages of a request that was accepted."""
    prompt = [{"role": message.role, "text": message.text} for message in messages]
    text = json.dumps(prompt, ensure_ascii=False)
    fields = {"request_id": request_id, "prompt": prompt}
    log.info("request %r asks %s", request_id, text, extra=fields)
