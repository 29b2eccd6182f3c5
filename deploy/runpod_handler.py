"""Alias of `python -m deploy.runpod_worker`."""

from deploy.runpod_worker.handler import main

if __name__ == "__main__":
    main()
