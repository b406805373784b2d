from typing import Any

from vbdev.core.admission import Admission

class Delivery(Admission):
    bdev: Any
