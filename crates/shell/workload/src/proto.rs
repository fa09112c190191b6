//! The messages of the wire, generated from the files under `proto/`.

#![allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications, reason = "generated")]

/// The SPIFFE Workload API; its proto file has no package.
pub(crate) mod spiffe {
    include!(concat!(env!("OUT_DIR"), "/_.rs"));
}

pub(crate) mod google {
    pub(crate) mod rpc {
        include!(concat!(env!("OUT_DIR"), "/google.rpc.rs"));
    }
}

pub(crate) mod envoy {
    pub(crate) mod config {
        pub(crate) mod core {
            pub(crate) mod v3 {
                include!(concat!(env!("OUT_DIR"), "/envoy.config.core.v3.rs"));
            }
        }
    }
    pub(crate) mod extensions {
        pub(crate) mod transport_sockets {
            pub(crate) mod tls {
                pub(crate) mod v3 {
                    include!(concat!(env!("OUT_DIR"), "/envoy.extensions.transport_sockets.tls.v3.rs"));
                }
            }
        }
    }
    pub(crate) mod service {
        pub(crate) mod discovery {
            pub(crate) mod v3 {
                include!(concat!(env!("OUT_DIR"), "/envoy.service.discovery.v3.rs"));
            }
        }
        pub(crate) mod secret {
            pub(crate) mod v3 {
                include!(concat!(env!("OUT_DIR"), "/envoy.service.secret.v3.rs"));
            }
        }
    }
}
