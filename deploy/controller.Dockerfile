# The image of the controller: what moves traffic, runs pods and tells Envoys. Neither Airflow nor MLflow.
#   docker build --file deploy/controller.Dockerfile --tag slipway-controller .
# BASE: another image with Python 3.11 to 3.13, such as a mirror's or your company's.
ARG BASE=python:3.12-slim

FROM ${BASE} AS whole
ARG VERSION=unreleased
COPY deploy/controller/requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --require-hashes --no-compile --target /opt/packages --requirement /tmp/requirements.txt \
 && find /opt/packages -type d \( -name tests -o -name __pycache__ \) -prune -exec rm -rf {} +
COPY deploy/sbom.py /tmp/sbom.py
RUN mkdir /opt/slipway && python /tmp/sbom.py slipway-controller "${VERSION}" /opt/packages > /opt/slipway/sbom.cdx.json
COPY pyproject.toml /opt/slipway/pyproject.toml
COPY model_store /opt/slipway/model_store
COPY serving /opt/slipway/serving
# Nobody may write here later, and every start would compile it all again.
RUN python -m compileall -q /opt && PYTHONPATH=/opt/slipway:/opt/packages python -c 'import serving.controller, kubernetes, grpc, model_store.stages.sample'

FROM ${BASE}
COPY --from=whole /opt /opt
ARG VERSION=unreleased
# /opt/slipway/sbom.cdx.json says what is in it.
LABEL org.opencontainers.image.title="slipway-controller" \
      org.opencontainers.image.description="Moves the traffic of a Slipway installation" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
WORKDIR /opt/slipway
ENV PYTHONPATH=/opt/slipway:/opt/packages \
    PYTHONUNBUFFERED=1 \
    SLIPWAY_HOME=/var/lib/slipway \
    SLIPWAY_GATEWAY_DELIVERY=ads
# A number: `runAsNonRoot` cannot look up a name.
USER 10001:10001
EXPOSE 8484 8486
ENTRYPOINT ["python", "-m", "serving.controller"]
