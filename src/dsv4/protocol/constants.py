"""The wire strings of constants.json under names, and the two revisions of the effort prefixes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

Revision = Literal["2026-04", "2026-07"]
ThinkingMode = Literal["chat", "thinking"]

_DATA: dict[str, Any] = json.loads(
    Path(__file__).with_name("constants.json").read_text(encoding="utf-8")
)
BOS: str = _DATA["bos"]
EOS: str = _DATA["eos"]
USER: str = _DATA["user"]
ASSISTANT: str = _DATA["assistant"]
LATEST_REMINDER: str = _DATA["latest_reminder"]
THINK: str = _DATA["think"]
END_THINK: str = _DATA["end_think"]
DSML: str = _DATA["dsml"]
TASKS: dict[str, str] = _DATA["tasks"]
EXTRACTED_URL: str = _DATA["extracted_url"]
TOOLS_BEGIN, TOOLS_END = _DATA["tools"].split("{schemas}")
RESPONSE_FORMAT: str = _DATA["response_format"].removesuffix("{schema}")
JSON_OBJECT: str = _DATA["json_object"]
UNSUPPORTED: dict[str, str] = _DATA["unsupported"]
SYSTEM_REMINDER: str = _DATA["system_reminder"]

CONTROL = (
    *(BOS, EOS, USER, ASSISTANT, LATEST_REMINDER, THINK, END_THINK, DSML, EXTRACTED_URL),
    *TASKS.values(),
)
CONTROL_RE = re.compile("(" + "|".join(map(re.escape, CONTROL)) + ")")

_MAX, _BEYOND_MAX = _DATA["max_effort"], _DATA["beyond_max_effort"]
EFFORT_PREFIXES: dict[str, dict[str | None, str]] = {
    "2026-04": {None: "", "high": "", "max": _MAX},
    "2026-07": {None: "", "low": "", "high": _MAX, "max": _BEYOND_MAX},
}
