"""`python -m deploy.runpod_worker`: the worker that RunPod starts."""

from deploy.runpod_worker.handler import main

if __name__ == "__main__":
    main()
