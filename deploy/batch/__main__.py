"""`python -m deploy.batch`: many requests on many GPUs."""

import sys

from deploy.batch.driver import main

if __name__ == "__main__":
    sys.exit(main())
