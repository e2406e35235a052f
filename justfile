# Recipes for https://just.systems; each is a line that can be typed as well.

# List the recipes.
default:
    @just --list

# Format, lints, docs and tests: what continuous integration runs.
ci:
    .ci/run

# The compiler's errors, fast.
check:
    cargo check --workspace --all-targets --locked

# Every kind of test, in some minutes.
test *ARGS:
    scripts/test {{ARGS}}

# Every case checked and unchecked in every layout, every mutation in every layout.
conformance *FILTER:
    scripts/conformance {{FILTER}}

# The table of docs/conformance.md, on every driver that is named.
conformance-table OUT *DRIVERS:
    scripts/conformance-table {{OUT}} {{DRIVERS}}

# Format and clippy.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings

# The crate for Burn: lints, tests with fusion and without.
burn *NAMES:
    scripts/check-burn {{NAMES}}

# The crate for sequences on several machines: lints, tests with mpirun, the example.
mpi *NAMES:
    scripts/check-mpi {{NAMES}}

# The documentation, as docs.rs would have it but for its nightly compiler.
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --all-features

# The page: build, serve, test or screenshots.
web *ARGS:
    scripts/web {{ARGS}}

# The harness on the WebGPU of a browser, without one.
dawn *FILTER:
    scripts/check-dawn {{FILTER}}

# Every shader through the compilers of GPUs that are not there.
gpu-compilers *ARGS:
    scripts/check-gpu-compilers {{ARGS}}

# Licences and advisories of the dependencies.
deny:
    scripts/check-extra deny

# The oldest Rust that the crate promises.
msrv:
    scripts/check-extra msrv

# Each combination of features, and wasm32.
features:
    scripts/check-extra features web

# The fuzz targets compile.
fuzz-build:
    scripts/check-extra fuzz

# Each fuzz target for some seconds, from the corpus that is kept.
fuzz *ARGS:
    scripts/fuzz {{ARGS}}

# All checks for which a machine may lack a tool.
extra:
    scripts/check-extra

# The shapes of docs/performance.md on this machine's adapter.
bench *ARGS:
    cargo bench --locked --bench gpu -- {{ARGS}}

# Accepts the snapshots as they are now; look at the difference before committing it.
snapshots:
    INSTA_UPDATE=always cargo test --locked --test api
