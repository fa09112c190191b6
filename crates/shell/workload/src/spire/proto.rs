//! The messages of a SPIRE server's administration, generated from the files under `proto/`.

#![allow(
    missing_docs,
    dead_code,
    clippy::all,
    clippy::pedantic,
    unused_qualifications,
    reason = "generated; the servers among it are for tests"
)]

pub(crate) mod spire {
    pub(crate) mod api {
        pub(crate) mod types {
            include!(concat!(env!("OUT_DIR"), "/spire.api.types.rs"));
        }
        pub(crate) mod server {
            pub(crate) mod entry {
                pub(crate) mod v1 {
                    include!(concat!(env!("OUT_DIR"), "/spire.api.server.entry.v1.rs"));
                }
            }
            pub(crate) mod bundle {
                pub(crate) mod v1 {
                    include!(concat!(env!("OUT_DIR"), "/spire.api.server.bundle.v1.rs"));
                }
            }
            pub(crate) mod agent {
                pub(crate) mod v1 {
                    include!(concat!(env!("OUT_DIR"), "/spire.api.server.agent.v1.rs"));
                }
            }
            pub(crate) mod trustdomain {
                pub(crate) mod v1 {
                    include!(concat!(env!("OUT_DIR"), "/spire.api.server.trustdomain.v1.rs"));
                }
            }
            pub(crate) mod localauthority {
                pub(crate) mod v1 {
                    include!(concat!(env!("OUT_DIR"), "/spire.api.server.localauthority.v1.rs"));
                }
            }
        }
    }
}

pub(crate) mod grpc {
    pub(crate) mod health {
        pub(crate) mod v1 {
            include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
        }
    }
}

pub(crate) use spire::api::server::{agent, bundle, entry, localauthority, trustdomain};
pub(crate) use spire::api::types;
