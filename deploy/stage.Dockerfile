# The image of a stage of a build (docs/storage.md): what exports, quantizes, compiles and judges a version in a pod of
# its own. Neither Airflow nor MLflow, and no way to either.
#   docker build --file deploy/stage.Dockerfile --tag slipway-stage .
# BASE: another image with Python 3.11 to 3.13, such as a mirror's or your company's. Custom metrics that import a
# package of yours: an image FROM this one, named in `build.kubernetes.image`.
ARG BASE=python:3.12-slim
FROM ${BASE}
ARG VERSION=unreleased
LABEL org.opencontainers.image.title="slipway-stage" \
      org.opencontainers.image.description="One stage of a Slipway build: JSON in, JSON out" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"

# Before the code, so that a change of code does not install everything again.
COPY deploy/stage/requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --require-hashes --requirement /tmp/requirements.txt
COPY model_store /opt/slipway/model_store
COPY serving /opt/slipway/serving
# Nobody may write here later, and every start would compile it all again.
RUN python -m compileall -q /opt/slipway && install -d -o 10001 -g 10001 /var/lib/slipway
WORKDIR /tmp
ENV PYTHONPATH=/opt/slipway \
    PYTHONUNBUFFERED=1 \
    SLIPWAY_HOME=/var/lib/slipway
# A number: `runAsNonRoot` cannot look up a name.
USER 10001:10001
ENTRYPOINT ["python", "-m", "serving.cli", "stage"]
