from typing import Any

from vbdev.core.engine.admission import Admission

class Delivery(Admission):
    bdev: Any
