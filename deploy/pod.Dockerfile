# The image of a pod: the server, and what fetches its bundle. Neither Airflow nor anything that builds versions.
#   docker build --file deploy/pod.Dockerfile --tag slipway-pod .
# BASE: another image with Python 3.11 to 3.13, such as a mirror's or your company's.
# REQUIREMENTS=requirements-gpu.txt: for pods on NVIDIA's GPUs (docs/gpu.md).
# --target lean: without PyArrow, which only pods that write down requests need (`request_log`), 150 MB less.
ARG BASE=python:3.12-slim

FROM ${BASE} AS whole
ARG VERSION=unreleased
ARG REQUIREMENTS=requirements.txt
COPY serving/pod/${REQUIREMENTS} /tmp/requirements.txt
RUN pip install --no-cache-dir --require-hashes --no-compile --target /opt/packages --requirement /tmp/requirements.txt
# Of PyArrow a pod uses tables and Parquet alone (`serving.pod.recording`); sources and tests are for who changes
# them. onnxruntime's library is there twice: Python uses the one in its own module. What makes a system (pip, apt,
# perl, manuals) goes too: the next stage starts from what is left, and nobody installs anything in a pod. dpkg's list
# stays, by which scanners know what the libraries are.
RUN cd /opt/packages \
 && rm -rf bin pyarrow/include pyarrow/src pyarrow/tests pyarrow/libarrow_flight* pyarrow/_flight* \
      pyarrow/libarrow_python*.so pyarrow/libarrow_python*.so.*.*.* \
      onnxruntime/transformers onnxruntime/tools onnxruntime/quantization onnxruntime/datasets \
      onnxruntime/capi/libonnxruntime.so.* \
 && find . -type d \( -name tests -o -name __pycache__ \) -prune -exec rm -rf {} + \
 && find . -type f \( -name '*.c' -o -name '*.pyx' -o -name '*.pxi' -o -name '*.h' \) -delete \
 && rm -rf /tmp/* /root/.cache /var/lib/apt/lists/* /var/cache/* /usr/share/doc /usr/share/man /usr/share/locale \
      /usr/share/info /usr/share/perl* /usr/local/include /usr/local/lib/python3*/site-packages/pip* \
      /usr/local/bin/pip* /usr/bin/perl* /usr/bin/apt* /usr/bin/sqv /usr/bin/openssl /usr/bin/localedef /usr/lib/apt /usr/lib/*/perl* \
      /usr/lib/*/gconv /usr/lib/*/libapt* \
 && cd /usr/local/lib/python3* \
 && rm -rf ensurepip idlelib lib2to3 pydoc_data tkinter turtledemo lib-dynload/_test* lib-dynload/_ctypes_test*
COPY deploy/sbom.py /tmp/sbom.py
RUN mkdir /opt/slipway && python /tmp/sbom.py slipway-pod "${VERSION}" /opt/packages > /opt/slipway/sbom.cdx.json
COPY model_store /opt/slipway/model_store
COPY serving/__init__.py /opt/slipway/serving/__init__.py
COPY serving/pod /opt/slipway/serving/pod
RUN printf '#!/bin/sh\nexec python -m model_store.storage fetch "$@"\n' > /usr/local/bin/fetch-bundle \
 && chmod 755 /usr/local/bin/fetch-bundle
# Nobody may write here later, and every start would compile it all again.
RUN python -m compileall -q /opt && PYTHONPATH=/opt/slipway:/opt/packages python -c 'import pyarrow.parquet, serving.pod.pod'

FROM whole AS with-recording
RUN mkdir -p /with/opt/packages /with/opt/slipway \
 && cp -a /opt/packages/pyarrow /opt/packages/pyarrow-*.dist-info /with/opt/packages \
 && cp -a /opt/slipway/sbom.cdx.json /with/opt/slipway

FROM whole AS without-recording
ARG VERSION=unreleased
RUN rm -rf /opt/packages/pyarrow /opt/packages/pyarrow-*.dist-info \
 && PYTHONDONTWRITEBYTECODE=1 python /tmp/sbom.py slipway-pod "${VERSION}" /opt/packages > /opt/slipway/sbom.cdx.json \
 && rm /tmp/sbom.py && PYTHONPATH=/opt/slipway:/opt/packages python -c 'import serving.pod.pod'

FROM scratch AS lean
COPY --from=without-recording / /
ARG VERSION=unreleased
# /opt/slipway/sbom.cdx.json says what is in it.
LABEL org.opencontainers.image.title="slipway-pod" \
      org.opencontainers.image.description="Serves a Slipway bundle by the Open Inference Protocol" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
WORKDIR /opt/slipway
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONPATH=/opt/slipway:/opt/packages \
    PYTHONUNBUFFERED=1
# A number: `runAsNonRoot` cannot look up a name.
USER 10001:10001
EXPOSE 8080
ENTRYPOINT ["python", "-m", "serving.pod"]

FROM lean
COPY --from=with-recording /with /
