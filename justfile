# `just check` changes nothing and says whether all is well; `just fix` mends what a tool can mend.

check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    cargo test --workspace --locked

fix:
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
    cargo fmt --all

demo:
    cargo run --release -- demo

# Needs root: real nodes in network namespaces.
netns:
    cargo build --release
    tests/netns/diamond.py target/release/x0t
    tests/netns/flood.py target/release/x0t

# Whether the data plane costs more than the baseline says.
bench:
    cargo run --release -- bench dataplane --baseline crates/bench/baseline.json
    cargo run --release -- bench identity --baseline crates/bench/identity.json

# Seconds per target; needs cargo-fuzz.
fuzz seconds="30":
    fuzz/run.sh {{ seconds }}
