# One image for every node: `docker build --build-arg REVISION=$(git rev-parse HEAD) --tag gary .`
#
# torch's wheels carry CUDA themselves, so a slim base serves; the host brings the driver (nvidia-container-toolkit). The
# base is pinned by version. A digest is better: `docker buildx imagetools inspect python:3.11.14-slim-bookworm` says it,
# and then this line reads python:3.11.14-slim-bookworm@sha256:...
#
# The root file system may be read-only. What must be writable: /tmp (Ray's session and sockets, downloads, ffmpeg's
# files), /data (weights, what numba compiles) and /dev/shm (Ray's object store).
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# Debian keeps no old versions, so a pinned one cannot be installed after its next security update.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY requirements.lock requirements-prod.lock pyproject.toml README.md LICENSE ./
COPY scripts/install scripts/web scripts/
COPY gary gary
COPY deployments deployments
RUN scripts/install --no-dev && rm -rf .tools gary/api/web/node_modules

FROM ${PYTHON_IMAGE} AS service
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="gary" \
      org.opencontainers.image.description="Continues music with MusicGen, on Ray Serve" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11.14-slim-bookworm"

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ffmpeg libgomp1 procps wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin gary \
    && install --directory --owner=10001 --group=10001 /data /tmp/ray

WORKDIR /app
# Owned by root: the service cannot change its own code. dpkg's list, the packages' metadata in .venv and the lock beside
# it are what a scanner makes an SBOM of.
COPY --from=build /app /app
COPY serve_config.yaml ./
COPY scripts/drain-node scripts/drain-node

ENV PATH=/app/.venv/bin:$PATH \
    HOME=/tmp \
    HF_HOME=/data/hub \
    NUMBA_CACHE_DIR=/data/numba \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_SERVE_LOG_TO_STDERR=0 \
    RAY_SERVE_ENABLE_HA_PROXY=1 \
    MALLOC_ARENA_MAX=2
VOLUME ["/data", "/tmp/ray"]
EXPOSE 8000
USER 10001:10001

# Ray, the models and their first forward pass take a while; live means that all of them answer.
HEALTHCHECK --interval=15s --timeout=10s --start-period=600s --retries=3 \
    CMD ["wget", "--quiet", "--timeout=8", "--tries=1", "--output-document=/dev/null", "http://127.0.0.1:8000/health"]

# One container is a whole cluster of one node; for many nodes see cluster.yaml and deploy/kuberay.
CMD ["serve", "run", "--address", "local", "serve_config.yaml"]
