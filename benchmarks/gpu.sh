#!/usr/bin/env bash
# The GPU tests and benchmarks.gpu on a machine with a GPU, Python 3.12 and torch 2.11, and neither a network nor anything else.
#   benchmarks/gpu.sh pack            where there is a network: what is missing there, as wheels, into .gpu (git-ignored)
#   benchmarks/gpu.sh run [options]   there: tests/gpu, then the benchmark, whose options these are
#   benchmarks/gpu.sh python ...      there: Python with those wheels, for whatever else (scripts/train gpu)
# PYTHON names the interpreter that holds torch (python3); PACK_FOR the version that is packed for (3.12).
set -euo pipefail
cd "$(dirname "$0")/.."
limit_mb=64
python=${PYTHON:-python3}

# What audiocraft, transformers, gary.engine, the training and the tests import, beside torch and what torch itself brings along.
names="annotated-types antlr4-python3-runtime audiocraft audioread certifi cffi charset-normalizer cloudpickle colorlog
    docopt decorator dora-search einops encodec flashy huggingface-hub hydra-colorlog hydra-core idna iniconfig
    julius librosa lightning-utilities num2words numpy omegaconf packaging platformdirs pluggy pooch protobuf psutil
    pycparser pydantic pydantic-core pygments pytest pytest-asyncio pytest-timeout pyyaml regex requests retrying
    safetensors sentencepiece soundfile soxr submitit tokenizers torchaudio torchmetrics tqdm transformers treetable
    typing-inspection urllib3 xformers"
# Imported by audiocraft's files and used by nothing that runs here, and too large to carry.
unused="av spacy"

pack() {
    local python=${PYTHON:-.venv/bin/python} version=${PACK_FOR:-3.12} platforms=() name pinned
    for tag in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux2010 manylinux1; do
        platforms+=(--platform "${tag}_x86_64")
    done
    rm -rf .gpu/wheels
    mkdir -p .gpu/wheels
    for name in $names; do
        pinned=$(grep -E "^$name==" requirements.lock | head -n 1 | sed 's/ *;.*//') || { echo "gpu.sh: $name is not locked" >&2; exit 1; }
        # What is published as source alone is pure Python: a wheel made of it by this Python fits any.
        "$python" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version "$version" \
            "${platforms[@]}" --dest .gpu/wheels "$pinned" 2>.gpu/pip.log ||
            "$python" -m pip wheel --quiet --no-deps --wheel-dir .gpu/wheels "$pinned" 2>>.gpu/pip.log ||
            { cat .gpu/pip.log >&2; exit 1; }
    done
    local mb
    mb=$(du -sm .gpu/wheels | cut -f1)
    echo "gpu.sh: $(find .gpu/wheels -name '*.whl' | wc -l) wheels, $mb MiB in .gpu/wheels" >&2
    [ "$mb" -le "$limit_mb" ] || { echo "gpu.sh: more than $limit_mb MiB" >&2; exit 1; }
}

prepare() {
    local name
    site=$(mktemp -d) # not below .gpu: what was carried stays as it came
    trap 'rm -rf "$site"' EXIT
    "$python" - "$site" .gpu/wheels/*.whl <<'PYTHON'
import sys
import zipfile

site, *wheels = sys.argv[1:]
for wheel in wheels:  # a wheel is an archive of what lies in site-packages; none of these has more
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
PYTHON
    export PYTHONPATH=$site PYTHONDONTWRITEBYTECODE=1
    for name in $unused; do
        "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$name') is None)" && continue
        mkdir "$site/$name"
        touch "$site/$name/__init__.py"
    done
}

run() {
    local began=$SECONDS
    prepare
    "$python" -m gary.engine.tiny .models
    echo "gpu.sh: ready after $((SECONDS - began)) s" >&2
    # Only the plugins that were carried: those of the machine are made for its own pytest.
    PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 "$python" -m pytest -p pytest_asyncio.plugin -p pytest_timeout -p no:cacheprovider tests/gpu
    "$python" -m benchmarks.gpu "$@"
}

case "${1:-}" in
    pack) pack ;;
    run) shift; run "$@" ;;
    python) shift; prepare; "$python" "$@" ;;
    *) sed -n '2,6s/^# //p' "$0" >&2; exit 2 ;;
esac
