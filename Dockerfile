# "slim" has all that the build needs: the C compiler and the static libc for the bundled SQLite and
# crt-static. No rust-toolchain.toml is copied: the tag says the version, and rustup would download
# whatever else such a file asks for.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# As `make static` does it: no shared library is left to look for at run time.
ENV RUSTFLAGS="-C target-feature=+crt-static"

# Dependencies in a layer of their own, rebuilt only when Cargo.lock or Cargo.toml changes.
# Empty files stand in for every target that Cargo.toml names. The explicit --target keeps
# RUSTFLAGS away from proc macros, which cannot be static.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
RUN mkdir -p src tests/it tests/bench \
    && echo 'fn main() {}' > src/main.rs \
    && cp src/main.rs tests/it/main.rs \
    && cp src/main.rs tests/it/hostile.rs \
    && cp src/main.rs tests/bench/bare.rs \
    && touch src/lib.rs \
    && cargo build --release --locked --target "$(rustc -vV | sed -n 's/^host: //p')"

# COPY keeps the files' dates and cargo goes by dates: without the touch it would take the empty
# program above for the current one.
COPY src src
COPY assets assets
RUN touch src/lib.rs src/main.rs \
    && target="$(rustc -vV | sed -n 's/^host: //p')" \
    && cargo build --release --locked --target "$target" \
    && install -D "target/$target/release/mailslot" /image/mailslot \
    && install -d -o 65532 -g 65532 /image/data

# Nothing but the program and its data folder: no shell, no libc, no package to update.
FROM scratch
COPY --from=build /image/mailslot /mailslot
# A new volume takes over the owner of the folder that it is mounted on.
COPY --from=build --chown=65532:65532 /image/data /data
VOLUME /data
# Here a relative DATABASE_URL is on the volume too, and SQLite, which finds no /tmp, falls back to
# the working directory for its temporary files.
WORKDIR /data
# Numeric, because there is no /etc/passwd to look a name up in.
USER 65532:65532
ENV DATABASE_URL=sqlite:////data/app.db LISTEN=0.0.0.0:8000
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["/mailslot", "healthcheck"]
ENTRYPOINT ["/mailslot"]
