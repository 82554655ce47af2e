"""tmp"""

from __future__ import annotations

from typing import Final

COMMAND: Final = ("-m", "aded_local.drafting.ahead")
if __name__ == "__main__":
    from aded_local.drafting import make_drafter, topk

    make_drafter("auto", n_vocab=49152)
    topk.warm_up()
