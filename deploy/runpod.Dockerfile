# RunPod's serverless worker. The weights are on a network volume, not in the image: docs/deploy.md.
FROM python:3.11-slim

# libgomp is what torch and numba need of the system, and a C compiler is what Triton builds its launcher with;
# everything else comes with the packages.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev libgomp1 && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY requirements.txt requirements-deploy.txt ./
RUN pip install --no-cache-dir -r requirements-deploy.txt
COPY . .

ENV MODEL_PATH=/runpod-volume/weights \
    MULTITALK_WEIGHTS_SOURCES=none \
    MULTITALK_LOG=json \
    RUNPOD_DEBUG_LEVEL=INFO \
    MALLOC_ARENA_MAX=1
CMD ["python", "-u", "-m", "deploy.runpod_handler"]
