from typing import final

@final
class NbdReplies: ...
