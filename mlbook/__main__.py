import sys

from mlbook.cli import main

sys.exit(main())
