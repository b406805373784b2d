from typing import final

@final
class NbdSender: ...
