"""`python -m deploy.runpod_worker`: the worker that RunPod starts; `--rp_serve_api` serves it locally."""

from deploy.runpod_worker.handler import main

if __name__ == "__main__":
    main()
