# torch's wheels carry CUDA themselves, so a slim base serves; the host brings the driver (nvidia-container-toolkit).
# The steps are the scripts that a laptop and CI run.
FROM python:3.11.14-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends ffmpeg libgomp1 procps \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 gary \
    && install --directory --owner=gary --group=gary /app /data

USER gary
WORKDIR /app
# First what the packages follow from, so that a change of code does not install them again.
COPY --chown=gary:gary requirements.lock pyproject.toml README.md LICENSE ./
COPY --chown=gary:gary scripts/install scripts/install
COPY --chown=gary:gary gary gary
COPY --chown=gary:gary deployments deployments
RUN scripts/install
COPY --chown=gary:gary . .

ENV PATH=/app/.venv/bin:$PATH \
    HF_HOME=/data/hub \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_SERVE_LOG_TO_STDERR=0 \
    MALLOC_ARENA_MAX=2
VOLUME /data
EXPOSE 8000

# Ray, the models and their first forward pass take a while; live means that all of them answer.
HEALTHCHECK --interval=15s --timeout=10s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=8)"]

# One container is a whole cluster of one node; for many nodes see cluster.yaml.
CMD ["serve", "run", "--address", "local", "serve_config.yaml"]
