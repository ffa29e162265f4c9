"""`carpus intake` without the networks that look for text in the pixels: the load of a hospital on a machine of two cores.

`python -m tests.integration.text_keeping_intake --config FILE`
"""

import sys
from unittest.mock import patch

from service.__main__ import main as carpus


def main() -> None:
    sys.argv[1:1] = ["intake"]
    with patch("service.pipeline.clean_instance", lambda _copy, _source: None):
        carpus()


if __name__ == "__main__":
    main()
