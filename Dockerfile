# The engine with the local agent. Asterisk is not in it: it runs elsewhere (see docker-compose.yml).
FROM python:3.13-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY requirements/run.lock requirements/
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --require-hashes -r requirements/run.lock
COPY pyproject.toml README.md ./
COPY src src
RUN /venv/bin/pip install --no-cache-dir --no-deps .

FROM python:3.13-slim
RUN apt-get update && apt-get install -y --no-install-recommends flite && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home --home-dir /app engine
COPY --from=build /venv /venv
WORKDIR /app
COPY config config
RUN mkdir -p var && chown engine var
USER engine
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
HEALTHCHECK --interval=10s --timeout=3s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/ready')"]
CMD ["voice-engine", "run", "--config", "config/ai-agent.yaml"]
