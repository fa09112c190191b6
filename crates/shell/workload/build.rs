//! Compiles the interface files without protoc.

use std::error::Error;

const SERVED: [&str; 3] = [
    "spiffe/workload.proto",
    "envoy/service/secret/v3/sds.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
];
const SPIRE: [&str; 6] = [
    "spire/api/server/entry/v1/entry.proto",
    "spire/api/server/bundle/v1/bundle.proto",
    "spire/api/server/agent/v1/agent.proto",
    "spire/api/server/trustdomain/v1/trustdomain.proto",
    "spire/api/server/localauthority/v1/localauthority.proto",
    "grpc/health/v1/health.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for files in [&SERVED[..], &SPIRE[..]] {
        let descriptors = protox::compile(files, ["proto"])?;
        tonic_prost_build::configure()
            .build_transport(false)
            // Maps in order: equal states are then equal bytes, and a push can be compared with the one before.
            .btree_map(".")
            .compile_fds(descriptors)?;
    }
    println!("cargo::rerun-if-changed=proto");
    Ok(())
}
