from collections.abc import Callable
from typing import Any

from typing_extensions import Buffer

from vbdev.core.engine import Channel, Engine, IoOwner

class NbdStream(IoOwner):
