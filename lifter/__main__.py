import sys

from lifter.cli import main

sys.exit(main())
