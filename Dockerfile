# Tapebay in a container: unprivileged, no kernel module, one process.
#
#   docker build -t tapebay .
#   docker run -d --name tapebay -p 3260:3260 -e TAPEBAY_ADVERTISE=HOST-ADDRESS:3260 -v tapebay:/var/lib/tapebay tapebay
#
# docs/operating.md says more.

FROM debian:bookworm-slim AS build
RUN apt-get update \
	&& apt-get install -y --no-install-recommends gcc libc6-dev python3-dev python3-venv \
	&& rm -rf /var/lib/apt/lists/*
COPY . /source
RUN python3 -m venv /opt/tapebay \
	&& /opt/tapebay/bin/pip install --no-cache-dir --disable-pip-version-check "/source[agent]" \
	&& /opt/tapebay/bin/pip uninstall --yes --quiet pip setuptools

FROM debian:bookworm-slim
RUN apt-get update \
	&& apt-get install -y --no-install-recommends python3 libiscsi7 e2fsprogs \
	&& rm -rf /var/lib/apt/lists/* \
	&& groupadd --system --gid 3260 tapebay \
	&& useradd --system --uid 3260 --gid 3260 --home-dir /var/lib/tapebay --shell /usr/sbin/nologin tapebay \
	&& install -d -o tapebay -g root -m 0770 /var/lib/tapebay
COPY --from=build /opt/tapebay /opt/tapebay
ENV PATH=/opt/tapebay/bin:$PATH \
	PYTHONUNBUFFERED=1 \
	TAPEBAY_CONFIG=/var/lib/tapebay/tapebay.toml
# The group of a user whom the platform chooses is root's (OpenShift); with another user, give it a directory of its own.
USER 3260:3260
VOLUME /var/lib/tapebay
EXPOSE 3260
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s CMD ["tapebay", "health"]
ENTRYPOINT ["tapebay"]
CMD ["serve", "--init", "--apply"]
