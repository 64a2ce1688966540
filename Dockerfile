# The inference container. Built by build.sh; exported for the platform by export.sh.
#
#   BASE_IMAGE              Debian with Python 3.11 as `python`: an official image or Debian's own Python
#   REQUIREMENTS            requirements.lock         torch 2.9.1, CUDA 12.8: NVIDIA driver 525 or newer
#                           requirements-cuda13.lock  torch 2.12.1, CUDA 13.0: NVIDIA driver 580 or newer
#   SURVFUSE_REQUIRE_MODEL  1: without a bundle at /opt/ml/model a job ends with an error, as a submission must
#   SURVFUSE_TIME_LIMIT     seconds that a job may take: the platform's limit, which containers are not told
#   SURVFUSE_HEATMAP        slug of an image output that a heat map is written to; none by default
#   SURVFUSE_UNUSABLE_SLIDE omit: a slide that cannot be read is left out, if the bundle was trained for that
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

# --- The environment: everything in it is hashed in a lock file, nothing is compiled from source. ---
FROM ${BASE_IMAGE} AS environment
LABEL survfuse.stage=build
ARG REQUIREMENTS=requirements.lock
COPY ${REQUIREMENTS} /opt/inventory/requirements.lock
# The base's pip installs into an environment without one, and then goes, be it Debian's or an official image's own.
# Headers, static libraries and type stubs serve only those who compile. Bytecode is checked by nothing at run time: in a
# read-only image it cannot go stale. torch's py312_* are tests in a newer Python's grammar.
RUN groupadd --gid 1000 user && useradd --uid 1000 --gid 1000 --no-log-init --create-home user \
    && python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python --no-cache-dir --disable-pip-version-check install --quiet \
        --require-hashes --no-deps --only-binary :all: --no-compile --root-user-action ignore -r /opt/inventory/requirements.lock \
    && dpkg --purge --force-depends python3-pip python3-setuptools python3-wheel 2>/dev/null \
    && if python -m pip --version >/dev/null 2>&1; then \
        python -m pip uninstall --yes --quiet --root-user-action ignore pip setuptools wheel; fi \
    && ! python -m pip --version 2>/dev/null \
    && find /opt/venv/lib -depth \( -path '*/torch/include' -o -path '*/nvidia/*/include' -o -path '*/torch/share' \
        -o -name '*.a' -o -name '*.pyi' \) -exec rm -rf {} + \
    && /opt/venv/bin/python -m compileall -q -j 0 -x /py312_ --invalidation-mode unchecked-hash /opt/venv/lib

# --- What the image is made of: a CycloneDX bill of materials and a table of licences. ---
FROM environment AS inventory
COPY requirements-sbom.lock /tmp/
RUN python -m venv /opt/tools \
    && /opt/tools/bin/python -m pip --no-cache-dir --disable-pip-version-check install --quiet \
        --require-hashes --no-deps --only-binary :all: -r /tmp/requirements-sbom.lock
COPY survfuse/container/inventory.py /tmp/
RUN /opt/tools/bin/cyclonedx-py environment --output-reproducible --of JSON -o /tmp/python.json /opt/venv/bin/python \
    && /opt/tools/bin/python /tmp/inventory.py /tmp/python.json /opt/venv /opt/inventory

# --- The code, readable by everyone whatever its modes were outside. ---
FROM ${BASE_IMAGE} AS application
LABEL survfuse.stage=build
COPY resources /opt/app/resources
COPY inference.py /opt/app/
COPY survfuse /opt/app/survfuse
RUN chmod -R u=rwX,go=rX /opt/app && python -m compileall -q --invalidation-mode unchecked-hash /opt/app

# --- The image. ---
FROM environment
LABEL survfuse.stage=image
COPY --from=inventory /opt/inventory /opt/inventory
COPY --from=application /opt/app /opt/app
WORKDIR /opt/app
USER user
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# What NVIDIA's runtime and enroot read to give the container GPUs; nothing else does.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ARG SURVFUSE_REQUIRE_MODEL=
ARG SURVFUSE_TIME_LIMIT=
ARG SURVFUSE_UNUSABLE_SLIDE=
ARG SURVFUSE_HEATMAP=
ARG VERSION=
ARG REVISION=
# podman before 5 looks for a cached ENV or LABEL by its text, whatever its arguments are now, but for a RUN with them.
RUN : "${SURVFUSE_REQUIRE_MODEL} ${SURVFUSE_TIME_LIMIT} ${SURVFUSE_UNUSABLE_SLIDE} ${SURVFUSE_HEATMAP} ${VERSION} ${REVISION}"
ENV SURVFUSE_REQUIRE_MODEL=${SURVFUSE_REQUIRE_MODEL} SURVFUSE_TIME_LIMIT=${SURVFUSE_TIME_LIMIT} \
    SURVFUSE_UNUSABLE_SLIDE=${SURVFUSE_UNUSABLE_SLIDE} SURVFUSE_HEATMAP=${SURVFUSE_HEATMAP}
LABEL org.opencontainers.image.title=survfuse \
    org.opencontainers.image.description="Months to recurrence from a slide, bulk expression and clinical variables" \
    org.opencontainers.image.licenses=Apache-2.0 \
    org.opencontainers.image.version=${VERSION} \
    org.opencontainers.image.revision=${REVISION}
ENTRYPOINT ["/opt/venv/bin/python", "/opt/app/inference.py"]
